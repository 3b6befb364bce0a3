"""Low-rank changes through ComfyUI's own weight patches: kept thin, composed, offloaded and removed by it."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import comfy.lora
import comfy.utils
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..core.errors import IncompatibleModelError, some
from ..core.part_factors import parse_part_factors
from ..core.tensor_files import TensorFile
from ..lora.domain_adapter import in_kohya_layout, read_domain_adapter
from ..lora.low_rank import LowRank
from ..lora.motion_lora import MotionLoRA, fit, layer_of
from ..sampling.percent_schedule import parse_percent_schedule
from .motion_modules import APPLIED, LoadedMotionModule, ScheduledLoRA
from .unet import model_name

log = logging.getLogger(__name__)


def apply_motion_lora(
    motion: LoadedMotionModule, lora: MotionLoRA, strength: float, layers: str = "", schedule: str = ""
) -> LoadedMotionModule:
    """The motion module with a MotionLoRA added; several add up, and a negative strength turns the motion round.

    `layers` has a factor for parts of the module, one `name: factor` a line; `schedule` one for parts of the sampling,
    such as `0: 1, 0.5: 0`.
    Raises: IncompatibleModelError if the MotionLoRA does not fit the module; SettingsError if a text says nothing.
    """
    factors, course = parse_part_factors(layers, "layers"), parse_percent_schedule(schedule, "schedule")
    shapes = {name: tuple(weight.shape) for name, weight in motion.patcher.model.state_dict().items()}
    changes, left_out = fit(lora, shapes, motion.name)
    factors.check_parts(map(layer_of, lora.changes), "layers", f"what {lora.name} changes")
    _say_what_is_left_out(lora, left_out, motion.name)
    motion = replace(motion, patcher=motion.patcher.clone())
    if course is not None and course.is_constant:
        strength, course = strength * course.at(0), None
    if strength == 0:
        return motion
    strengths = [(change, strength * factors.of(layer_of(change))) for change in changes]
    if course is not None:
        scheduled = ScheduledLoRA(lora.name, tuple(strengths), course)
        return replace(motion, scheduled=(*motion.scheduled, scheduled))
    _add_patches(motion.patcher, strengths)
    said = {"lora": lora.name, "strength": strength, **({"layers": layers} if factors.factors else {})}
    applied = [*motion.metadata.get(APPLIED, []), said]
    return replace(motion, metadata={**motion.metadata, APPLIED: applied})


def _add_patches(patcher: ModelPatcher, strengths: Iterable[tuple[LowRank, float]]) -> None:
    by_strength: dict[float, list[LowRank]] = {}
    for change, strength in strengths:
        by_strength.setdefault(strength, []).append(change)
    for strength, changes in by_strength.items():
        if strength:
            patcher.add_patches(weight_patches(changes), strength)


def _say_what_is_left_out(lora: MotionLoRA, left_out: int, module: str) -> None:
    if left_out:
        log.info("%s: %d changes of the middle block left out, %s has none", lora.name, left_out, module)
    if lora.num_base_changes:
        log.warning(
            "%s: %d changes of the base model beside the motion are not applied here; Apply Domain Adapter applies "
            "them, from a copy of the file in models/loras",
            lora.name,
            lora.num_base_changes,
        )


def weight_patches(changes: Iterable[LowRank]) -> Mapping[Any, Any]:
    """The changes in ComfyUI's form: an adapter for a key, or for a slice of a key's rows."""
    factors: dict[str, Tensor | Any] = {}
    targets: dict[str, Any] = {}
    for index, change in enumerate(changes):
        factors |= {f"{index}.lora_up.weight": change.up, f"{index}.lora_down.weight": change.down}
        if change.alpha is not None:
            factors[f"{index}.alpha"] = change.up.new_tensor(change.alpha)
        rows = None if change.first_row is None else (0, change.first_row, change.num_rows)
        targets[str(index)] = change.target if rows is None else (change.target, rows)
    return comfy.lora.load_lora(factors, targets)


def apply_domain_adapter(model: ModelPatcher, adapter: TensorFile, strength: float) -> ModelPatcher:
    """A clone of the model with the domain adapter added at the paper's α; 0 leaves the model bitwise as it is.

    Raises: CheckpointError or IncompatibleModelError if the file is no LoRA, or none of it fits this model.
    """
    return apply_unet_lora(model, read_domain_adapter(adapter), strength, adapter.name)


def apply_unet_lora(model: ModelPatcher, lora: Mapping[str, Tensor], strength: float, name: str) -> ModelPatcher:
    """A clone of the model with a LoRA of its UNet added, in any layout that ComfyUI reads.

    Raises: IncompatibleModelError if nothing in it fits this model.
    """
    lora = in_kohya_layout(lora, name)
    key_map = comfy.lora.model_lora_keys_unet(model.model, {})
    patches = comfy.lora.load_lora(dict(lora), key_map, log_missing=False)
    misfits = [key for key, patch in patches.items() if not _fits(model, key, patch)]
    if not patches or misfits:
        reason = f"its change of {misfits[0]} has another width" if misfits else "none of its names match"
        raise IncompatibleModelError(
            f"{name} does not fit this model ({model_name(model)}): {reason}. "
            "Choose a domain adapter made for this base model."
        )
    _warn_of_unread(lora, patches, name)
    adapted = model.clone()
    if strength != 0:
        adapted.add_patches(patches, strength)
    return adapted


def _warn_of_unread(lora: Mapping[str, Tensor], patches: Mapping[Any, Any], name: str) -> None:
    read = {key for patch in patches.values() for key in getattr(patch, "loaded_keys", ())}
    unread = [key for key in lora if key not in read] if read else []
    if unread:
        log.warning("%s: %d of %d tensors have no place in this model: %s", name, len(unread), len(lora), some(unread))


def _fits(model: ModelPatcher, key: Any, patch: Any) -> bool:
    """Whether an adapter's two matrices multiply to the weight they change; other forms are ComfyUI's to check."""
    weights = getattr(patch, "weights", None)
    if getattr(patch, "name", "") != "lora" or weights is None or not isinstance(key, str):
        return True
    up, down, _, middle, _, reshaped = weights
    if middle is not None or reshaped is not None:
        return True
    if up.ndim < 2 or down.ndim < 2 or up.shape[1] != down.shape[0]:
        return False
    weight = comfy.utils.get_attr(model.model, key)
    return up.shape[0] * down.flatten(1).shape[1] == weight.numel()
