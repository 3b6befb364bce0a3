"""One motion module out of several: the weighted sum of their weights."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..core.errors import IncompatibleModelError
from .keys import POSITION_TABLE
from .load import MotionFile

_MUST_BE_EQUAL = (
    *("down_channels", "up_channels", "middle_channels", "layers_per_block", "num_attention_blocks", "num_heads"),
    *("base_norms_over_frames", "motion_norm_over_frames", "image_channels"),
)


def merge(modules: Sequence[tuple[MotionFile, float]]) -> MotionFile:
    """The weighted sum of modules of one design, taken in float64 and kept in float32.

    Positions, schedule and name are the first one's.

    Raises: IncompatibleModelError if they have other widths, blocks or norms.
    """
    first = modules[0][0]
    for other, _ in modules[1:]:
        check_alike(first, other, "merged")
    tensors = {
        name: tensor if name.endswith(POSITION_TABLE) else _sum(name, modules) for name, tensor in first.tensors.items()
    }
    return replace(first, tensors=tensors, num_base_tensors=0)


def _sum(name: str, modules: Sequence[tuple[MotionFile, float]]) -> Tensor:
    total = torch.zeros_like(modules[0][0].tensors[name], dtype=torch.float64)
    for module, weight in modules:
        total += weight * module.tensors[name].double()
    return total.float()


def check_alike(first: MotionFile, other: MotionFile, verb: str) -> None:
    """Raises: IncompatibleModelError unless two modules have the same weights, used in the same way."""
    for field in _MUST_BE_EQUAL:
        ours, theirs = getattr(first.spec, field), getattr(other.spec, field)
        if ours != theirs:
            raise IncompatibleModelError(
                f"{first.name} and {other.name} cannot be {verb}: {field.replace('_', ' ')} is {ours} in the first and "
                f"{theirs} in the second. Choose modules of one generation."
            )
    strangers = first.tensors.keys() ^ other.tensors.keys()
    strangers = {name for name in strangers if not name.endswith(POSITION_TABLE)}
    if strangers:
        raise IncompatibleModelError(
            f"{first.name} and {other.name} cannot be {verb}: only one of them has {min(strangers)}. "
            "Choose modules of one generation."
        )
