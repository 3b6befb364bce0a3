"""Shards as the writer of a cache sees them: each with a record that is written last and makes it count as finished."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...core.errors import TrainingDataError
from ...core.shard_files import ShardFile
from ...core.tensor_files import write_tensor_file
from ..runs.disk_space import write_errors_in_words
from ..runs.durable_files import file_hash, flush_file, read_json_object, write_text
from .cache_index import VERSION

log = logging.getLogger(__name__)

SHARD, RECORD = ".safetensors", ".json"


@dataclass(frozen=True)
class ShardRecord:
    """What a finished shard holds."""

    model: str
    """Hash of the VAE or CLIP that made it."""
    keys: tuple[str, ...]
    """What lies in each row: the fingerprint of a clip, or the hash of a caption."""
    shapes: Mapping[str, Sequence[int]]
    """Of each tensor."""
    num_bytes: int
    sha256: str
    version: int = VERSION


class ShardStore:
    """The shards of one kind in one folder of a cache. A file without a record was never finished and is removed.

    Raises: RunError if the folder cannot be written to.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.records: dict[str, ShardRecord] = {}
        self._sound: set[str] = set()
        with write_errors_in_words("The cache", folder.parent):
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.iterdir()):
                if path.name.startswith("."):
                    path.unlink()
        for path in sorted(folder.glob(f"*{RECORD}")):
            record = _record_in(path)
            if record is None:
                log.warning("The record of a shard, %s, is damaged; the shard will be made anew.", path)
                self.remove(path.stem)
            else:
                self.records[path.stem] = record
        for path in folder.glob(f"*{SHARD}"):
            if path.stem not in self.records:
                self.remove(path.stem)

    def path(self, name: str) -> Path:
        return self.folder / f"{name}{SHARD}"

    def check_model(self, model: str, what: str) -> None:
        """Raises: TrainingDataError if a shard was made by another model or another version of MotionGraft."""
        for record in self.records.values():
            if record.version != VERSION:
                raise refusal(self.folder.parent, f"is of version {record.version}, this MotionGraft writes {VERSION}")
            if record.model != model:
                raise refusal(
                    self.folder.parent, f"was made with another {what}, or with the same in another precision"
                )

    def is_sound(self, name: str) -> bool:
        """Whether a shard is there and is, byte for byte, what was written; one that is not is named and removed."""
        if name in self._sound:
            return True
        record = self.records.get(name)
        if record is None:
            return False
        if _is_whole(self.path(name), record):
            self._sound.add(name)
            return True
        log.warning(
            "A shard of the cache, %s, is missing or damaged; what lies in it is encoded again.", self.path(name)
        )
        self.remove(name)
        return False

    def places(self, wanted: Callable[[str], bool]) -> dict[str, tuple[str, int]]:
        """Where each wanted key lies, in sound shards alone."""
        found: dict[str, tuple[str, int]] = {}
        for name, record in list(self.records.items()):
            rows = {key: (name, row) for row, key in enumerate(record.keys) if wanted(key) and key not in found}
            if rows and self.is_sound(name):
                found.update(rows)
        return found

    def open(self, name: str) -> ShardFile:
        return ShardFile(self.path(name))

    def write(self, name: str, model: str, keys: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
        """Write a shard whole and then its record.

        Raises: RunError if the disk does not take it; then nothing of it is left.
        """
        path = self.path(name)
        try:
            with write_errors_in_words("A shard of the cache", self.folder.parent):
                write_tensor_file(path, tensors, {"version": VERSION, "model": model, "keys": list(keys)})
                flush_file(path)
                shapes = {tensor: list(value.shape) for tensor, value in tensors.items()}
                record = ShardRecord(model, tuple(keys), shapes, path.stat().st_size, file_hash(path))
                write_text(path.with_suffix(RECORD), json.dumps(asdict(record)) + "\n")
        except BaseException:
            remove_file(path)
            raise
        self.records[name] = record
        self._sound.add(name)

    def keep_only(self, names: Iterable[str]) -> None:
        """Remove the shards that a finished cache does not name."""
        for name in set(self.records) - set(names):
            self.remove(name)

    def remove(self, name: str) -> None:
        """Remove a shard, its record first, so that half of it never counts as finished."""
        self.records.pop(name, None)
        for path in (self.path(name).with_suffix(RECORD), self.path(name)):
            remove_file(path)


def refusal(folder: Path, found: str) -> TrainingDataError:
    """Why this cache is not written over. Everything in it stays."""
    return TrainingDataError(
        f"the cache {folder.name} {found}. Nothing was changed. Choose another cache_name, or delete {folder}."
    )


def remove_file(path: Path) -> None:
    """Remove a file that is not needed; Windows keeps one that is being read, and the next run removes it."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s is not needed any more and could not be removed: %s", path, error)


def _is_whole(path: Path, record: ShardRecord) -> bool:
    try:
        return path.stat().st_size == record.num_bytes and file_hash(path) == record.sha256
    except OSError:
        return False


def _record_in(path: Path) -> ShardRecord | None:
    """The record in a file; None if it is damaged. Of another version only that is known."""
    values: dict[str, Any] = read_json_object(path) or {}
    version = values.get("version", VERSION)
    if version != VERSION:
        return ShardRecord("", (), {}, 0, "", version)
    try:
        values["keys"] = tuple(values["keys"])
        return ShardRecord(**values)
    except (KeyError, TypeError):
        return None
