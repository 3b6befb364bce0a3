"""Motion modules, MotionLoRAs and domain adapters as files that every program for AnimateDiff reads."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import comfy.lora
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..core.errors import RunError, SettingsError, shown
from ..core.finite import is_finite
from ..core.training_record import TRAINING
from ..lora.motion_lora import MotionLoRA
from ..lora.saved_forms import LAYOUTS as LORA_LAYOUTS
from ..lora.saved_forms import domain_adapter_form, motion_lora_form
from ..motion_modules.keys import POSITION_TABLE, is_image_input, published
from ..motion_modules.load import saved_form
from ..motion_modules.written_layouts import BAKED, DTYPES, check_layout, written_form
from .folders import LORAS, MOTION_LORAS, MOTION_MODULES
from .motion_modules import APPLIED, LoadedMotionModule
from .new_files import check_prefix, write_new_file
from .scheduled_loras import check_no_schedule

log = logging.getLogger(__name__)

LAYOUTS = tuple(LORA_LAYOUTS)


def save_motion_module(motion: LoadedMotionModule, filename_prefix: str, layout: str, dtype: str) -> Path:
    """The new file of a motion module, with its applied MotionLoRAs baked in; positions stay in float32.

    Raises: SettingsError if the prefix, the layout or the type cannot be; RunError if a weight is not finite, or the
    disk does not take the file.
    """
    _check_settings(filename_prefix, layout)
    check_layout(layout, motion.spec)
    check_no_schedule(motion)
    chosen = DTYPES.get(dtype)
    if chosen is None:
        raise SettingsError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}.")
    with torch.no_grad():
        tensors = {
            name: _stored(name, tensor, torch.float32 if name.endswith(POSITION_TABLE) else chosen)
            for name, tensor in _published_weights(motion.patcher)
        }
    form = written_form(tensors, motion.spec, layout)
    return _write(MOTION_MODULES, filename_prefix, form.tensors, _module_metadata(motion), form.config)


def save_motion_lora(lora: MotionLoRA, filename_prefix: str, layout: str) -> Path:
    """The new file of a MotionLoRA, in the types that its matrices have.

    Raises: SettingsError if the prefix or the layout cannot be; IncompatibleModelError if the layout has no name for
    a change; RunError if a weight is not finite, or the disk does not take the file.
    """
    _check_settings(filename_prefix, layout)
    return _write_lora(MOTION_LORAS, filename_prefix, *motion_lora_form(lora, layout))


def save_domain_adapter(lora: Mapping[str, Tensor], filename_prefix: str, layout: str) -> Path:
    """The new file of a domain adapter, in the types that its matrices have.

    Raises: SettingsError if the prefix or the layout cannot be; IncompatibleModelError if this is a LoRA in another
    layout; RunError if a weight is not finite, or the disk does not take the file.
    """
    _check_settings(filename_prefix, layout)
    for name, tensor in lora.items():
        _check_finite(name, tensor)
    return _write_lora(LORAS, filename_prefix, *domain_adapter_form(lora, layout))


def baked_weights(patcher: ModelPatcher) -> Iterator[tuple[str, Tensor]]:
    """Each weight on the CPU with its patches added in float32; the patcher's own weights are only read.

    ComfyUI keeps the originals of what it patched or moved, and gives these out, whether the model is loaded or not.
    """
    for key, ((weight, _), *patches) in patcher.get_key_patches().items():
        if patches:
            own = weight.detach().to("cpu", torch.float32, copy=True)
            yield key, comfy.lora.calculate_weight(patches, own, key)
        else:
            yield key, weight.detach().cpu()


def _published_weights(patcher: ModelPatcher) -> Iterator[tuple[str, Tensor]]:
    """Weights under published names, one after another: all of them at once in float32 would fill the memory."""
    parts_of_input: dict[str, Tensor] = {}
    for key, weight in baked_weights(patcher):
        if is_image_input(key):
            parts_of_input[key] = weight  # they become one convolution, and are small
        else:
            yield from published({key: weight}).items()
    yield from published(parts_of_input).items()


def _stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in the type that the file gets. Raises: RunError or SettingsError if it does not hold a number."""
    _check_finite(name, tensor)
    stored = tensor.to(dtype)
    if not torch.isfinite(stored).all():
        raise SettingsError(
            f"{shown(name)} reaches {tensor.abs().max().item():,.0f}, and {str(dtype).removeprefix('torch.')} ends at "
            f"{torch.finfo(dtype).max:,.0f}. Set dtype to fp32 or bf16."
        )
    return stored


def _check_finite(name: str, tensor: Tensor) -> None:
    if not is_finite(tensor):
        raise RunError(
            f"{shown(name)} holds NaN or infinity, so nothing was saved: every frame would be noise. "
            "Use an earlier checkpoint of the training run, or train with a lower learning rate."
        )


def _check_settings(filename_prefix: str, layout: str) -> None:
    """What can be known before any weight is touched."""
    check_prefix(filename_prefix)
    if layout not in LAYOUTS:
        raise SettingsError(f"layout is {layout!r}; expected one of {', '.join(LAYOUTS)}.")


def _module_metadata(motion: LoadedMotionModule) -> dict[str, Any]:
    """Kind, base and spec of a module, how it was trained, and what is baked in, by this saving or an earlier one."""
    _, form = saved_form(motion.patcher.model)
    earlier = motion.metadata.get(BAKED)
    baked = [*(earlier if isinstance(earlier, list) else []), *motion.metadata.get(APPLIED, [])]
    metadata = {**form, "base": motion.spec.base, **({BAKED: baked} if baked else {})}
    return {**metadata, TRAINING: motion.metadata[TRAINING]} if TRAINING in motion.metadata else metadata


def _write_lora(folder: str, filename_prefix: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Path:
    # Copies: factors that share memory, such as one `down` for q, k and v, cannot be written as they are.
    own = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
    for name, tensor in own.items():
        _check_finite(name, tensor)
    return _write(folder, filename_prefix, own, metadata)


def _write(
    folder: str,
    filename_prefix: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
) -> Path:
    path = write_new_file(folder, filename_prefix, tensors, metadata, config)
    log.info("saved %s: %s, %d tensors, %.1f MiB", path, metadata["kind"], len(tensors), path.stat().st_size / 2**20)
    return path
