"""What the training loop asks of a host: a base model that predicts noise with the trained weights in place."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .cache.cached_clips import TextStates

NOISE = "noise"
VELOCITY = "velocity"
"""What a base predicts: the noise (ε), or v = √ᾱ ε - √(1-ᾱ) x₀ (arXiv 2202.00512, appendix D)."""


@dataclass(frozen=True)
class Conditioning:
    """What a base model is told about a batch of clips."""

    texts: tuple[TextStates, ...]
    """One for each clip."""
    sizes: tuple[tuple[int, int], ...]
    """Height and width of each clip in pixels; SDXL is told."""


class Denoiser(Protocol):
    """A base model with the trained weights spliced in. It is the loop's alone: nobody else sees what is done to it."""

    checkpointing: bool
    """Whether activations are computed again in the backward pass instead of kept."""

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        ...

    @property
    def predicts(self) -> str:
        """`noise` or `velocity`."""
        ...

    @property
    def base_alphas(self) -> Tensor:
        """ᾱ of the base's own noise schedule, by timestep. Shapes: `t`, float64."""
        ...

    def free_memory(self) -> int:
        """Bytes that training may still take on the model's device."""
        ...

    def scale_latents(self, latents: Tensor) -> Tensor:
        """Latents of the VAE in the size that the model was trained on. Shapes: `n c h w` -> the same"""
        ...

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning, num_frames: int) -> Tensor:
        """What the model makes of noisy clips.

        Shapes: noisy `(b f) c h w`, timesteps `b` -> `(b f) c h w`, in the type of `noisy`
        """
        ...
