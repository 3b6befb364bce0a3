"""Clips from noise, one after the other through the same steps of DDIM, each from the noise of its own seed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...core.seeds import derived_seed
from ...training.cache.cached_clips import TextStates
from ...training.denoiser import Conditioning, Denoiser
from ...training.draws import NUM_TIMESTEPS, noise_of
from ...training.noise_schedule import noise_from
from ..toy_world.picture_codec import CHANNELS, DOWNSCALE, decoded
from ..toy_world.waves import SIDE
from ..toy_world.word_vectors import text_states

GUIDANCE = 2.0
"""Low: eight captions are easily told apart."""
SMALLEST_SHARE = 1e-8


@torch.no_grad()
def animate(
    denoiser: Denoiser, shares: Tensor, captions: Sequence[str], num_frames: int, steps: int, seed: int
) -> Tensor:
    """One clip for each caption.

    Shapes: shares `t` (ᾱ of the schedule) -> `b f h w`, levels
    Source: arXiv 2010.02502 equation 12 with σ = 0; guidance arXiv 2207.12598 equation 6.
    """
    side = SIDE // DOWNSCALE
    shape = (num_frames, CHANNELS, side, side)
    x = torch.cat([noise_of(derived_seed(seed, "animation", each), shape) for each in range(len(captions))])
    told = _told([*captions, *[""] * len(captions)])
    times = [round(NUM_TIMESTEPS * (1 - each / steps)) - 1 for each in range(steps)]
    for time, later in zip(times, [*times[1:], None], strict=True):
        now = shares[time].clamp(min=SMALLEST_SHARE).to(x)
        then = torch.ones_like(now) if later is None else shares[later].to(x)
        both = denoiser.predict(x.repeat(2, 1, 1, 1), torch.full((2 * len(captions),), time), told, num_frames)
        captioned, empty = both.chunk(2)
        noise = noise_from(empty + GUIDANCE * (captioned - empty), x, now.expand(len(x)), denoiser.predicts)
        clean = (x - (1 - now).sqrt() * noise) / now.sqrt()
        x = then.sqrt() * clean + (1 - then).sqrt() * noise
    return decoded(x).unflatten(0, (len(captions), num_frames))


def _told(captions: Sequence[str]) -> Conditioning:
    texts = tuple(TextStates(text_states(caption), None) for caption in captions)
    return Conditioning(texts, ((SIDE, SIDE),) * len(texts))
