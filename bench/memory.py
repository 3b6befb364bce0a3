"""How much memory a step needs beyond the weights, measured in a process of its own for each variant."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..core.errors import HostError

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""Sets VmHWM, the peak of resident memory, back to what is resident now. Source: Linux proc(5), clear_refs."""
GIVE_BACK_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Lets glibc return every freed tensor to the system, so that what is resident is what is alive. Source: mallopt(3)."""


class PeakMemory:
    """The growth of memory from here to its peak: on the GPU as torch allocates it, else as the system sees it."""

    def __init__(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        elif can_measure():
            RESET.write_text(RESET_PEAK)
        self._before = self._now()

    def growth(self) -> int:
        """Units: bytes."""
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _from_status("VmHWM")
        return peak - self._before

    def _now(self) -> int:
        return torch.cuda.memory_allocated() if torch.cuda.is_available() else _from_status("VmRSS")


def can_measure() -> bool:
    """Whether this system tells its peak memory: with CUDA, or on Linux."""
    return torch.cuda.is_available() or RESET.exists()


def measure_in_own_process(arguments: Sequence[str]) -> dict[str, float]:
    """What `python bench ARGUMENTS` prints as JSON in its last line.

    Raises: HostError with the end of its output if it fails.
    """
    command = [sys.executable, str(Path(__file__).parent), *arguments]
    done = subprocess.run(command, env={**os.environ, **GIVE_BACK_AT_ONCE}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HostError(
            f"expected peak memory from {' '.join(command)}, found exit status {done.returncode}: {done.stderr[-500:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def own_bytes() -> int:
    """Memory of this process in RAM, without mapped files; 0 where the system does not tell. Units: bytes."""
    return _from_status("RssAnon") if STATUS.exists() else 0


def _from_status(name: str) -> int:
    """A value of /proc/self/status. Units: bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
