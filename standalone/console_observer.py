"""What a terminal, or a log, sees of a run; and where a run asks whether it should stop."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ..core.tensor_files import write_tensor_file
from ..training.progress import StepReport, ValidationReport
from .stop_signals import NotedSignal, Stopped

SECONDS_BETWEEN = 5.0
"""Between two lines of progress."""


class ConsoleObserver:
    """Watches a run for its first process; in the others, which say nothing, it only asks whether to stop."""

    def __init__(self, stop: NotedSignal, says: bool, is_wanted: Callable[[], bool] = lambda: True):
        self._stop, self._says, self._is_wanted = stop, says, is_wanted
        self._next = 0.0

    def check_cancelled(self) -> None:
        self._stop.check()
        if not self._is_wanted():
            raise ParentGoneError

    def on_step(self, report: StepReport) -> None:
        if report.step == report.total_steps or time.monotonic() >= self._next:
            self._next = time.monotonic() + SECONDS_BETWEEN
            self.say(
                f"step {report.step} of {report.total_steps}, loss {report.loss:.5f}, "
                f"{_duration(report.seconds_left)} left"
            )

    def on_validation(self, report: ValidationReport) -> None:
        self.say(f"step {report.step}: validation loss {report.loss:.5f}")

    def on_sample(self, latents: Tensor, step: int, folder: Path) -> None:
        """Keep the clip as latents: there is no VAE here."""
        if not self._says:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tensors = {"latents": latents.detach().float().cpu()}
            write_tensor_file(folder / f"step-{step:08}.safetensors", tensors, {"kind": "sample", "step": step})
        except OSError as error:
            self.say(f"no sample clip at step {step}: {error}")

    def say(self, text: str) -> None:
        if self._says:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()


class ParentGoneError(Stopped):
    """The process that started this one has ended, so that nobody would stop it any more."""

    def __init__(self) -> None:
        KeyboardInterrupt.__init__(self, "the process that started the run has ended")
        self.exit_status = 1


def parents_live(other: int | None) -> Callable[[], bool]:
    """Asks whether the process that started this one is there, and another one if given."""
    parent = os.getppid()

    def live() -> bool:
        return os.getppid() == parent and (other is None or _is_alive(other))

    return live


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is there, and belongs to somebody else
    return True


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
