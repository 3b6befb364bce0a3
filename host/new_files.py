"""New files in ComfyUI's model folders: never over another file, never elsewhere, never half."""

import itertools
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import folder_paths
from torch import Tensor

from ..core.diffusers_folders import CONFIG, DIFFUSERS_STEM, SAFETENSORS
from ..core.errors import RunError, SettingsError
from ..core.tensor_files import write_tensor_file
from .folders import leads_outside

SUFFIX = SAFETENSORS
SPARE_BYTES = 2**20
"""What a file may take beyond its tensors: names, metadata, the folder's own growth."""
_PART = re.compile(r'^[^<>:"|?*\x00-\x1f]*[^<>:"|?*\x00-\x1f. ]$')
"""A name that Windows takes too, so that a workflow saves on every system."""


def check_prefix(filename_prefix: str) -> PurePosixPath:
    """The name that a new file gets, with subfolders in front.

    Raises: SettingsError if it is empty, leads out of the model folder or cannot be a file name.
    """
    if leads_outside(filename_prefix):
        raise SettingsError(
            f"filename_prefix {filename_prefix!r} leads out of the model folder. Expected a name, or subfolders and a "
            "name such as clips/zoom; take out drive letters, a leading slash and `..`."
        )
    name = filename_prefix.strip().replace("\\", "/").removesuffix(SUFFIX)
    if not name or name.endswith("/"):
        raise SettingsError(
            f"filename_prefix is {filename_prefix!r}, which has no file name. Give one, such as my_motion."
        )
    path = PurePosixPath(name)
    wrong = [part for part in path.parts if not _PART.match(part)]
    if wrong or not path.name:
        raise SettingsError(
            f"filename_prefix {filename_prefix!r}: {(wrong or [name])[0]!r} is not a file name on every system. "
            'Leave out control characters and < > : " | ? *, and do not end a name in a dot or a space.'
        )
    return path


def write_new_file(
    folder: str,
    filename_prefix: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
) -> Path:
    """The path of the new file: `<prefix>.safetensors`, or `<prefix>_2.safetensors` and so on where that is taken.

    With a `config` it is a folder of diffusers that gets this name, and the path is that of the weights in it.
    Raises: SettingsError if the prefix is no name inside the model folder; RunError if the disk does not take the
    file, after which there is none.
    """
    name = check_prefix(filename_prefix)
    root = Path(folder_paths.get_folder_paths(folder)[0])
    target = root / name.parent
    try:
        target.mkdir(parents=True, exist_ok=True)
        _check_space(target, tensors)
        return _write(folder, root, name, tensors, metadata, dict(config or {}))
    except OSError as error:
        raise RunError(
            f"expected to write {name}{SUFFIX} into {root}, found: {error}. No part of it was left behind. "
            "Free disk space, or get the right to write there, and queue again."
        ) from error


def _check_space(target: Path, tensors: Mapping[str, Tensor]) -> None:
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) + SPARE_BYTES
    free = shutil.disk_usage(target).free
    if free < needed:
        raise RunError(
            f"the file takes {needed / 2**20:,.0f} MiB, and {target} has {free / 2**20:,.0f} MiB free. "
            "Nothing was written; free disk space and queue again."
        )


def _write(
    folder: str,
    root: Path,
    name: PurePosixPath,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    config: dict[str, Any],
) -> Path:
    # Without a suffix that ComfyUI lists, until it is whole.
    unfinished = root / name.parent / f".{uuid.uuid4().hex}.part"
    try:
        write_tensor_file(unfinished, tensors, metadata)
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())  # some network disks say only here that they are full
        return (
            _publish_folder(folder, root, name, unfinished, config)
            if config
            else _publish(folder, root, name, unfinished)
        )
    finally:
        unfinished.unlink(missing_ok=True)


def _publish(folder: str, root: Path, name: PurePosixPath, unfinished: Path) -> Path:
    """Move a whole file to the first free name, which an empty file holds for it meanwhile."""
    path = root / _first_free(folder, root, name, SUFFIX, lambda path: path.open("xb").close())
    try:
        shutil.copymode(path, unfinished)
        unfinished.replace(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _publish_folder(folder: str, root: Path, name: PurePosixPath, unfinished: Path, config: dict[str, Any]) -> Path:
    """Move a whole file into a new folder under the first free name, behind its configuration."""
    target = root / _first_free(folder, root, name, "", lambda path: path.mkdir())
    beside, weights = target / CONFIG, target / f"{DIFFUSERS_STEM}{SUFFIX}"
    try:
        beside.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        shutil.copymode(beside, unfinished)
        unfinished.replace(weights)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return weights


def _first_free(folder: str, root: Path, name: PurePosixPath, suffix: str, make: Callable[[Path], None]) -> str:
    """The first name that nothing has, made there; two that save at once get two names."""
    numbers = itertools.count(2)
    candidate = f"{name}{suffix}"
    while not _is_made(folder, root, candidate, make):
        candidate = f"{name.with_name(f'{name.name}_{next(numbers)}')}{suffix}"
    return candidate


def _is_made(folder: str, root: Path, candidate: str, make: Callable[[Path], None]) -> bool:
    listed = (candidate, f"{candidate}/{DIFFUSERS_STEM}{SUFFIX}")
    if any(folder_paths.get_full_path(folder, name) is not None for name in listed):
        return False  # taken, here or in another folder of this kind, where the new file would hide the old one
    try:
        make(root / candidate)
    except FileExistsError:
        return False
    return True
