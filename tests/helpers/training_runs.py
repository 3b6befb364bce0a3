"""Short training runs on the tiny models, and an observer that remembers, or stops, a run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from motiongraft.training.settings import TrainingSettings

QUICK = {
    "batch_size": 2,
    "precision": "fp32",
    "checkpointing": "off",
    "validate_every": 0,
    "save_every": 0,
    "sample_every": 0,
    "caption_dropout": 0.0,
}


def quick_settings(**changes: Any) -> TrainingSettings:
    """Settings without anything but steps."""
    return TrainingSettings(**{**QUICK, **changes})


class Stopped(BaseException):
    """What an observer's user raises to stop a run, as ComfyUI's interrupt: not an Exception."""


@dataclass
class Witness:
    """An observer that remembers what it was told, and stops the run where it is asked to."""

    stop_after: int | None = None
    steps: list[Any] = field(default_factory=list)
    validations: list[Any] = field(default_factory=list)
    samples: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def check_cancelled(self) -> None:
        if self.stop_after is not None and self.steps and self.steps[-1].step >= self.stop_after:
            raise Stopped

    def on_step(self, report: Any) -> None:
        self.steps.append(report)

    def on_validation(self, report: Any) -> None:
        self.validations.append(report)

    def on_sample(self, latents: torch.Tensor, step: int, folder: Path) -> None:
        self.samples.append((step, tuple(latents.shape)))

    def say(self, text: str) -> None:
        self.texts.append(text)
