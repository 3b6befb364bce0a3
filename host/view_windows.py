"""View windows: all frames of a clip go through the UNet at once, and its motion modules see them in windows."""

from functools import lru_cache
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..motion_modules.adjustments import View
from ..sampling.context_windows import ContextWindowSettings
from ..sampling.window_indices import COMPOSITE, frame_shares, window_indices
from .noise_schedule import percent_of, step_of

VIEWS = "motiongraft.views"
"""The attachment of a model that holds the settings of its view windows."""
VIEW_NODE = "View Window"
"""The node that sets them, for messages."""
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
    settings: ContextWindowSettings | None,
    num_frames: int,
    num_leading: int,
    sigma: Tensor,
    sampling: Any,
    options: dict[str, Any],
) -> tuple[View, ...]:
    """The windows in which frames see each other in one call of the UNet; none if one window holds all its own.

    Shapes: sigma `b`, the noise levels of the call. Units: `num_leading` of the frames are no frames of the clip.
    """
    if settings is None or num_frames - num_leading <= settings.length:
        return ()
    step = 0 if settings.schedule in _STAND_STILL else step_of(sigma, options.get("sample_sigmas"))
    done = percent_of(sampling, float(sigma.max())) if settings.schedule == COMPOSITE else 0.0
    frames, shares = (tensor.to(sigma.device) for tensor in _views(settings, num_frames, step, done))
    return tuple(View(*each) for each in zip(frames, shares, strict=True))


@lru_cache(maxsize=64)
def _views(settings: ContextWindowSettings, num_frames: int, step: int, done: float) -> tuple[Tensor, Tensor]:
    """Frames and shares of all views. Shapes: `v w` each"""
    windows = window_indices(settings, num_frames, step, done)
    return torch.tensor(windows), torch.stack(frame_shares(settings, windows, num_frames))
