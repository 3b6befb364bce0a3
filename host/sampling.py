"""SampleAnimation: ComfyUI's sampler, with noise that belongs to frames and a preview that moves."""

from collections.abc import Callable
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .clip_noise import noise_of
from .preview import AnimatedPreview

SAMPLERS = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS = comfy.samplers.KSampler.SCHEDULERS
EMPTY_LATENT_SIZES = ("downscale_ratio_spacial", "downscale_ratio_temporal")
"""ComfyUI's notes on an empty latent, without meaning once it is sampled."""


def sample_animation(
    model: ModelPatcher,
    positive: Any,
    negative: Any,
    latent: dict[str, Any],
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    denoise: float,
    preview: AnimatedPreview,
    noise: Any = None,
) -> dict[str, Any]:
    """The latent, sampled from a NOISE. Without one, frame i gets the noise of (seed, i), in a clip of any length.

    Shapes: samples `f c h w`
    Raises: ShapeError if the noise is for another latent.
        InterruptProcessingException within one window of the user's cancel.
    """
    sizes = [latent.get(name) for name in EMPTY_LATENT_SIZES]
    frames = comfy.sample.fix_empty_latent_channels(model, latent["samples"], *sizes)
    if noise is None:
        begin = frame_noise(frames, seed, latent.get("batch_index"))
    else:
        begin = noise_of(noise, {**latent, "samples": frames})
    samples = comfy.sample.sample(
        model,
        begin,
        steps,
        cfg,
        sampler_name,
        scheduler,
        positive,
        negative,
        frames,
        denoise=denoise,
        noise_mask=latent.get("noise_mask"),
        callback=_callback(model, steps, preview),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    return {**{key: value for key, value in latent.items() if key not in EMPTY_LATENT_SIZES}, "samples": samples}


def frame_noise(frames: Tensor, seed: int, batch_index: list[int] | None) -> Tensor:
    """ComfyUI's noise, drawn frame by frame, so that no frame's noise depends on how many frames there are.

    Shapes: frames `f c h w` -> the same
    """
    return comfy.sample.prepare_noise(frames, seed, batch_index or list(range(frames.shape[0])))


def _callback(model: ModelPatcher, steps: int, preview: AnimatedPreview) -> Callable[[int, Tensor, Tensor, int], None]:
    show_still = latent_preview.prepare_callback(model, steps)

    def show(step: int, x0: Tensor, x: Tensor, total_steps: int) -> None:
        show_still(step, x0, x, total_steps)
        preview.show(x0, step + 1, total_steps)

    return show
