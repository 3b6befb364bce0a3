"""Makes a cache of clips, or brings one up to date: whatever is in it already and still fits is kept."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...core.errors import TrainingDataError
from ..data.clips import TrainingClip, TrainingClips
from ..runs.disk_space import check_free_space, write_errors_in_words
from ..runs.durable_files import is_temporary, write_text
from .cache_index import (
    ENTRIES,
    LATENTS,
    TEXT,
    BucketIndex,
    CacheIndex,
    ClipEntry,
    entries_name,
    entries_path,
    entries_text,
    write_index,
)
from .cache_lock import locked
from .cache_plan import PlannedBucket, PlannedClip, PlannedShard, data_fingerprint, plan_buckets
from .cached_clips import CachedClips
from .clip_encoder import ClipEncoder
from .clip_identity import ContentDigests, caption_hash, clip_fingerprint
from .latent_cache import LatentCache
from .shard_store import ShardStore, refusal, remove_file
from .text_cache import EMPTY, TextCache, TextPlaces

log = logging.getLogger(__name__)

OnClip = Callable[[int, int], None]
SPARE = 1.1
"""Names, captions and hashes beside the tensors, and captions that are longer than most."""


def cache_clips(clips: TrainingClips, encoder: ClipEncoder, folder: Path, on_clip: OnClip | None = None) -> CachedClips:
    """The clips and their captions, encoded, in a folder that is made or brought up to date.

    Only what is not there yet is encoded: after an interruption the shards that were not finished, after a changed
    caption that caption, after a damaged file what lay in it. Clips that are no longer among those given drop out. The
    result depends on clips, captions and models alone, not on their order or on what was there before.

    A folder that was filled with another VAE or text encoder is refused, and so is one of whose clips none is left:
    when all have other times, size or crop, or are other clips altogether, the name was hardly meant.

    `on_clip` gets the number of finished clips and of all clips, at least once for each clip, and often in between so
    that it may stop the run with an exception; at most the clips of one shard are then encoded again.

    Raises: TrainingDataError for clips that cannot be cached, or a folder that is refused; RunError if another process
    writes it, or the disk does not take it. What was finished before stays.
    """
    if not clips.clips:
        raise TrainingDataError("expected at least one clip to cache, found none. Choose a folder with clips.")
    with write_errors_in_words("The cache", folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        return _CacheWriter(clips, encoder, folder, on_clip or (lambda done, total: None)).write()


class _CacheWriter:
    """One run of `cache_clips`, in a folder that it has for itself."""

    def __init__(self, clips: TrainingClips, encoder: ClipEncoder, folder: Path, on_clip: OnClip):
        self.clips = clips
        self.encoder = encoder
        self.folder = folder
        self.on_clip = on_clip
        self.done = 0
        self.latent_shards = ShardStore(folder / LATENTS)
        self.text_shards = ShardStore(folder / TEXT)

    def write(self) -> CachedClips:
        self.latent_shards.check_model(self.encoder.vae_hash, "VAE")
        self.text_shards.check_model(self.encoder.clip_hash, "text encoder (CLIP)")
        planned = self._identified()
        self._check_kept(planned)
        buckets = plan_buckets(planned, self.encoder.vae_hash, self.clips.flip)
        latents = LatentCache(self.latent_shards, self.encoder, buckets, self.clips.flip)
        latents.verify(self._advance)
        captions = {clip.caption_hash: clip.clip.caption for clip in planned}
        texts = TextCache(self.text_shards, self.encoder, captions)
        self._encode(latents, texts)
        places = texts.finish()
        index = self._index(buckets, latents, places)
        with write_errors_in_words("The index of the cache", self.folder):
            write_index(self.folder, index)
        self._tidy(index, places)
        return CachedClips(self.folder, index)

    def _advance(self, num_clips: int = 0) -> None:
        self.done += num_clips
        self.on_clip(self.done, len(self.clips.clips))

    def _identified(self) -> list[PlannedClip]:
        digests = ContentDigests(self.folder)
        planned: list[PlannedClip] = []
        for clip in self.clips.clips:
            self._advance()
            planned.append(PlannedClip(clip, clip_fingerprint(clip, digests.of), caption_hash(clip.caption)))
        return planned

    def _check_kept(self, planned: Sequence[PlannedClip]) -> None:
        """Raises: TrainingDataError if a cache would lose every clip that it holds."""
        present = {clip.fingerprint for clip in planned}
        held = {key for record in self.latent_shards.records.values() for key in record.keys}
        if held and not held & present:
            raise refusal(
                self.folder,
                f"holds {len(held)} clips, and none of them is among these {len(present)} with the same frames, size "
                "and crop",
            )

    def _encode(self, latents: LatentCache, texts: TextCache) -> None:
        texts.write_empty()
        needed = latents.missing_bytes() + texts.missing_bytes()
        check_free_space(self.folder, int(needed * SPARE), f"The cache {self.folder.name}")
        num_captions, num_clips = len(texts.missing), len(latents.to_encode())
        texts.write_missing(self._advance)
        latents.write_missing(lambda: self._advance(1))
        log.info(
            "Cache %s: %d clips, of which %d were encoded now, and %d captions.",
            self.folder.name,
            len(self.clips.clips),
            num_clips,
            num_captions,
        )

    def _index(self, buckets: Sequence[PlannedBucket], latents: LatentCache, texts: TextPlaces) -> CacheIndex:
        vae_hash, clip_hash = self.encoder.vae_hash, self.encoder.clip_hash
        clips = self.clips
        return CacheIndex(
            fingerprint=data_fingerprint(buckets, vae_hash, clip_hash, clips.flip, clips.frame_stride),
            vae_hash=vae_hash,
            clip_hash=clip_hash,
            frame_stride=clips.frame_stride,
            camera_motion=clips.camera_motion,
            has_mirrored=clips.flip,
            text_width=texts.text_width,
            pooled_width=texts.pooled_width,
            empty_text=texts.places[caption_hash(EMPTY)],
            buckets=tuple(self._bucket(bucket, latents, texts) for bucket in buckets),
        )

    def _bucket(self, bucket: PlannedBucket, latents: LatentCache, texts: TextPlaces) -> BucketIndex:
        shape = latents.shape(bucket.shards[0])
        shards = tuple((shard.name, self._write_entries(shard, texts)) for shard in bucket.shards)
        return BucketIndex(*shape, count=bucket.count, clips_per_shard=bucket.clips_per_shard, shards=shards)

    def _write_entries(self, shard: PlannedShard, texts: TextPlaces) -> str:
        text = entries_text([_entry(clip, texts) for clip in shard.clips])
        name = entries_name(text)
        path = entries_path(self.folder, name)
        with write_errors_in_words("A list of clips", self.folder):
            path.parent.mkdir(exist_ok=True)
            if not path.is_file() or path.read_bytes() != text.encode():
                write_text(path, text)
        return name

    def _tidy(self, index: CacheIndex, texts: TextPlaces) -> None:
        """Remove what the finished index does not name."""
        shards = [names for bucket in index.buckets for names in bucket.shards]
        self.latent_shards.keep_only(latents for latents, _ in shards)
        self.text_shards.keep_only(name for name, _ in texts.places.values())
        named = {entries_path(self.folder, entries) for _, entries in shards}
        for path in (self.folder / ENTRIES).iterdir():
            if path not in named:
                remove_file(path)
        for path in self.folder.iterdir():
            if is_temporary(path.name):
                remove_file(path)


def _entry(clip: PlannedClip, texts: TextPlaces) -> ClipEntry:
    source: TrainingClip = clip.clip
    camera: dict[str, Any] | None = asdict(source.camera) if source.camera else None
    place = texts.places[clip.caption_hash]
    return ClipEntry(
        source.name, source.caption, clip.fingerprint, clip.caption_hash, source.height, source.width, camera, place
    )
