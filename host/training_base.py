"""A base model of a run's own: training freezes, casts and hooks into it, and the user's model never knows."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..core.errors import IncompatibleModelError
from ..training.denoiser import NOISE, VELOCITY
from .fingerprints import fingerprint_module, fingerprint_patches
from .inflate import splice_keys
from .loras import apply_unet_lora
from .unet import check_image_unet, model_name, unet_of

PLAIN_TYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class TrainingBase:
    """A frozen copy of a base model, outside ComfyUI's memory management, so that nothing moves it in mid-run."""

    patcher: ModelPatcher
    fingerprint: str
    """Of the weights and the patches on them, the same whatever else ComfyUI did with the model."""
    path: str | None
    """Where ComfyUI loaded it from, if it says."""

    @property
    def unet(self) -> Any:
        return self.patcher.model.diffusion_model

    @property
    def family(self) -> str:
        return model_name(self.patcher)

    @property
    def sampling(self) -> Any:
        return self.patcher.get_model_object("model_sampling")


def check_base(model: ModelPatcher) -> None:
    """Raises: IncompatibleModelError for a base that cannot be trained on, before anything is copied."""
    if splice_keys(model):
        raise IncompatibleModelError(
            "expected a plain base model, found one with a motion module in it. Connect the model from before "
            "InflateModel; the motion module goes to the input `motion_module`."
        )
    check_image_unet(model, "MotionGraft's training")
    odd = next((weight for weight in unet_of(model).parameters() if weight.dtype not in PLAIN_TYPES), None)
    if odd is not None:
        raise IncompatibleModelError(
            f"expected a base model in fp32, fp16 or bf16, found one quantised to {str(odd.dtype)[6:]}. Gradients "
            "through quantised weights would be wrong; load the unquantised checkpoint."
        )
    _prediction(model.get_model_object("model_sampling"))


def copy_base(model: ModelPatcher) -> TrainingBase:
    """A copy of a base model with the patches that are on it, not yet on the training device.

    Must run outside of inference mode. A model whose loader does not say how to load it again is copied in memory.
    """
    path = model.cached_patcher_init[1][0] if model.cached_patcher_init else None
    if model.cached_patcher_init is not None:
        own = model.clone(disable_dynamic=True, force_deepcopy=True)
    else:
        own = _copy_in_memory(model)
    fingerprint = f"{fingerprint_module(own.model.diffusion_model)}-{fingerprint_patches(own)}"
    return TrainingBase(own, fingerprint, path if isinstance(path, str) else None)


def with_adapter(base: TrainingBase, adapter: Mapping[str, Tensor], name: str) -> TrainingBase:
    """The base with a domain adapter at α = 1, as stage 2 of the paper trains (arXiv 2307.04725 section 4.2)."""
    return TrainingBase(apply_unet_lora(base.patcher, adapter, 1.0, name), base.fingerprint, base.path)


def place_on_device(base: TrainingBase, precision: torch.dtype) -> None:
    """Merge the patches and move the frozen UNet to ComfyUI's device in the type that it computes in.

    ComfyUI's own models make room first; they load again when they are next used.
    """
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    device = base.patcher.load_device
    base.patcher.patch_model(device_to=device, force_patch_weights=True)
    for module in base.unet.modules():
        # Casts at use are for weights that lie elsewhere or in another type; here they would hide from autograd.
        if hasattr(module, "comfy_cast_weights"):
            module.comfy_cast_weights = False
    base.unet.to(device=device, dtype=precision).requires_grad_(False).eval()


def prediction_of(base: TrainingBase) -> str:
    """Whether the base predicts `noise` or `velocity`."""
    return _prediction(base.sampling)


def _prediction(sampling: Any) -> str:
    if isinstance(sampling, comfy.model_sampling.V_PREDICTION):
        return VELOCITY
    if isinstance(sampling, comfy.model_sampling.EPS):
        return NOISE
    raise IncompatibleModelError(
        f"expected a base model that predicts noise or v, found {type(sampling).__mro__[1].__name__}. "
        "Use the base model without a node that changes its sampling."
    )


def _copy_in_memory(model: ModelPatcher) -> ModelPatcher:
    """A clone around a deep copy of the weights, with those of the loaded model unpatched first."""
    comfy.model_management.unload_model_and_clones(model)
    shared = (model.model.model_config, model.model.latent_format, model.model.current_patcher)
    own_model: Any = copy.deepcopy(model.model, {id(part): part for part in shared})
    own_model.current_patcher = None
    for name, weight in list(own_model.named_parameters()):
        comfy.utils.set_attr_param(own_model, name, weight.data)  # no tensor of inference mode stays
    for owner in own_model.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            setattr(owner, name, buffer.clone())
    return model.clone(disable_dynamic=True, model_override=(own_model, ({}, {}, {}, set())))
