"""Small caches of clips that never were a video, made by an encoder that draws its answers."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from motiongraft.training.cache.cache_writer import cache_clips
from motiongraft.training.cache.cached_clips import CachedClips, TextStates
from motiongraft.training.cache.clip_identity import caption_hash
from motiongraft.training.data.clips import TrainingClips

PIXELS = 8
"""Of a side of a frame, for one of its latents."""


@dataclass(frozen=True)
class ToyClip:
    """Random frames under a caption, with what a cache asks of a clip. Units: height and width in pixels"""

    name: str
    caption: str
    num_frames: int = 4
    height: int = 64
    width: int = 64
    camera: Any = None
    seed: int = 0
    files: tuple[Path, ...] = ()
    cut: str = "whole"

    def read(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(self.num_frames, self.height, self.width, 3, generator=generator)

    def content_files(self) -> tuple[Path, ...]:
        return self.files

    def transform_key(self) -> str:
        content = self.files or self.seed
        return f"{self.cut} {self.num_frames} {self.height} {self.width} {'' if self.files else content}"


@dataclass
class ToyEncoder:
    """Latents that depend on frames and seed, text states that depend on the caption; counts what it is asked."""

    vae_hash: str = "vae"
    clip_hash: str = "clip"
    text_width: int = 32
    pooled_width: int = 0
    tokens: int = 77
    seeds: list[int] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)

    def encode_frames(self, frames: Tensor, seed: int) -> Tensor:
        self.seeds.append(seed)
        generator = torch.Generator().manual_seed(seed)
        num_frames, height, width, _ = frames.shape
        noise = torch.randn(num_frames, 4, height // PIXELS, width // PIXELS, generator=generator)
        return noise + frames[:, ::PIXELS, ::PIXELS, 0][:, None]

    def encode_text(self, caption: str) -> TextStates:
        self.captions.append(caption)
        generator = torch.Generator().manual_seed(int(caption_hash(caption)[:15], 16))
        sections = 1 + len(caption.split()) // 75
        states = torch.randn(sections * self.tokens, self.text_width, generator=generator)
        pooled = torch.randn(self.pooled_width, generator=generator) if self.pooled_width else None
        return TextStates(states, pooled)

    @property
    def calls(self) -> int:
        return len(self.seeds) + len(self.captions)

    def forget(self) -> None:
        """Count from zero again."""
        self.seeds.clear()
        self.captions.clear()


def toy_clips(num_clips: int = 4, flip: bool = False, **clip: Any) -> TrainingClips:
    """Clips that differ in content and caption."""
    clips = [ToyClip(f"clip {number}", f"caption {number}", seed=number, **clip) for number in range(num_clips)]
    return as_set(clips, flip)


def as_set(clips: Any, flip: bool = False) -> TrainingClips:
    return TrainingClips(tuple(clips), flip=flip, frame_stride=4, camera_motion=None)


def changed(clips: TrainingClips, number: int, **changes: Any) -> TrainingClips:
    """The same clips, one of them changed."""
    members: list[Any] = list(clips.clips)
    members[number] = replace(members[number], **changes)
    return replace(clips, clips=tuple(members))


def write_toy_cache(
    folder: Path,
    num_clips: int = 4,
    frames: int = 4,
    height: int = 8,
    width: int = 8,
    text_width: int = 32,
    pooled_width: int = 0,
    flip: bool = False,
    seed: int = 0,
) -> CachedClips:
    """A small finished cache with random latents. Units: height and width as latents; pooled_width 0 stores none"""
    clips = [
        ToyClip(f"clip {number}", f"caption {number}", frames, height * PIXELS, width * PIXELS, seed=seed + number)
        for number in range(num_clips)
    ]
    encoder = ToyEncoder(text_width=text_width, pooled_width=pooled_width)
    return cache_clips(as_set(clips, flip), encoder, folder)
