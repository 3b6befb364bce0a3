"""FreeInit: a clip's low frequencies as the beginning of a second sampling, so that its frames agree more.

Source: arXiv 2312.07537; TianxingWu/FreeInit freeinit_utils.py; diffusers pipelines/free_init_utils.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor

from ..core.errors import SettingsError
from ..core.seeds import derived_seed
from .frame_noise import frame_noise

_fft = cast(Any, torch.fft)
"""torch does not declare its types."""


@dataclass(frozen=True)
class FreeInitSettings:
    """How often a clip is sampled, and what of it the next sampling starts from. Defaults are the published ones.

    Raises: SettingsError for a number outside its range.
    """

    iterations: int = 3
    filter: str = "butterworth"
    order: int = 4
    """How steeply `butterworth` falls."""
    spatial_stop: float = 0.25
    """Where the filter ends between the pixels of a frame: 0 keeps nothing, 1 is the highest frequency."""
    temporal_stop: float = 0.25
    """The same between frames."""

    def __post_init__(self):
        if self.filter not in FILTERS:
            raise SettingsError(f"filter should be one of {', '.join(FILTERS)}, found {self.filter}. Choose one.")
        if self.iterations < 1 or self.order < 1:
            raise SettingsError(
                f"FreeInit needs iterations 1 or more and order 1 or more; found {self.iterations} and {self.order}. "
                "3 and 4 are the published ones."
            )
        if not (0 <= self.spatial_stop <= 1 and 0 <= self.temporal_stop <= 1):
            raise SettingsError(
                f"spatial_stop and temporal_stop should be 0 to 1, found {self.spatial_stop:g} and "
                f"{self.temporal_stop:g}. 0.25 and 0.25 are the published ones."
            )


def diffused(clip: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """A clip under as much noise as there is at a level: √ᾱ z + √(1-ᾱ) ε, where ᾱ is 1/(1+σ²).

    Shapes: clip and noise `f c h w` -> the same
    Source: arXiv 2312.07537, the diffusion to the last timestep in front of the noise reinitialization.
    """
    return (clip + sigma * noise) / (1 + sigma**2) ** 0.5


def reinitialized(noisy: Tensor, fresh: Tensor, kept: Tensor) -> Tensor:
    """The low frequencies of a noisy clip and the high ones of fresh noise, over frames, height and width together.

    By linearity: the fresh noise, and what of the difference the filter keeps.

    Shapes: noisy and fresh `f c h w`, kept `f 1 h w` -> `f c h w`
    Source: arXiv 2312.07537, noise reinitialization; TianxingWu/FreeInit freeinit_utils.py `freq_mix_3d`.
    """
    axes = (0, 2, 3)
    frequencies = _fft.fftn(noisy - fresh, dim=axes) * _fft.ifftshift(kept, dim=axes)
    return fresh + _fft.ifftn(frequencies, dim=axes).real


def low_pass(settings: FreeInitSettings, num_frames: int, height: int, width: int) -> Tensor:
    """How much of each frequency is kept, with the frequency 0 in the middle. A stop of 0 keeps none.

    Shapes: -> `f 1 h w`, float32, 0 to 1
    Source: TianxingWu/FreeInit freeinit_utils.py `get_freq_filter`. Along odd sizes its middle lies half a step off.
    """
    if settings.spatial_stop == 0 or settings.temporal_stop == 0:
        return torch.zeros(num_frames, 1, height, width)
    over_time = settings.spatial_stop / settings.temporal_stop * _places(num_frames)
    square = over_time.view(-1, 1, 1, 1) ** 2 + _places(height).view(-1, 1) ** 2 + _places(width) ** 2
    return FILTERS[settings.filter](square, settings).float()


def fresh_noise(seed: int, iteration: int, num_frames: int, channels: int, height: int, width: int) -> Tensor:
    """The noise whose high frequencies an iteration starts from: frame i has that of (seed, iteration, i).

    It is `frame_noise` of a seed hashed from `seed` and `iteration`, so that it is no noise of a neighbouring seed.

    Shapes: -> `f c h w`, float32 on the CPU. Units: height and width in latent pixels
    """
    return frame_noise(derived_seed("FreeInit", seed, iteration), num_frames, channels, height, width)


def _places(size: int) -> Tensor:
    """Where along an axis each frequency lies, from -1 up to below 1. Shapes: -> `size`, float64"""
    return 2 * torch.arange(size, dtype=torch.float64) / size - 1


def _butterworth(square: Tensor, settings: FreeInitSettings) -> Tensor:
    return 1 / (1 + (square / settings.spatial_stop**2) ** settings.order)


def _gaussian(square: Tensor, settings: FreeInitSettings) -> Tensor:
    return torch.exp(-square / (2 * settings.spatial_stop**2))


def _ideal(square: Tensor, settings: FreeInitSettings) -> Tensor:
    """All within a radius; as published, its square is twice the stop, where the others square the stop."""
    return (square <= 2 * settings.spatial_stop).double()


FILTERS: Mapping[str, Callable[[Tensor, FreeInitSettings], Tensor]] = MappingProxyType(
    {"butterworth": _butterworth, "gaussian": _gaussian, "ideal": _ideal}
)
"""How much is kept of frequencies by the square of their distance from 0."""
