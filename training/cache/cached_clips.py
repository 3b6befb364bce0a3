"""Clips as training reads them: latents and text states, from shards on disk, one clip at a time."""

from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import CheckpointError, TrainingDataError, shown
from ...core.shard_files import ShardFile
from .cache_index import AGAIN, LATENTS, TEXT, CacheIndex, TextPlace, read_entries, read_index

OPEN_SHARDS = 64
"""Shards, and files of entries, that are kept open at once."""
PLAIN, MIRRORED = "latents", "latents_mirrored"
STATES, POOLED = "states", "pooled"


@dataclass(frozen=True)
class Bucket:
    """Clips of one size. Units: as their latents, pixels divided by 8"""

    num_frames: int
    channels: int
    height: int
    width: int
    count: int
    """Clips in it."""


@dataclass(frozen=True)
class TextStates:
    """What a text encoder makes of a caption."""

    states: Tensor
    """Shapes: `n d`"""
    pooled: Tensor | None
    """SDXL's; None for SD 1.5. Shapes: `p`"""


@dataclass(frozen=True)
class CachedClip:
    """One clip, encoded. Units: height and width in pixels"""

    name: str
    caption: str
    latents: Tensor
    """As the VAE gives them, not yet scaled for the model; float16. Shapes: `f c h w`"""
    text: TextStates
    height: int
    width: int


class CachedClips:
    """A finished cache. It holds the index alone; clips are read when asked for, from any thread."""

    def __init__(self, folder: Path, index: CacheIndex):
        self.folder = folder
        self.name = folder.name
        self.fingerprint = index.fingerprint
        self.vae_hash, self.clip_hash = index.vae_hash, index.clip_hash
        self.buckets = tuple(
            Bucket(bucket.num_frames, bucket.channels, bucket.height, bucket.width, bucket.count)
            for bucket in index.buckets
        )
        self.has_mirrored = index.has_mirrored
        self.text_width, self.pooled_width = index.text_width, index.pooled_width
        self.frame_stride = index.frame_stride
        self.camera_motion = index.camera_motion
        self._index = index
        self._shards = lru_cache(OPEN_SHARDS)(ShardFile)
        self._entries = lru_cache(OPEN_SHARDS)(partial(read_entries, folder))

    def __len__(self) -> int:
        return sum(bucket.count for bucket in self.buckets)

    def clip(self, bucket: int, number: int, mirrored: bool = False) -> CachedClip:
        """A clip of a bucket, or the same clip mirrored left to right. Every tensor is the caller's own.

        Raises: TrainingDataError naming the shard or clip that is missing, damaged or not finite.
        """
        place = self._index.buckets[bucket]
        if not 0 <= number < place.count:
            raise IndexError(f"bucket {bucket} of {self.name} has {place.count} clips, asked for number {number}")
        shard, row = divmod(number, place.clips_per_shard)
        latents_name, entries_name = place.shards[shard]
        entry = self._entries(entries_name)[row]
        file = self._latents_of(latents_name, (place.rows_in(shard), *_shape(self.buckets[bucket])), mirrored)
        latents = self._row(file, MIRRORED if mirrored else PLAIN, row, f"clip {shown(entry.name)}")
        return CachedClip(entry.name, entry.caption, latents, self._text(entry.text), entry.height, entry.width)

    @cached_property
    def empty_text(self) -> TextStates:
        """The text states of the empty caption."""
        return self._text(self._index.empty_text)

    def _latents_of(self, name: str, shape: tuple[int, ...], mirrored: bool) -> ShardFile:
        if mirrored and not self.has_mirrored:
            raise TrainingDataError(
                f"{self.name} was cached without mirrored clips. Set flip of Load Training Clips and cache it again."
            )
        file = self._open(LATENTS, name)
        expected = {PLAIN: shape, MIRRORED: shape} if self.has_mirrored else {PLAIN: shape}
        if file.shapes != expected:
            raise self._unusable(file.path, f"it should hold {expected} and holds {file.shapes}")
        return file

    def _text(self, place: TextPlace) -> TextStates:
        name, row = place
        file = self._open(TEXT, name)
        what = f"a caption (row {row})"
        states = self._row(file, STATES, row, what)
        pooled = None if self.pooled_width is None else self._row(file, POOLED, row, what)
        widths = (states.shape[-1], None if pooled is None else pooled.shape[-1])
        if widths != (self.text_width, self.pooled_width):
            raise self._unusable(file.path, f"{what} should be {self.text_width} wide and is {widths[0]}")
        return TextStates(states, pooled)

    def _open(self, kind: str, name: str) -> ShardFile:
        path = self.folder / kind / f"{name}.safetensors"
        try:
            return self._shards(path)
        except CheckpointError as error:
            raise self._unusable(path, str(error)) from error

    def _row(self, file: ShardFile, tensor: str, row: int, what: str) -> Tensor:
        try:
            value = file.row(tensor, row)
        except CheckpointError as error:
            raise self._unusable(file.path, str(error)) from error
        # NaN and infinity do not leave a sum, and float16 numbers cannot overflow it: ten times as fast as isfinite.
        if not torch.isfinite(value.sum(dtype=torch.float32)):
            raise self._unusable(file.path, f"{what} holds NaN or infinity")
        return value

    def _unusable(self, path: Path, found: str) -> TrainingDataError:
        return TrainingDataError(
            f"a shard of the cached clips {self.name}, {path}, cannot be used: {found}. {AGAIN}; it makes this shard "
            "anew and keeps the others."
        )


def open_cached_clips(folder: Path) -> CachedClips:
    """The finished cache in a folder.

    Raises: TrainingDataError if it is missing, unfinished, damaged or of another version.
    """
    return CachedClips(folder, read_index(folder))


def _shape(bucket: Bucket) -> tuple[int, ...]:
    return bucket.num_frames, bucket.channels, bucket.height, bucket.width
