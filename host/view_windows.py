"""View windows: all frames of a clip go through the UNet at once, and its motion modules see them in windows."""

from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..motion_modules.adjustments import View
from ..sampling.context_windows import ContextWindowSettings
from ..sampling.window_indices import COMPOSITE, frame_shares, window_indices
from .noise_schedule import percent_of

VIEWS = "motiongraft.views"
"""The attachment of a model that holds the settings of its view windows."""
VIEW_NODE = "View Window"
"""The node that sets them, for messages."""
SAME_SIGMA = 1e-4
"""Relative difference below which two noise levels are one, as in ComfyUI's context_windows.py."""
_STAND_STILL = ("static", "batched")


def set_view_window(model: ModelPatcher, settings: ContextWindowSettings) -> ModelPatcher:
    """A clone of the model whose motion modules see clips in overlapping windows."""
    viewed = model.clone()
    viewed.set_attachments(VIEWS, settings)
    return viewed


def view_settings(model: ModelPatcher) -> ContextWindowSettings | None:
    """How the motion modules of a model see a clip, None for all frames at once."""
    return model.get_attachment(VIEWS)


def views_of(
    settings: ContextWindowSettings | None, num_frames: int, sigma: Tensor, sampling: Any, options: dict[str, Any]
) -> tuple[View, ...]:
    """The windows in which frames see each other in one call of the UNet; none if one window holds them all.

    Shapes: sigma `b`, the noise levels of the call
    """
    if settings is None or num_frames <= settings.length:
        return ()
    step = 0 if settings.schedule in _STAND_STILL else _step_of(sigma, options.get("sample_sigmas"))
    share = percent_of(sampling, float(sigma.max())) if settings.schedule == COMPOSITE else 0.0
    windows = window_indices(settings, num_frames, step, share)
    shares = frame_shares(settings, windows, num_frames)
    return tuple(
        View(torch.tensor(window, device=sigma.device), share.to(sigma.device))
        for window, share in zip(windows, shares, strict=True)
    )


def _step_of(sigma: Tensor, levels: Tensor | None) -> int:
    """The sampler's step that a noise level belongs to; levels between two steps belong to the earlier."""
    if levels is None:
        return 0
    return max(0, int((levels >= sigma.max().to(levels) * (1 - SAME_SIGMA)).sum()) - 1)
