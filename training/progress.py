"""What a run tells whoever watches it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

SMOOTHING = 0.1
"""Share of the newest step in the time that a step is expected to take."""


@dataclass(frozen=True)
class StepReport:
    """One finished step."""

    step: int
    """Counted from 1."""
    total_steps: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds_left: float


@dataclass(frozen=True)
class ValidationReport:
    """The loss at fixed noise and timesteps: unlike the loss of a step it can be compared with earlier ones."""

    step: int
    loss: float
    by_timestep: dict[int, float]


class StepClock:
    """How long a run still takes, from how long its steps took."""

    def __init__(self):
        self._usual: float | None = None

    def seconds_left(self, seconds: float, steps_left: int) -> float:
        """After a step that took some seconds."""
        self._usual = seconds if self._usual is None else self._usual + SMOOTHING * (seconds - self._usual)
        return self._usual * steps_left


class Observer(Protocol):
    """Whoever watches a run: a node in the editor, or a terminal."""

    def check_cancelled(self) -> None:
        """Raise whatever stops the run, if its user wants that."""
        ...

    def on_step(self, report: StepReport) -> None:
        """After every step."""
        ...

    def on_validation(self, report: ValidationReport) -> None:
        """After every validation."""
        ...

    def on_sample(self, latents: Tensor, step: int, folder: Path) -> None:
        """A sample clip was made; show it and keep it in the folder.

        Shapes: latents `f c h w`, as the model gives them
        """
        ...

    def say(self, text: str) -> None:
        """Something that the user should read."""
        ...
