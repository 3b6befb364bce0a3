"""Checkpoints of a run: each a folder that is whole or not there, known by the hashes in its manifest."""

import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...core.errors import CheckpointError, RunError
from ...core.tensor_files import read_tensor_file
from .disk_space import write_errors_in_words
from .durable_files import (
    file_records,
    find_damage,
    flush_folder,
    is_temporary,
    read_json_object,
    remove,
    temporary_name,
    write_json,
)
from .finite_tensors import write_finite_tensors
from .json_values import plain

log = logging.getLogger(__name__)

SCHEMA = 1
KEPT = 2
"""Newest checkpoints that are kept, besides the best: the one before, should the newest be damaged."""
MANIFEST, STATE, BEST = "manifest.json", "state.json", "best.json"
_SUFFIX = ".safetensors"
_STEP = re.compile(r"step-(\d{8,})")
_REPLACED = re.compile(r"\.(step-\d{8,})\.replaced")
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the next step of a run depends on.

    Raises: RunError if the state is no JSON, or a group cannot be a file name.
    """

    step: int
    """Steps that were taken."""
    tensors: Mapping[str, Mapping[str, Tensor]]
    """By group, such as `weights`, `optimizer` and `ema`; each group is a file."""
    state: Mapping[str, Any]
    """Whatever is not a tensor."""

    def __post_init__(self):
        object.__setattr__(self, "state", plain(self.state, "state"))
        for group in self.tensors:
            if not _GROUP.fullmatch(group):
                raise RunError(f"A group of tensors needs a plain name, found {group!r}. Use letters, digits, _ and -.")


class CheckpointFolder:
    """The checkpoints of one run: the last two and the best."""

    def __init__(self, path: Path):
        self.path = path

    def save(self, checkpoint: Checkpoint, identity: str, is_best: bool = False) -> Path:
        """Write a checkpoint and let go of those that are not kept any more.

        Checkpoints of later steps, which the run has left behind, go too.
        Raises: RunError if a tensor is not finite, or the disk does not take it; earlier ones stay whole.
        """
        target = self.path_of(checkpoint.step)
        with write_errors_in_words(f"The checkpoint of step {checkpoint.step}", self.path):
            self._write(checkpoint, identity, target)
            if is_best:
                write_json(self.path / BEST, {"schema": SCHEMA, "step": checkpoint.step})
        self._prune(checkpoint.step)
        return target

    def path_of(self, step: int) -> Path:
        return self.path / f"step-{step:08d}"

    def find_newest(self) -> Path | None:
        """The newest checkpoint whose every file is whole; damaged ones are named in the log."""
        for path in reversed(self._all()):
            damage = _damage(path)
            if damage is None:
                return path
            log.warning("%s is damaged (%s) and is passed over for the checkpoint before it.", path, damage)
        return None

    def load_best(self) -> Checkpoint | None:
        """The checkpoint that was saved as the best; None if there is none, or it is damaged."""
        path = self._best()
        damage = _damage(path) if path else None
        if path and damage:
            log.warning("the best checkpoint, %s, is damaged (%s) and is passed over.", path, damage)
        return read_checkpoint(path) if path and not damage else None

    def clean_up(self) -> None:
        """Remove what a process left behind that ended while it wrote. No other process may be writing here."""
        for path in sorted(self.path.iterdir()):
            replaced = _REPLACED.fullmatch(path.name)
            if replaced and not (self.path / replaced[1]).exists():
                path.rename(self.path / replaced[1])
            elif replaced or is_temporary(path.name):
                remove(path)

    def _write(self, checkpoint: Checkpoint, identity: str, target: Path) -> None:
        temporary = target.with_name(temporary_name(target.name))
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            _write_files(checkpoint, identity, temporary)
            _move_into_place(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        flush_folder(self.path)

    def _all(self) -> list[Path]:
        """Every checkpoint, whole or not, oldest first."""
        found = [path for path in self.path.iterdir() if _STEP.fullmatch(path.name)] if self.path.is_dir() else []
        return sorted(found, key=step_of)

    def _best(self) -> Path | None:
        step = (read_json_object(self.path / BEST) or {}).get("step")
        return next((path for path in self._all() if step_of(path) == step), None)

    def _prune(self, step: int) -> None:
        every = self._all()
        until_now = [path for path in every if step_of(path) <= step]
        kept = {*until_now[-KEPT:], self._best()}
        for path in every:
            if path not in kept or path not in until_now:
                remove(path)


def read_checkpoint(path: Path) -> Checkpoint:
    """What a whole checkpoint folder holds.

    Raises: RunError if it cannot be read after all.
    """
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        tensors = {file.stem: dict(read_tensor_file(file).tensors) for file in _tensor_files(path)}
    except (OSError, ValueError, CheckpointError) as error:
        raise RunError(f"{path} cannot be read: {error} Check the disk, or move the folder away.") from error
    return Checkpoint(step_of(path), tensors, state)


def step_of(path: Path) -> int:
    """The step of a checkpoint folder, from its name."""
    return int(path.name.removeprefix("step-"))


def _write_files(checkpoint: Checkpoint, identity: str, folder: Path) -> None:
    for group, tensors in checkpoint.tensors.items():
        place = f"{group} at step {checkpoint.step}"
        write_finite_tensors(folder / f"{group}{_SUFFIX}", tensors, {"step": checkpoint.step}, place)
    write_json(folder / STATE, checkpoint.state)
    names = [STATE, *(f"{group}{_SUFFIX}" for group in checkpoint.tensors)]
    files = file_records(folder, names)
    manifest = {"schema": SCHEMA, "step": checkpoint.step, "identity": identity, "files": files}
    write_json(folder / MANIFEST, manifest)


def _move_into_place(temporary: Path, target: Path) -> None:
    """Give a whole folder its name. An older one of that name stands aside until then, where `clean_up` finds it."""
    aside = target.with_name(f".{target.name}.replaced")
    if target.exists():
        target.rename(aside)
    try:
        temporary.rename(target)
    except BaseException:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise
    if aside.exists():
        remove(aside)


def _damage(path: Path) -> str | None:
    manifest = read_json_object(path / MANIFEST)
    if manifest and manifest.get("step") != step_of(path):
        return f"its manifest is of step {manifest.get('step')}"
    return find_damage(path, manifest)


def _tensor_files(path: Path) -> Iterator[Path]:
    files = (read_json_object(path / MANIFEST) or {}).get("files", {})
    return (path / name for name in files if name.endswith(_SUFFIX))
