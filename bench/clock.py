"""Time, read when the GPU has finished."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Work = Callable[[], Tensor]


def time_in_turn(work: Mapping[str, Work], repeats: int) -> dict[str, float]:
    """The median of each piece of work, all run in turn, after a first round that does not count. Units: seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(repeats + 1):
        for name, run in work.items():
            taken, _ = time_once(run)
            if turn:
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


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
