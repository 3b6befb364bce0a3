"""The noise schedule of an inflated model: that on which its motion module was trained."""

import logging
from types import SimpleNamespace
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import ModelSamplingDiscrete, StableCascadeSampling
from comfy_extras.nodes_model_advanced import LCM, ModelSamplingDiscreteDistilled
from torch import Tensor

from ..core.errors import SettingsError
from ..sampling.beta_schedules import AUTO, BETA_SCHEDULES, BETAS, OPTIONS, USE_EXISTING, BetaSchedule

log = logging.getLogger(__name__)

HOST_NAMES = {True: "sqrt_linear", False: "linear"}
"""ComfyUI's words for betas that grow evenly, and for square roots that do (ldm/modules/diffusionmodules/util.py)."""
SAME_SIGMA = 1e-4
"""Relative difference below which two noise levels are one. Source: ComfyUI context_windows.py, `set_step`."""
BISECTIONS = 20
"""Of the sampling's length, to find where a noise level lies: to a millionth."""


class _LCMSchedule(ModelSamplingDiscreteDistilled, LCM):
    """What ComfyUI's ModelSamplingDiscrete node builds for `lcm`."""


class _AnimateLCMSchedule(_LCMSchedule):
    """The same, for a model that was distilled to steps of half the length."""

    original_timesteps = 100


_DISTILLED = {50: _LCMSchedule, 100: _AnimateLCMSchedule}
"""By the number of steps that a model was distilled to."""


def set_beta_schedule(model: ModelPatcher, choice: str, trained_on: str, name: str) -> None:
    """Give a model clone the chosen schedule. Prediction type and zero terminal SNR stay as they are.

    A ModelSamplingDiscrete or LCM node placed after InflateModel replaces this.
    Raises: SettingsError for an unknown choice, or a model without a discrete schedule.
    """
    if choice not in OPTIONS:
        raise SettingsError(
            f"beta_schedule should be one of {', '.join(OPTIONS)}, found {choice}. Choose one of these."
        )
    if choice == USE_EXISTING:
        return
    resolved = trained_on if choice == AUTO else choice
    current = model.get_model_object("model_sampling")
    if not _is_discrete(current):
        _refuse_or_keep(choice, current)
        return
    if resolved not in BETA_SCHEDULES:
        raise SettingsError(
            f"{name} names the noise schedule {resolved}, which MotionGraft does not know. Choose one by hand."
        )
    sampling = sampling_on(model, current, BETA_SCHEDULES[resolved])
    model.add_object_patch("model_sampling", sampling)
    log.info("%s: beta schedule %s (%s), sigma_max %.2f", name, resolved, choice, float(sampling.sigma_max))


def _is_discrete(sampling: Any) -> bool:
    """Whether its schedule can be another: cascade models count as discrete too, but have a schedule of their own."""
    return isinstance(sampling, ModelSamplingDiscrete) and not isinstance(sampling, StableCascadeSampling)


def sampling_on(model: ModelPatcher, current: Any, schedule: BetaSchedule) -> Any:
    """A model's sampling on another schedule; its prediction type and zero terminal SNR stay."""
    settings = {
        **(model.model.model_config.sampling_settings or {}),
        "beta_schedule": HOST_NAMES[schedule.spacing == BETAS],
        "linear_start": schedule.first,
        "linear_end": schedule.last,
        "zsnr": current.zsnr,
    }
    sampling_class = type(current) if schedule.original_steps is None else _DISTILLED[schedule.original_steps]
    return sampling_class(SimpleNamespace(sampling_settings=settings))


def _refuse_or_keep(choice: str, current: Any) -> None:
    bases = [base.__name__ for base in type(current).__mro__ if base.__module__ == "comfy.model_sampling"]
    found = bases[0] if bases else type(current).__name__
    if choice != AUTO:
        raise SettingsError(
            f"beta_schedule {choice} needs a model with a discrete noise schedule, this one has {found}. "
            f"Set beta_schedule to {USE_EXISTING}."
        )
    log.warning("the model's noise schedule is %s, not a discrete one: it is kept", found)


def percent_of(sampling: Any, sigma: float) -> float:
    """The share of the sampling at which ComfyUI's schedule has this noise level, 0 at the beginning."""
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if float(sampling.percent_to_sigma(middle)) > sigma else (low, middle)
    return round((low + high) / 2, 5)


def step_of(sigma: Tensor, levels: Tensor | None) -> int:
    """The sampler's step, counted from 0, that a noise level belongs to; one between two steps belongs to the earlier.

    Shapes: sigma `b`, levels `s` falling, None where they are unknown
    """
    if levels is None:
        return 0
    return max(0, int((levels >= sigma.max().to(levels) * (1 - SAME_SIGMA)).sum()) - 1)
