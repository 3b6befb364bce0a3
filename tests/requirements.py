"""What tests need from outside this repository, whether it is here, and how to get it."""

import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from motiongraft.core.errors import HostError
from motiongraft.standalone.host_location import find_host

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Requirement:
    """Something outside this repository, and the words for when it is missing."""

    name: str
    is_met: bool
    remedy: str


@cache
def requirement(mark: str) -> Requirement:
    """What the tests with this mark need. Nothing is looked for before a test needs it."""
    return {"host": _comfyui, "browser": _chromium, "gpu": _gpu, "golden": _recordings}[mark]()


def golden_folder() -> Path:
    """Where the recordings of the published code are said to be."""
    return Path(os.environ.get("MOTIONGRAFT_GOLDEN", ""))


def chromium() -> str | None:
    """The browser for tests: $CHROMIUM, else the one on the PATH."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)


def _comfyui() -> Requirement:
    try:
        find_host()
    except HostError as error:
        return Requirement("ComfyUI", False, str(error))
    return Requirement("ComfyUI", True, "")


def _chromium() -> Requirement:
    return Requirement("Chromium", chromium() is not None, "Run `apt install chromium`, or set CHROMIUM to its path.")


def _gpu() -> Requirement:
    import torch

    return Requirement("NVIDIA GPU", torch.cuda.is_available(), "Run them on a machine whose torch sees one.")


def _recordings() -> Requirement:
    named = os.environ.get("MOTIONGRAFT_GOLDEN")
    found = f"it names {named}, which is no folder" if named else "it is not set"
    is_met = bool(named) and golden_folder().is_dir()
    remedy = f"Set MOTIONGRAFT_GOLDEN to the folder that holds them; {found}."
    return Requirement("recordings of the published code", is_met, remedy)
