"""A base model of a run's own: training freezes, casts and hooks into it, and the user's model never knows."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_sampling
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..core.errors import IncompatibleModelError, some
from ..training.denoiser import NOISE, VELOCITY
from ..training.draws import NUM_TIMESTEPS
from .fingerprints import fingerprint_module, fingerprint_patches, fingerprint_tensors
from .inflate import splice_keys
from .loras import apply_unet_lora
from .unet import base_name, check_image_unet, unet_of

UNET = "diffusion_model"
FAMILIES = ("SD 1.5", "SDXL")
PLAIN_TYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class TrainingBase:
    """A frozen copy of a base model, outside ComfyUI's memory management, so that nothing moves it in mid-run."""

    patcher: ModelPatcher
    fingerprint: str
    """Of weights, patches and noise schedule, the same whatever else ComfyUI did with the model."""
    path: str | None
    """Where ComfyUI loaded it from, if it says."""

    @property
    def unet(self) -> Any:
        return self.patcher.model.diffusion_model

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
    _check_family(model)
    _check_weights(unet_of(model))
    _check_whole(model)
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
    own.object_patches = {name: part for name, part in own.object_patches.items() if not name.startswith(UNET)}
    sampling = own.get_model_object("model_sampling")
    parts = (
        fingerprint_module(own.model.diffusion_model),
        fingerprint_patches(own),
        fingerprint_tensors({_prediction(sampling): sampling.sigmas}),
    )
    fingerprint = hashlib.sha256(" ".join(parts).encode()).hexdigest()
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


def _check_family(model: ModelPatcher) -> None:
    if base_name(model) not in FAMILIES:
        raise IncompatibleModelError(
            f"expected an SD 1.5 or SDXL base model, found {base_name(model)}. Load another checkpoint."
        )
    found, expected = unet_of(model).in_channels, model.model.latent_format.latent_channels
    if found != expected:
        raise IncompatibleModelError(
            f"expected a base model that takes latents of {expected} channels alone, found one that takes {found}, as "
            "inpainting and editing models do. Load the plain checkpoint of this base model."
        )


def _check_weights(unet: nn.Module) -> None:
    """Raises: IncompatibleModelError for weights that are not what they are called, as all quantised ones are."""
    odd = [str(weight.dtype)[6:] for weight in unet.parameters() if weight.dtype not in PLAIN_TYPES]
    odd += [type(weight.data).__name__ for weight in unet.parameters() if type(weight.data) is not Tensor]
    odd += [layer.quant_format for layer in unet.modules() if isinstance(getattr(layer, "quant_format", None), str)]
    if odd:
        raise IncompatibleModelError(
            f"expected a base model in fp32, fp16 or bf16, found one quantised to {odd[0]}. Gradients through "
            "quantised weights would be wrong; load the unquantised checkpoint."
        )


def _check_whole(model: ModelPatcher) -> None:
    """Raises: IncompatibleModelError for changes that would not come along, so that another model would be trained."""
    parts = [name for name, part in model.object_patches.items() if _replaces_layers(name, part)]
    if parts or model.injections:
        found = parts or list(model.injections)
        raise IncompatibleModelError(
            f"expected a base model with its own layers, found one in which another node changes them ({some(found)}): "
            "a LoRA in bypass mode, or a model that is swapped block by block. Connect the model from before that "
            "node; an ordinary LoRA is trained on as it is."
        )


def _replaces_layers(name: str, part: Any) -> bool:
    return name.startswith(UNET) and not hasattr(part, "_orig_mod")  # a compiled model computes the same


def prediction_of(base: TrainingBase) -> str:
    """Whether the base predicts `noise` or `velocity`."""
    return _prediction(base.sampling)


def _prediction(sampling: Any) -> str:
    """Told by the functions that ComfyUI calls: many samplings are subclasses of others, with another meaning."""
    kinds = {
        comfy.model_sampling.EPS.calculate_denoised: NOISE,
        comfy.model_sampling.V_PREDICTION.calculate_denoised: VELOCITY,
    }
    kind = kinds.get(getattr(type(sampling), "calculate_denoised", None))
    is_discrete = isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete)
    if kind is None or not is_discrete or len(sampling.sigmas) != NUM_TIMESTEPS:
        names = [part.__name__ for part in type(sampling).__mro__ if part.__module__.startswith("comfy")]
        raise IncompatibleModelError(
            f"expected a base model that predicts noise or v at {NUM_TIMESTEPS} timesteps, found "
            f"{' with '.join(names[:3])}. Use the base model without a node that changes its sampling."
        )
    return kind


def _copy_in_memory(model: ModelPatcher) -> ModelPatcher:
    """A clone around a copy of the weights, with those of the loaded model unpatched first."""
    comfy.model_management.unload_model_and_clones(model)
    # Built anew and filled: a deep copy would share what ComfyUI's dynamic memory holds on to.
    weights = {name: weight.detach().cpu().clone() for name, weight in unet_of(model).state_dict().items()}
    own_model = model.model.model_config.get_model(weights, "")
    own_model.load_model_weights(weights, "")
    own_model.diffusion_model.eval()
    return model.clone(disable_dynamic=True, model_override=(own_model, ({}, {}, {}, set())))
