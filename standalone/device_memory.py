"""How much memory a device has left."""

import os
from pathlib import Path

import torch

_LINUX = Path("/proc/meminfo")
_AVAILABLE = "MemAvailable:"


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take; on a CPU of another system than Linux, all that the machine has.

    Source of the field: proc(5), an estimate of memory that programs can get without swapping.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    if _LINUX.is_file():
        lines = _LINUX.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(_AVAILABLE))
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
