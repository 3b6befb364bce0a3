"""What a terminal shows of the demo: a line for each part, one that moves while a run trains, and the time."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...training.progress import StepReport, ValidationReport

SECONDS_BETWEEN = 5.0


@dataclass
class TimeSpent:
    """Units: seconds; busy ones are those of all processors together."""

    passed: float = 0.0
    busy: float = 0.0


class Terminal:
    """Progress on stderr, and how long each part took."""

    def __init__(self):
        self.time_spent: dict[str, TimeSpent] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Everything inside counts as this part of the demo."""
        say(name)
        passed, busy = time.monotonic(), time.process_time()
        yield
        self.time_spent[name] = TimeSpent(time.monotonic() - passed, time.process_time() - busy)


class TerminalObserver:
    """Watches one run. Ctrl-C needs no asking: the signal itself ends the run."""

    def __init__(self):
        self._next = time.monotonic() + SECONDS_BETWEEN

    def check_cancelled(self) -> None:
        return None

    def on_step(self, report: StepReport) -> None:
        if time.monotonic() >= self._next:
            left = f"{report.seconds_left:.0f} s left"
            say(f"  step {report.step} of {report.total_steps}, loss {report.loss:.4f}, {left}")
            self._next = time.monotonic() + SECONDS_BETWEEN

    def on_validation(self, report: ValidationReport) -> None:
        say(f"  step {report.step}: validation loss {report.loss:.5f}")

    def on_sample(self, latents: Tensor, step: int, folder: Path) -> None:
        return None

    def say(self, text: str) -> None:
        say(f"  {text}")


def say(text: str) -> None:
    """A line on stderr, at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
