"""Sampling steps through ComfyUI's own sampler, timed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .clock import time_once
from .random_models import topology
from .settings import Settings

SIGMA = 5.0
"""Noise level of the measured step: inside the schedules of SD 1.5 (up to 14.6) and of AnimateDiff (up to 25.2)."""
CFG = 7.5
PROMPT_TOKENS = 77
POOLED_WIDTH = 1280
LATENT_CHANNELS = 4
SEED = 2


@dataclass
class Steps:
    """The steps of one variant."""

    seconds: list[float] = field(default_factory=lambda: [])
    """Every measured step, in order. Units: seconds."""
    denoised: Tensor | None = None
    """What the last step predicted. Shapes: `f c h w`"""


def measure_interleaved(models: Mapping[str, ModelPatcher], settings: Settings) -> dict[str, Steps]:
    """Steps of all variants in turn (A B C A B C ...), after a first round that does not count."""
    measured = {name: Steps() for name in models}
    for turn in range(settings.repeats + 1):
        for name, model in models.items():
            seconds, measured[name].denoised = run_step(model, settings)
            if turn:
                measured[name].seconds.append(seconds)
    return measured


@torch.inference_mode()
def run_step(model: ModelPatcher, settings: Settings) -> tuple[float, Tensor]:
    """The seconds of one denoising step with both prompts, and its prediction. Loading the model is not in them."""
    generator = torch.Generator().manual_seed(SEED)
    size = settings.latent_size
    noise = torch.randn(settings.frames, LATENT_CHANNELS, size, size, generator=generator)
    positive, negative = (_random_prompt(topology(settings).context_width, generator) for _ in range(2))
    seconds: list[float] = []
    denoised = comfy.sample.sample_custom(
        model,
        noise,
        CFG,
        comfy.samplers.KSAMPLER(_one_step, {"seconds": seconds}),
        torch.tensor([SIGMA, 0.0]),
        positive,
        negative,
        torch.zeros_like(noise),
        disable_pbar=True,
        seed=SEED,
    )
    return seconds[0], denoised


def _random_prompt(width: int, generator: torch.Generator) -> list[Any]:
    """CONDITIONING of one prompt. Only SDXL reads the pooled output."""
    pooled = torch.randn(1, POOLED_WIDTH, generator=generator)
    return [[torch.randn(1, PROMPT_TOKENS, width, generator=generator), {"pooled_output": pooled}]]


def _one_step(
    model: Any, x: Tensor, sigmas: Tensor, seconds: list[float], extra_args: dict[str, Any], **_: Any
) -> Tensor:
    """A sampler of a single step, in the form of k-diffusion's: the model is called as Euler's method calls it."""
    taken, denoised = time_once(lambda: model(x, sigmas[:1].expand(x.shape[0]), **extra_args))
    seconds.append(taken)
    return denoised
