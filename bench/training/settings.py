"""Which training steps are measured, and on clips of which size."""

from collections.abc import Iterator
from dataclasses import dataclass

from ...core.errors import SettingsError
from ..settings import Settings

OURS = "MotionGraft"
THEIRS = "diffusers"
SIDES = (OURS, THEIRS)
STAGES = {"2": (2,), "3": (3,), "both": (2, 3)}
"""What `--stage` stands for: 2 trains a motion module, 3 a MotionLoRA."""
CHECKPOINTING = {"off": (False,), "on": (True,), "both": (False, True)}
"""What `--checkpointing` stands for: whether activations are computed again in the backward pass."""
PRECISIONS = ("bf16", "fp32")
RANK = 64
"""Of the published MotionLoRAs. Source: guoyww/AnimateDiff README, 74 MB each."""


@dataclass(frozen=True)
class Case:
    """One kind of training step, measured on both sides."""

    stage: int
    batch: int
    """Clips in a step."""
    checkpointing: bool

    @property
    def name(self) -> str:
        clips = "1 clip" if self.batch == 1 else f"{self.batch} clips"
        return f"stage {self.stage}, {clips}{', checkpointing' if self.checkpointing else ''}"

    @property
    def options(self) -> list[str]:
        """The command line's options for this case alone."""
        switch = "on" if self.checkpointing else "off"
        return ["--stage", str(self.stage), "--batch", str(self.batch), "--checkpointing", switch]


@dataclass(frozen=True)
class TrainingCostSettings:
    """The options of the command line that decide what is computed."""

    clip: Settings
    """Widths, clips and repeats, in the words of the sampling benchmark."""
    stages: tuple[int, ...]
    batches: tuple[int, ...]
    checkpointing: tuple[bool, ...]
    precision: str

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise SettingsError(f"expected --batch of 1 or more clips, found {self.batches}. Give numbers such as 1,4.")

    def cases(self) -> Iterator[Case]:
        """Every case, the quickest of each stage first."""
        for stage in self.stages:
            for batch in self.batches:
                yield from (Case(stage, batch, checkpointing) for checkpointing in self.checkpointing)


def numbers_in(text: str) -> tuple[int, ...]:
    """The numbers of an option such as `1,4`.

    Raises: SettingsError if there is anything else.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise SettingsError(f"expected numbers with commas between, such as 1,4, found {text}.") from error
