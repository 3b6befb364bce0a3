"""What a damaged file is made of. Plain data, so that a case that fails can be copied into a test as it is printed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

FORMS = ("safetensors", "zip", "legacy", "diffusers", "peft")
"""safetensors, both formats of torch.save, and safetensors in folders with a description, of diffusers and of PEFT."""


@dataclass(frozen=True)
class Change:
    """One thing done to a file: to what, which one of them (counted round and round), what; or to every one."""

    target: str
    where: int
    what: Any
    every: bool = False


@dataclass(frozen=True)
class Case:
    """A file: a small published one, written in some form, with or without MotionGraft's metadata, then changed."""

    base: str
    form: str
    ours: bool = False
    changes: tuple[Change, ...] = ()

    def of(self, *targets: str) -> Iterator[Change]:
        """The changes to such targets, in order."""
        return (change for change in self.changes if change.target in targets)
