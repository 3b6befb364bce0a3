"""Folders under ComfyUI's input directory: which there are, that no other is opened, and whether one has changed."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import folder_paths

from ..core.errors import TrainingDataError, shown

MAX_DEPTH = 3
MAX_FOLDERS = 1000
_EMPTY = "(no folders"


def list_input_folders() -> list[str]:
    """Folders in the input directory, with forward slashes; if there are none, one entry that says where they go."""
    folders = sorted(_folders(_input_directory(), MAX_DEPTH))[:MAX_FOLDERS]
    return folders or [f"{_EMPTY}: put videos into a folder in {_input_directory()})"]


def find_input_folder(name: str) -> Path:
    """The path of a listed folder.

    Raises: TrainingDataError if the name leads out of the input directory or the folder is gone.
    """
    if name.startswith(_EMPTY):
        raise TrainingDataError(
            f"There are no folders in {_input_directory()}. Put your videos into a folder there and refresh the node."
        )
    root = _input_directory().resolve()
    path = root / name
    if not name or _leads_outside(name) or not path.resolve().is_relative_to(root):
        raise TrainingDataError(
            f"{shown(name)!r} leads out of ComfyUI's input directory. Expected the name of a folder inside it; "
            "choose one from the list."
        )
    if not path.is_dir():
        raise TrainingDataError(
            f"{shown(name)}: not in {root} any more. Put it back, or refresh the node and choose another folder."
        )
    return path


def folder_stamp(name: str) -> str:
    """A text that changes when a file in the folder is added, removed or changed, at any depth."""
    try:
        folder = find_input_folder(name)
        stamp = hashlib.sha256()
        for line in sorted(_stamps(folder)):
            stamp.update(line.encode("utf-8", "surrogateescape"))
    except (TrainingDataError, OSError):
        return name
    return f"{name}:{stamp.hexdigest()}"


def _folders(directory: Path, depth: int, prefix: str = "") -> Iterator[str]:
    """Names of the visible folders below, without links."""
    if depth == 0:
        return
    try:
        entries = [entry for entry in os.scandir(directory) if not entry.name.startswith(".")]
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield f"{prefix}{entry.name}"
            yield from _folders(Path(entry.path), depth - 1, f"{prefix}{entry.name}/")


def _stamps(folder: Path) -> Iterator[str]:
    """One line for each file."""
    for parent, _, files in os.walk(folder):
        for name in files:
            path = Path(parent, name)
            stat = path.lstat()
            yield f"{path.relative_to(folder)}:{stat.st_size}:{stat.st_mtime_ns}\n"


def _leads_outside(name: str) -> bool:
    """Whether a name is more than a relative path downwards, on any system."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return "\0" in name or any(path.is_absolute() or path.drive or ".." in path.parts for path in paths)


def _input_directory() -> Path:
    return Path(folder_paths.get_input_directory())
