"""Which clip of a cache lies where: a function of the clips alone, whatever their order and the cache's history."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ..data.clips import TrainingClip
from .cache_index import VERSION
from .clip_identity import hashed

CLIPS_PER_SHARD = 64
MAX_SHARD_BYTES = 64 << 20
"""Long or large clips share a shard with fewer others: a shard is made in memory, and lost whole in a crash."""
LATENT_CHANNELS, DOWNSCALE, BYTES_PER_NUMBER = 4, 8, 2
"""Of SD 1.5 and SDXL, in float16."""


@dataclass(frozen=True)
class PlannedClip:
    """A clip with what identifies it."""

    clip: TrainingClip
    fingerprint: str
    caption_hash: str

    @property
    def size(self) -> tuple[int, int, int]:
        return self.clip.num_frames, self.clip.height, self.clip.width

    @property
    def order(self) -> tuple[str, str, str]:
        """Clips with the same fingerprint are neighbours, and a renamed file stays where it is."""
        return self.fingerprint, self.caption_hash, self.clip.name


@dataclass(frozen=True)
class PlannedShard:
    """The clips of one shard, and the name that follows from them."""

    name: str
    clips: tuple[PlannedClip, ...]


@dataclass(frozen=True)
class PlannedBucket:
    """All clips of one size."""

    clips_per_shard: int
    shards: tuple[PlannedShard, ...]

    @property
    def count(self) -> int:
        return sum(len(shard.clips) for shard in self.shards)


def plan_buckets(clips: Sequence[PlannedClip], vae_hash: str, flip: bool) -> tuple[PlannedBucket, ...]:
    """The clips sorted into buckets and shards."""
    ordered = sorted(clips, key=lambda clip: (clip.size, *clip.order))
    by_size = itertools.groupby(ordered, key=lambda clip: clip.size)
    return tuple(_bucket(size, list(members), vae_hash, flip) for size, members in by_size)


def latent_bytes(num_frames: int, height: int, width: int) -> int:
    """What one clip takes on the disk, mirrored ones not counted. Units: height and width in pixels"""
    return num_frames * LATENT_CHANNELS * (height // DOWNSCALE) * (width // DOWNSCALE) * BYTES_PER_NUMBER


def data_fingerprint(
    buckets: Sequence[PlannedBucket], vae_hash: str, clip_hash: str, flip: bool, frame_stride: int
) -> str:
    """What identifies the data of a run: every clip and caption in order, and the models that encoded them."""
    shards = [shard for bucket in buckets for shard in bucket.shards]
    captions = [hashed([clip.caption_hash for clip in shard.clips]) for shard in shards]
    names = [hashed([clip.fingerprint for clip in shard.clips]) for shard in shards]
    return hashed([VERSION, vae_hash, clip_hash, flip, frame_stride, names, captions])


def _bucket(size: tuple[int, int, int], clips: list[PlannedClip], vae_hash: str, flip: bool) -> PlannedBucket:
    clips_per_shard = max(1, min(CLIPS_PER_SHARD, MAX_SHARD_BYTES // max(1, latent_bytes(*size))))
    parts = [clips[start : start + clips_per_shard] for start in range(0, len(clips), clips_per_shard)]
    return PlannedBucket(clips_per_shard, tuple(_shard(size, part, vae_hash, flip) for part in parts))


def _shard(size: tuple[int, int, int], clips: list[PlannedClip], vae_hash: str, flip: bool) -> PlannedShard:
    num_frames, height, width = size
    content = hashed([VERSION, vae_hash, flip, [clip.fingerprint for clip in clips]])
    return PlannedShard(f"{num_frames}x{height}x{width}-{content[:24]}", tuple(clips))
