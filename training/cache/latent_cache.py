"""Latents in a cache: shards that are there stay, clips that moved are copied, and only the rest is encoded."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import lru_cache

import torch
from torch import Tensor

from ...core.errors import TrainingDataError
from .cache_plan import PlannedBucket, PlannedClip, PlannedShard, latent_bytes
from .cached_clips import MIRRORED, PLAIN
from .clip_encoder import ClipEncoder, checked_frames, encoded_frames
from .shard_store import ShardStore

READ_AHEAD = 1
"""Clips that are decoded while another is encoded."""
_Row = dict[str, Tensor]
"""The latents of one clip, and of the mirrored clip where the cache holds it, by the name of their tensor."""


class LatentCache:
    """The latent shards of a cache."""

    def __init__(self, store: ShardStore, encoder: ClipEncoder, buckets: Sequence[PlannedBucket], flip: bool):
        self._store = store
        self._encoder = encoder
        self._tensors = (PLAIN, MIRRORED) if flip else (PLAIN,)
        self._shards = [shard for bucket in buckets for shard in bucket.shards]
        self._places: dict[str, tuple[str, int]] = {}
        self._open = lru_cache(4)(store.open)
        self.missing: list[PlannedShard] = []

    def verify(self, on_shard: Callable[[int], None]) -> None:
        """Find what is missing; shards that are damaged are named in a warning, and missing from then on.

        `on_shard` is given the number of clips in each sound shard.
        """
        for shard in self._shards:
            if self._store.is_sound(shard.name):
                on_shard(len(shard.clips))
            else:
                self.missing.append(shard)
        wanted = {clip.fingerprint for shard in self.missing for clip in shard.clips}
        self._places = self._store.places(wanted.__contains__)

    def missing_bytes(self) -> int:
        """About what the missing shards will take."""
        return sum(len(self._tensors) * latent_bytes(*clip.size) for shard in self.missing for clip in shard.clips)

    def to_encode(self) -> list[PlannedClip]:
        """The clips that lie nowhere yet, in the order of their shards; of clips with the same frames, one."""
        clips = {clip.fingerprint: clip for shard in self.missing for clip in shard.clips}
        return [clip for clip in clips.values() if not self._is_stored(clip)]

    def write_missing(self, on_clip: Callable[[], None]) -> None:
        """Make the missing shards, one after the other. `on_clip` is called after each clip."""
        with closing(_read_ahead(self.to_encode())) as frames:
            last, row = "", _Row()
            for shard in self.missing:
                rows: list[_Row] = []
                for clip in shard.clips:
                    if clip.fingerprint != last:
                        last, row = clip.fingerprint, self._row(clip, frames)
                    rows.append(row)
                    on_clip()
                self._write(shard, rows)
        self._open.cache_clear()  # Windows does not remove files that are open

    def shape(self, shard: PlannedShard) -> tuple[int, ...]:
        """The latents of one clip of a shard that is written. Shapes: `f c h w`"""
        return tuple(self._store.records[shard.name].shapes[PLAIN][1:])

    def _is_stored(self, clip: PlannedClip) -> bool:
        place = self._places.get(clip.fingerprint)
        return place is not None and set(self._tensors) <= set(self._store.records[place[0]].shapes)

    def _row(self, clip: PlannedClip, frames: Generator[Tensor, None, None]) -> _Row:
        row = self._stored(clip)
        if not self._is_stored(clip):
            source = next(frames)
            for name in self._tensors:
                if name not in row:
                    row[name] = encoded_frames(self._encoder, clip.clip, clip.fingerprint, source, name == MIRRORED)
        return row

    def _stored(self, clip: PlannedClip) -> _Row:
        """What of a clip lies in another shard."""
        if clip.fingerprint not in self._places:
            return {}
        name, number = self._places[clip.fingerprint]
        file = self._open(name)
        return {tensor: file.row(tensor, number) for tensor in self._tensors if tensor in file.shapes}

    def _write(self, shard: PlannedShard, rows: Sequence[_Row]) -> None:
        for clip, row in zip(shard.clips, rows, strict=True):
            if any(tensor.shape != rows[0][PLAIN].shape for tensor in row.values()):
                raise TrainingDataError(
                    f"{clip.clip.name} and {shard.clips[0].clip.name} have the same size, and the VAE gave latents of "
                    "different shapes. Use the VAE of SD 1.5 or SDXL."
                )
        keys = [clip.fingerprint for clip in shard.clips]
        tensors = {name: torch.stack([row[name] for row in rows]) for name in self._tensors}
        self._store.write(shard.name, self._encoder.vae_hash, keys, tensors)


def _read_ahead(clips: Sequence[PlannedClip]) -> Generator[Tensor, None, None]:
    """The frames of each clip, the next ones read while a clip is encoded: decoding and encoding take as long."""
    with ThreadPoolExecutor(1) as pool:
        reading: deque[Future[Tensor]] = deque()
        for clip in clips:
            reading.append(pool.submit(checked_frames, clip.clip))
            if len(reading) > READ_AHEAD:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()
