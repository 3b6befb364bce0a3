"""On what and with which versions something was measured."""

import os
import platform
import re
import subprocess
from pathlib import Path

import torch

CHECKOUT = Path(__file__).resolve().parents[1]
GIB = 1024**3


def describe_machine() -> dict[str, str]:
    """Processor, memory, GPU, and how busy the machine was before the measurement."""
    return {
        "CPU": _cpu_name(),
        "cores": f"{os.cpu_count()}, torch uses {torch.get_num_threads()}",
        "RAM": f"{_memory_bytes() / GIB:.0f} GiB" if _is_posix() else "unknown",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": platform.platform(terse=True),
        "load before": f"{os.getloadavg()[0]:.1f}" if _is_posix() else "unknown",
    }


def describe_versions(comfyui: str, ade: Path | None) -> dict[str, str]:
    """Python, torch, ComfyUI, this checkout, and AnimateDiff-Evolved where it is measured."""
    versions = {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "ComfyUI": comfyui,
        "MotionGraft": git_commit(CHECKOUT) or "no commit",
    }
    return versions if ade is None else {**versions, "AnimateDiff-Evolved": git_commit(ade) or _declared_version(ade)}


def git_commit(folder: Path) -> str | None:
    """The commit of a git checkout, with a note if its files differ; None if the folder is none."""
    if not (folder / ".git").exists():
        return None
    commit = _git(folder, "rev-parse", "--short", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit} with changes" if commit and changed else commit or None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _declared_version(folder: Path) -> str:
    """The version in a pyproject.toml, for a folder without git."""
    file = folder / "pyproject.toml"
    found = re.search(r'^version = "(.*)"', file.read_text(encoding="utf-8"), re.MULTILINE) if file.exists() else None
    return found[1] if found else "unknown"


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _is_posix() -> bool:
    return os.name == "posix"
