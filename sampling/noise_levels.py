"""The noise levels that a sampler passes on its way from noise to a clip."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from ..core.errors import SettingsError


@dataclass(frozen=True)
class NoiseLevel:
    """One step of a sampler."""

    timestep: int
    """What the model is told."""
    sigma: float
    """√((1-ᾱ)/ᾱ): noise for each unit of signal."""


def ddim_levels(shares: Tensor, steps: int) -> list[NoiseLevel]:
    """Every n-th timestep, counted from 1, as AnimateDiff was published with.

    Shapes: shares `t` (ᾱ by timestep)
    Source: guoyww/AnimateDiff inference-v*.yaml `steps_offset: 1`; huggingface/diffusers scheduling_ddim.py,
    `timestep_spacing` "leading".
    """
    spacing = len(shares) // steps
    times = [min(each * spacing + 1, len(shares) - 1) for each in reversed(range(steps))]
    sigmas = _sigmas(shares)
    return [NoiseLevel(time, float(sigmas[time])) for time in times]


def normal_levels(shares: Tensor, steps: int) -> list[NoiseLevel]:
    """Timesteps at even distances from the last to the first, as ComfyUI's scheduler `normal` has them.

    Between two timesteps the logarithm of sigma is interpolated, and the model is told the nearer one.

    Shapes: shares `t` (ᾱ by timestep)
    Source: ComfyUI samplers.py, `normal_scheduler`; model_sampling.py, `ModelSamplingDiscrete`.
    """
    logarithms = _sigmas(shares).log().float()
    levels: list[NoiseLevel] = []
    for place in torch.linspace(len(shares) - 1, 0, steps):
        low, share = int(place.floor()), place.frac()
        found = ((1 - share) * logarithms[low] + share * logarithms[int(place.ceil())]).exp()
        # In float32, and from sigma back to its logarithm, as ComfyUI does: halfway between two, rounding decides.
        nearest = int((found.log() - logarithms).abs().argmin())
        levels.append(NoiseLevel(nearest, float(found)))
    return levels


SAMPLERS: Mapping[str, Callable[[Tensor, int], list[NoiseLevel]]] = MappingProxyType(
    {"ddim": ddim_levels, "euler": normal_levels}
)
"""Both take the same steps between their levels; `euler` passes those of ComfyUI's Euler sampler."""


def noise_levels(sampler: str, shares: Tensor, steps: int) -> list[NoiseLevel]:
    """The levels of a sampler, most noise first; after the last one follows a clip without noise.

    Raises: SettingsError for an unknown sampler, or steps that there are no timesteps for.
    """
    if sampler not in SAMPLERS:
        raise SettingsError(f"sampler should be one of {', '.join(SAMPLERS)}, found {sampler}. Choose one of these.")
    if not 1 <= steps <= len(shares):
        raise SettingsError(f"steps should be 1 to {len(shares)}, found {steps}. 25 suit most clips.")
    return SAMPLERS[sampler](shares, steps)


def euler_step(x: Tensor, noise: Tensor, level: NoiseLevel, following: NoiseLevel | None) -> Tensor:
    """The clip at the next level, from the noise that the model sees in it at this one.

    In units of x/√ᾱ both DDIM without randomness and Euler's method go straight on: x + (σ' - σ) ε.

    Shapes: x and noise `f c h w` -> `f c h w`, x over its signal's share as `start_of` gives it
    Source: arXiv 2010.02502 equations 13 and 14; arXiv 2206.00364 algorithm 1 without churn.
    """
    sigma = 0.0 if following is None else following.sigma
    return x + (sigma - level.sigma) * noise


def start_of(noise: Tensor, level: NoiseLevel) -> Tensor:
    """Pure noise as the first level's clip: x/√ᾱ with x of variance 1."""
    return noise * (1 + level.sigma**2) ** 0.5


def as_model_sees(x: Tensor, level: NoiseLevel) -> Tensor:
    """The clip at a level in the size that the model was trained on: x, of variance 1."""
    return x / (1 + level.sigma**2) ** 0.5


def _sigmas(shares: Tensor) -> Tensor:
    return ((1 - shares) / shares).sqrt()
