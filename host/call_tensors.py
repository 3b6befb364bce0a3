"""Tensors that a splice sends along with a call of the UNet: ComfyUI cuts them to each conditioning's area, and batches
them, as it does the latents.
"""

from collections.abc import Mapping
from typing import Any

from comfy.conds import CONDNoiseShape
from torch import Tensor


def with_tensors(conds: list[Any], key: str, tensors: Mapping[str, Tensor]) -> list[Any]:
    """ComfyUI's conditionings with tensors of a splice in each. Shapes: tensors `f c h w` each, of the latents' size"""
    entries = {f"{key}.{name}": CONDNoiseShape(tensor) for name, tensor in tensors.items()}
    if not entries:
        return conds

    def extended(conditioning: dict[str, Any]) -> dict[str, Any]:
        return {**conditioning, "model_conds": {**conditioning.get("model_conds", {}), **entries}}

    return [each if each is None else [extended(conditioning) for conditioning in each] for each in conds]


def taken(arguments: dict[str, Any], key: str) -> dict[str, Tensor]:
    """The tensors of a splice by name, out of the arguments that ComfyUI hands to the model: the UNet knows none."""
    own = [name for name in arguments if name.startswith(f"{key}.")]
    return {name.removeprefix(f"{key}."): arguments.pop(name) for name in own}
