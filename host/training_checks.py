"""Whether a training node can do what it is asked, told before anything is copied, unloaded or written."""

from collections.abc import Mapping
from typing import Any

import comfy.model_management
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..core.errors import IncompatibleModelError, SettingsError
from ..training.cache.cached_clips import CachedClips
from ..training.settings import TrainingSettings
from ..training.start import check_clips_fit_base, check_same_vae
from .fingerprints import fingerprint_module
from .loras import apply_unet_lora
from .motion_modules import LoadedMotionModule
from .scheduled_loras import check_no_schedule
from .training_base import check_base
from .unet import find_places, unet_of

SIZE_FEATURES = 6 * 256
"""Of SDXL's label: six sizes of 256 features, behind the pooled text. Source: comfy/model_base.py, SDXL.encode_adm."""


def check_parts(
    model: ModelPatcher, motion: LoadedMotionModule | None = None, adapter: Mapping[str, Tensor] | None = None
) -> None:
    """Raises: IncompatibleModelError unless the base can be trained on, with this motion module and this adapter."""
    check_base(model)
    if motion is not None:
        find_places(model, motion.spec, motion.name)
        _check_takes_no_image(motion)
        check_no_schedule(motion)
    if adapter is not None:
        apply_unet_lora(model, adapter, 1.0, "the domain adapter")


def _check_takes_no_image(motion: LoadedMotionModule) -> None:
    if motion.spec.image_channels:
        raise IncompatibleModelError(
            f"{motion.name} sees an image beside the clips, and no stage of training gives it one. "
            "Choose a v1, v2, v3 or SDXL motion module."
        )


def check_clips(model: ModelPatcher, cached: CachedClips, vae: Any) -> None:
    """Raises: TrainingDataError unless the clips were encoded for this base, and with this VAE if there is one."""
    pooled = None if unet_of(model).num_classes is None else model.model.adm_channels - SIZE_FEATURES
    context = model.model.model_config.unet_config["context_dim"]
    check_clips_fit_base(cached, model.model.latent_format.latent_channels, context, pooled)
    if vae is None:
        return
    if vae.first_stage_model is None:
        raise IncompatibleModelError(
            "expected a VAE at `vae`, found a checkpoint without one. Load one with Load VAE, or leave `vae` open."
        )
    check_same_vae(cached, fingerprint_module(vae.first_stage_model))


def check_precision(model: ModelPatcher, settings: TrainingSettings) -> None:
    """Raises: SettingsError for bf16 on a GPU that has none, where every step would be emulated."""
    device = model.load_device
    if settings.precision == "bf16" and device.type == "cuda" and not comfy.model_management.should_use_bf16(device):
        raise SettingsError(
            f"precision is bf16, which this GPU ({device}) does not compute in. Set precision to fp16, or to fp32."
        )
