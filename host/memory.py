"""Room for motion: what a temporal transformer needs at once is added to ComfyUI's memory estimate."""

from typing import Any

import comfy.patcher_extension
from comfy.model_patcher import ModelPatcher

from .splice import STATE, Splice

PREPARE = comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING
FACTOR = "memory_usage_factor"
UNET_ELEMENTS_PER_PIXEL = 0.01 * 1024 * 1024
"""What ComfyUI reserves for each latent pixel, in elements, at factor 1.

Source: comfy/model_base.py `memory_required`.
"""
MOTION_WIDTHS_ALIVE = 3
"""Tensors of the module's width that live beyond what the UNet's own widest layer had: residual, stream, and norm."""


def budget_motion_memory(model: ModelPatcher, splice: Splice) -> None:
    """Make ComfyUI plan for the motion module's activations, before the model is loaded and while it runs."""
    elements = MOTION_WIDTHS_ALIVE * splice.spec.down_channels[0]
    planned = model.get_model_object(FACTOR)
    model.add_object_patch(FACTOR, planned + elements / UNET_ELEMENTS_PER_PIXEL)
    if not model.get_wrappers(PREPARE, STATE):
        model.add_wrapper_with_key(PREPARE, STATE, _plan_before_loading)


def _plan_before_loading(executor: Any, model: ModelPatcher, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
    """PREPARE_SAMPLING wrapper: ComfyUI estimates before it loads, that is, before our factor is in place."""
    ratio = model.get_model_object(FACTOR) / getattr(model.model, FACTOR)
    return executor(model, [*noise_shape[:-1], round(noise_shape[-1] * ratio)], *args, **kwargs)
