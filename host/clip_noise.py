"""The noise of a clip as ComfyUI's NOISE, for SampleAnimation and every sampler that takes one."""

from collections.abc import Sequence
from typing import Any

import comfy.sample
from torch import Tensor

from ..core.errors import ShapeError
from ..sampling.frame_noise import FrameNoiseSettings, clip_noise

FRAMES_NDIM = 4
"""Of a batch of latents; those of video models have more."""


class ClipNoise:
    """ComfyUI's NOISE: what a sampler asks for the noise of a latent, and for the seed of what it draws itself."""

    def __init__(self, settings: FrameNoiseSettings):
        self.settings = settings
        self.seed = settings.seed

    def generate_noise(self, latent: dict[str, Any]) -> Tensor:
        """The noise of a clip's frames. Where the latent numbers them (`batch_index`), they have these numbers.

        Shapes: samples `f c h w` -> the same
        Raises: SettingsError if a frame has a seed that the clip does not have; ShapeError for what is no batch.
        """
        samples, numbers = latent["samples"], latent.get("batch_index")
        if samples.is_nested or samples.ndim != FRAMES_NDIM:
            raise ShapeError(
                "Frame Noise: expected frames×channels×height×width, a batch of frames, found another kind of latent. "
                "Take RandomNoise for a video model."
            )
        if not numbers:
            self.settings.seeds.check_clip(samples.shape[0])

        def draw(seed: int, frames: Sequence[int]) -> Tensor:
            return comfy.sample.prepare_noise(samples, seed, list(frames))

        return clip_noise(self.settings, numbers or range(samples.shape[0]), draw)


def noise_of(noise: Any, latent: dict[str, Any]) -> Tensor:
    """What a NOISE of any node gives for a latent.

    Raises: ShapeError if that has another shape than the latent.
    """
    given, frames = noise.generate_noise(latent), latent["samples"]
    if given.shape != frames.shape:
        raise ShapeError(
            f"noise: expected one of the latent's shape {tuple(frames.shape)}, found {tuple(given.shape)}. "
            "Connect Frame Noise or RandomNoise, or leave the input free."
        )
    return given
