"""Room for motion: what a temporal transformer needs at once is added to ComfyUI's memory estimate."""

import math
from functools import partial
from typing import Any

import comfy.patcher_extension
from comfy.model_patcher import ModelPatcher

from .splice import Splice
from .view_windows import view_settings

UNET_ELEMENTS_PER_PIXEL = 0.01 * 1024 * 1024
"""What ComfyUI reserves for each latent pixel, in elements, at factor 1.

Source: comfy/model_base.py `memory_required`.
"""
MOTION_WIDTHS_ALIVE = 3
"""Tensors of the module's width that live beyond what the UNet's own widest layer had: residual, stream, and norm."""

VIEW_WIDTHS_ALIVE = 4
"""And in view windows: q, k and v of a view with its positions, and what its frames gather."""


def budget_motion_memory(model: ModelPatcher, splice: Splice) -> None:
    """Make ComfyUI plan for the motion module's activations when it loads the model.

    It also asks before it batches cond and uncond, with half as much again to spare, which covers motion. Nothing on
    the shared model is touched, so that a plain clone is planned for as before.
    """
    share = splice.spec.down_channels[0] / (UNET_ELEMENTS_PER_PIXEL * model.model.memory_usage_factor)
    wrapper = comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING
    model.add_wrapper_with_key(wrapper, splice.key, partial(_plan_for_motion, share))


def _plan_for_motion(
    share: float, executor: Any, model: ModelPatcher, noise_shape: Any, *args: Any, **kwargs: Any
) -> Any:
    """PREPARE_SAMPLING wrapper: the shape is there to estimate memory from, so motion is more latent columns.

    `share` is that of one tensor of the module's width.
    """
    widths = MOTION_WIDTHS_ALIVE + (0 if view_settings(model) is None else VIEW_WIDTHS_ALIVE)
    return executor(model, [*noise_shape[:-1], math.ceil(noise_shape[-1] * (1 + widths * share))], *args, **kwargs)
