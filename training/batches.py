"""From the cached clips to what goes through the model at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import SettingsError
from .cache.cached_clips import CachedClip, CachedClips, TextStates
from .denoiser import Conditioning, Denoiser
from .draws import Draw, draw, noise_of
from .settings import TrainingSettings


@dataclass(frozen=True)
class Batch:
    """Clips on the model's device, and the noise that is added to them."""

    latents: Tensor
    """Shapes: `(b f) c h w`, float32, as the model takes them"""
    noise: Tensor
    """Shapes: as the latents"""
    timesteps: Tensor
    """Shapes: `b`, int64"""
    conditioning: Conditioning
    num_frames: int
    names: tuple[str, ...]
    """Of the clips, for messages."""


class TrainingData:
    """A cached set as the loop sees it: clips to train on, and a few to measure by."""

    def __init__(self, cached: CachedClips, settings: TrainingSettings, single_frames: bool):
        self.cached = cached
        self.settings = settings
        self.single_frames = single_frames
        held_out = _held_out([bucket.count for bucket in cached.buckets], settings.held_out, cached.name)
        self.counts = tuple(bucket.count - held for bucket, held in zip(cached.buckets, held_out, strict=True))
        self.validation = _validation_clips(self.counts, held_out)
        """Bucket and number of each clip to measure by."""

    def draws(self, step: int) -> list[Draw]:
        """What a step trains on, in the order of its global batch."""
        settings, batch = self.settings, self.settings.global_batch
        flip = self.cached.has_mirrored
        return [
            draw(self.counts, settings.seed, step, index, batch, settings.caption_dropout, flip)
            for index in range(batch)
        ]

    def batch(self, draws: Sequence[Draw], denoiser: Denoiser) -> Batch:
        """The clips of some draws, noise included, on the model's device."""
        clips = [self.cached.clip(each.bucket, each.number, each.is_mirrored) for each in draws]
        latents = [self._frames_of(clip.latents, each.frame) for clip, each in zip(clips, draws, strict=True)]
        noise = [noise_of(each.noise_seed, tuple(one.shape)) for one, each in zip(latents, draws, strict=True)]
        texts = [
            clip.text if each.is_captioned else self.cached.empty_text for clip, each in zip(clips, draws, strict=True)
        ]
        device = denoiser.device
        return Batch(
            latents=denoiser.scale_latents(torch.cat(latents).float().to(device)),
            noise=torch.cat(noise).to(device),
            timesteps=torch.tensor([each.timestep for each in draws], device=device),
            conditioning=conditioning(clips, texts),
            num_frames=latents[0].shape[0],
            names=tuple(clip.name for clip in clips),
        )

    def _frames_of(self, latents: Tensor, place: float) -> Tensor:
        """The whole clip, or one of its frames. Shapes: `f c h w` -> `f c h w` or `1 c h w`"""
        if not self.single_frames:
            return latents
        frame = int(place * latents.shape[0])
        return latents[frame : frame + 1]


def conditioning(clips: Sequence[CachedClip], texts: Sequence[TextStates]) -> Conditioning:
    """What the model is told about some clips."""
    return Conditioning(tuple(texts), tuple((clip.height, clip.width) for clip in clips))


def stacked_states(texts: Sequence[TextStates]) -> Tensor:
    """Text states of several captions as one tensor. Shorter ones are repeated, by which attention does not change.

    Shapes: -> `b n d`
    """
    length = math.lcm(*(text.states.shape[0] for text in texts))
    return torch.stack([text.states.repeat(length // text.states.shape[0], 1) for text in texts])


MAX_VALIDATION_CLIPS = 4
"""Clips of the training set that are measured where none are held out."""


def _held_out(counts: Sequence[int], wanted: int, name: str) -> list[int]:
    """How many clips each bucket keeps for validation, taken in turn from whichever has most left.

    Raises: SettingsError if a bucket would have none left to train on.
    """
    most = sum(counts) - len(counts)
    if wanted > most:
        raise SettingsError(
            f"held_out is {wanted}, and of the {sum(counts)} clips of {name} at most {most} can be kept from training. "
            f"Set held_out to {min(most, max(1, sum(counts) // 10)) if most else 0}, or cache more clips."
        )
    held = [0] * len(counts)
    for _ in range(wanted):
        largest = max(range(len(counts)), key=lambda bucket: counts[bucket] - held[bucket])
        held[largest] += 1
    return held


def _validation_clips(counts: Sequence[int], held_out: Sequence[int]) -> list[tuple[int, int]]:
    held = [(bucket, counts[bucket] + extra) for bucket in range(len(counts)) for extra in range(held_out[bucket])]
    most = range(MAX_VALIDATION_CLIPS)
    trained = [(bucket, number) for number in most for bucket, count in enumerate(counts) if number < count]
    return held or trained[:MAX_VALIDATION_CLIPS]
