"""Time, read when the GPU has finished."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Work = Callable[[], Tensor]


def time_in_turn(work: Mapping[str, Work], repeats: int) -> dict[str, float]:
    """The median of each piece of work, all run in turn, after a first round that does not count. Units: seconds."""
    return {name: statistics.median(values) for name, values in time_each_in_turn(work, repeats).items()}


def time_each_in_turn(work: Mapping[str, Work], repeats: int) -> dict[str, list[float]]:
    """Every time of each piece of work, all run in turn, after a first round that does not count. Units: seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(repeats + 1):
        for name, run in work.items():
            taken, _ = time_once(run)
            if turn:
                seconds[name].append(taken)
    return seconds


class ProcessorClock:
    """Work that notes what it took of the processors, which others on the machine change less than its time."""

    def __init__(self, work: Work):
        self._work = work
        self._seconds: list[float] = []

    def __call__(self) -> Tensor:
        start = time.process_time()
        result = self._work()
        self._seconds.append(time.process_time() - start)
        return result

    @property
    def measured(self) -> list[float]:
        """Of every call but the first, which does not count, over all threads. Units: seconds."""
        return self._seconds[1:]


def time_once(run: Work) -> tuple[float, Tensor]:
    """The seconds that one piece of work took, and what it gave."""
    wait_for_gpu()
    start = time.perf_counter()
    result = run()
    wait_for_gpu()
    return time.perf_counter() - start, result


def wait_for_gpu() -> None:
    """Return when all that was asked of the GPU is done; at once where there is none."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
