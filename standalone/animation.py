"""A clip from noise: the sampling loop over frames and windows, for any denoiser."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.errors import SettingsError
from ..sampling.context_windows import ContextWindowSettings
from ..sampling.frame_noise import frame_noise
from ..sampling.noise_levels import NoiseLevel, as_model_sees, euler_step, noise_levels, start_of
from ..sampling.window_indices import free_noise, fuse, window_indices
from ..training.cache.cached_clips import TextStates
from ..training.denoiser import Conditioning, Denoiser
from ..training.noise_schedule import noise_from

PIXELS = 8
"""Of a side of a frame, for one of its latents."""
LATENT_CHANNELS = 4


@dataclass(frozen=True)
class AnimationSettings:
    """What decides a clip beside models and prompts. Units: width and height in pixels.

    Raises: SettingsError for sizes that there are no latents for.
    """

    frames: int = 16
    width: int = 512
    height: int = 512
    steps: int = 25
    cfg: float = 7.5
    seed: int = 0
    sampler: str = "ddim"
    windows: ContextWindowSettings = field(default_factory=ContextWindowSettings)
    """By which a clip that is longer than a window is sampled."""

    def __post_init__(self):
        sides = (self.width, self.height)
        if any(side < PIXELS or side % PIXELS for side in sides):
            raise SettingsError(
                f"width and height should be multiples of {PIXELS}, found {self.width}×{self.height}. "
                f"Set them to {max(PIXELS, round(self.width / PIXELS) * PIXELS)} and "
                f"{max(PIXELS, round(self.height / PIXELS) * PIXELS)}."
            )
        if self.frames < 1:
            raise SettingsError(f"frames should be 1 or more, found {self.frames}. 16 suit most motion modules.")
        if not 0 <= self.seed < 2**64:
            raise SettingsError(f"seed should be 0 or more and below 2^64, found {self.seed}. Choose another.")

    @property
    def is_windowed(self) -> bool:
        return self.frames > self.windows.length


@dataclass(frozen=True)
class Prompts:
    """What a clip should show, and what it should not."""

    positive: TextStates
    negative: TextStates


@torch.no_grad()
def animate(
    denoiser: Denoiser,
    shares: Tensor,
    prompts: Prompts,
    settings: AnimationSettings,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """The latents of a clip, as the model gives them. Frame i starts from the noise of (seed, i).

    Shapes: shares `t` (ᾱ of the motion module's noise schedule) -> `f c h w`, float32
    Raises: SettingsError for an unknown sampler; whatever `on_step` raises to stop.
    """
    levels = noise_levels(settings.sampler, shares, settings.steps)
    x = start_of(_noise(settings), levels[0]).to(denoiser.device)
    for step, (level, following) in enumerate(zip(levels, [*levels[1:], None], strict=True)):
        on_step(step, len(levels))
        x = euler_step(x, _guided_noise(denoiser, x, level, prompts, settings, step), level, following)
    on_step(len(levels), len(levels))
    return x


def _noise(settings: AnimationSettings) -> Tensor:
    height, width = settings.height // PIXELS, settings.width // PIXELS
    noise = frame_noise(settings.seed, settings.frames, LATENT_CHANNELS, height, width)
    if settings.is_windowed and settings.windows.freenoise:
        return free_noise(noise, settings.windows.length, settings.windows.overlap, settings.seed)
    return noise


def _guided_noise(
    denoiser: Denoiser, x: Tensor, level: NoiseLevel, prompts: Prompts, settings: AnimationSettings, step: int
) -> Tensor:
    """The noise in a clip, window by window. Shapes: x `f c h w` -> the same"""
    windows = window_indices(settings.windows, len(x), step, step / settings.steps)
    parts = [_noise_of_window(denoiser, x[window], level, prompts, settings) for window in windows]
    return parts[0] if len(parts) == 1 else fuse(settings.windows, windows, parts)


def _noise_of_window(
    denoiser: Denoiser, x: Tensor, level: NoiseLevel, prompts: Prompts, settings: AnimationSettings
) -> Tensor:
    """Under classifier-free guidance, both prompts in one batch; a guidance of 1 needs the positive one alone.

    Source: arXiv 2207.12598 equation 6, with w + 1 as the scale.
    """
    texts = (prompts.positive,) if settings.cfg == 1 else (prompts.positive, prompts.negative)
    noisy = as_model_sees(x, level)
    told = Conditioning(texts, ((settings.height, settings.width),) * len(texts))
    timesteps = torch.full((len(texts),), level.timestep, device=x.device)
    predicted = denoiser.predict(noisy.repeat(len(texts), 1, 1, 1), timesteps, told, len(x))
    shares = torch.full((len(predicted),), 1 / (1 + level.sigma**2), dtype=torch.float64)
    found = noise_from(predicted, noisy.repeat(len(texts), 1, 1, 1), shares, denoiser.predicts).chunk(len(texts))
    return found[0] if len(found) == 1 else found[1] + settings.cfg * (found[0] - found[1])
