"""The index of a cache, and the small JSON beside each shard that says which clips lie in it.

    index.json                 buckets and the names of their shards, never clips
    latents/<shard>            latents of up to 64 clips of one size, with a record of their fingerprints
    clips/<shard>.json         names and captions of the same clips
    text/<shard>               text states of up to 64 captions, with a record of their hashes
    digests.jsonl              hashes of source files that were read

The name of a shard holds a hash of what it is made of, and no shard is ever changed. So a cache that is written anew
stays readable until its index is replaced, and a clip that moves to another shard is copied, not encoded.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from ...core.errors import TrainingDataError
from ..runs.durable_files import read_json_object, write_text

VERSION = 1
"""Grows when the files of a cache change their meaning."""
INDEX = "index.json"
LATENTS, ENTRIES, TEXT = "latents", "clips", "text"
AGAIN = "Run Cache Training Clips again"

TextPlace = tuple[str, int]
"""A text shard and the row in it."""


@dataclass(frozen=True)
class BucketIndex:
    """Clips of one size. Clip number n lies in shard n // clips_per_shard, row n % clips_per_shard."""

    num_frames: int
    channels: int
    height: int
    width: int
    count: int
    clips_per_shard: int
    shards: tuple[tuple[str, str], ...]
    """For each shard the names of its latents and of its entries."""

    def rows_in(self, shard: int) -> int:
        """How many clips lie in a shard; the last may hold fewer."""
        return min(self.clips_per_shard, self.count - shard * self.clips_per_shard)


@dataclass(frozen=True)
class CacheIndex:
    """What a finished cache holds, as far as it fits in memory for ten million clips."""

    fingerprint: str
    vae_hash: str
    clip_hash: str
    frame_stride: int
    camera_motion: str | None
    has_mirrored: bool
    text_width: int
    pooled_width: int | None
    empty_text: TextPlace
    buckets: tuple[BucketIndex, ...]


@dataclass(frozen=True)
class ClipEntry:
    """One clip of a shard. Units: height and width in pixels"""

    name: str
    caption: str
    fingerprint: str
    caption_hash: str
    height: int
    width: int
    camera: Any
    text: TextPlace


def read_index(folder: Path) -> CacheIndex:
    """The index of a finished cache.

    Raises: TrainingDataError if there is none, or it is damaged or of another version.
    """
    path = folder / INDEX
    if not path.is_file():
        found = "caching was not finished" if (folder / LATENTS).is_dir() else "there is no cache"
        raise TrainingDataError(f"expected cached clips in {folder}, but {found}. {AGAIN}.")
    content = read_json_object(path)
    if content is not None and content.get("version") != VERSION:
        raise TrainingDataError(
            f"the cached clips in {folder} have version {content.get('version')}, this MotionGraft reads {VERSION}. "
            "Cache them again under another cache_name."
        )
    try:
        return _index_of(content or {})
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingDataError(f"the index of the cached clips, {path}, is damaged ({error!r}). {AGAIN}.") from error


def write_index(folder: Path, index: CacheIndex) -> None:
    """Replace the index, unless it says the same already."""
    text = json.dumps({"version": VERSION, **asdict(index)}, indent=1) + "\n"
    path = folder / INDEX
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


def entries_text(entries: list[ClipEntry]) -> str:
    """The file of a shard's entries."""
    return json.dumps([asdict(entry) for entry in entries]) + "\n"


def entries_name(text: str) -> str:
    """The name of a file of entries, by which its content can be checked."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def entries_path(folder: Path, name: str) -> Path:
    return folder / ENTRIES / f"{name}.json"


def read_entries(folder: Path, name: str) -> tuple[ClipEntry, ...]:
    """The entries of one shard, in the order of its rows.

    Raises: TrainingDataError if the file is missing or not what was written.
    """
    path = entries_path(folder, name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingDataError(f"a file of the cached clips, {path}, cannot be read ({error}). {AGAIN}.") from error
    if entries_name(text) != name:
        raise TrainingDataError(f"a file of the cached clips, {path}, has changed since it was written. {AGAIN}.")
    return tuple(_entry_of(entry) for entry in json.loads(text))


def _entry_of(content: dict[str, Any]) -> ClipEntry:
    values: dict[str, Any] = {**content, "text": _place(content["text"])}
    return ClipEntry(**values)


def _index_of(content: dict[str, Any]) -> CacheIndex:
    values = {name: value for name, value in content.items() if name != "version"}
    values["buckets"] = tuple(_bucket_of(bucket) for bucket in values["buckets"])
    values["empty_text"] = _place(values["empty_text"])
    return CacheIndex(**values)


def _bucket_of(content: dict[str, Any]) -> BucketIndex:
    shards = tuple((str(latents), str(entries)) for latents, entries in content["shards"])
    values: dict[str, Any] = {**content, "shards": shards}
    bucket = BucketIndex(**values)
    if len(bucket.shards) != -(-bucket.count // bucket.clips_per_shard):
        raise ValueError(f"{len(bucket.shards)} shards for {bucket.count} clips")
    return bucket


def _place(value: object) -> TextPlace:
    shard, row = cast("tuple[str, int]", value)
    return str(shard), int(row)
