"""MotionLoRA: low-rank changes of the temporal attentions, from the official file layout."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.errors import CheckpointError, IncompatibleModelError, some
from ..core.file_kinds import MOTION_LORA, classify
from ..core.tensor_files import TensorFile
from .low_rank import LowRank

_FACTOR = re.compile(
    r"^(?P<attention>.+\.attention_blocks\.\d+)\.processor\.to_(?P<part>q|k|v|out)_lora\.(?P<factor>down|up)\.weight$"
)
"""Source: guoyww/AnimateDiff, v2_lora_*.ckpt; there is no alpha, so the factors multiply as they are."""

_ROWS = {"q": 0, "k": 1, "v": 2}


@dataclass(frozen=True)
class MotionLoRA:
    """The changes of one MotionLoRA file, under the weight names of a motion module."""

    name: str
    changes: tuple[LowRank, ...]
    metadata: Mapping[str, Any] = field(default_factory=lambda: {}, compare=False)
    """What the file says about itself, such as how it was trained."""


def read_motion_lora(file: TensorFile) -> MotionLoRA:
    """The low-rank changes that a MotionLoRA file holds.

    Raises: CheckpointError if the file is of another kind, or its tensors do not pair up or are not finite.
    """
    kind = classify(file.tensors)
    if kind is not MOTION_LORA:
        raise CheckpointError(f"{file.name}: expected a MotionLoRA, found {kind.description}. {kind.remedy}")
    factors, unread = _factors(file.tensors)
    if unread:
        raise CheckpointError(
            f"{file.name}: {len(unread)} tensors are named in a layout that MotionGraft does not read yet "
            f"({some(unread[:2])}). Use the LoRA in AnimateDiff's own layout."
        )
    changes = tuple(_change(file.name, place, pair) for place, pair in factors.items())
    return MotionLoRA(file.name, changes, file.metadata)


def fit(lora: MotionLoRA, shapes: Mapping[str, tuple[int, ...]], module_name: str) -> tuple[list[LowRank], int]:
    """The changes for which a module has weights, and how many the module has no place for.

    A LoRA for v2 has a middle block, a module of v1 or v3 does not: that part is left out and counted.
    Raises: IncompatibleModelError if nothing fits, or a width differs.
    """
    present = [change for change in lora.changes if change.target in shapes]
    outside = [change for change in lora.changes if change.target not in shapes]
    elsewhere = [change.target for change in outside if not change.target.startswith("mid_block.")]
    if not present or elsewhere:
        raise IncompatibleModelError(
            f"{lora.name}: {len(outside)} of {len(lora.changes)} changes have no place in {module_name} "
            f"({some((elsewhere or [outside[0].target])[:2])}). "
            "The MotionLoRA is for another base model; choose one that fits the module."
        )
    for change in present:
        _check_width(change, shapes[change.target], lora.name, module_name)
    return present, len(outside)


def _factors(tensors: Mapping[str, Tensor]) -> tuple[dict[tuple[str, str], dict[str, Tensor]], list[str]]:
    """Down and up by (attention, part), and the names that are neither."""
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    unread: list[str] = []
    for name, tensor in tensors.items():
        match = _FACTOR.match(name.removeprefix("module."))
        if match:
            found.setdefault((match["attention"], match["part"]), {})[match["factor"]] = tensor
        else:
            unread.append(name)
    return found, unread


def _change(name: str, place: tuple[str, str], pair: Mapping[str, Tensor]) -> LowRank:
    attention, part = place
    if not _multiply(pair):
        found = ", ".join(f"{factor} {list(tensor.shape)}" for factor, tensor in pair.items())
        raise CheckpointError(
            f"{name}: {attention} to_{part} should have down [r, in] and up [out, r], found {found}. "
            "The file is damaged; download it again."
        )
    if not all(torch.isfinite(tensor.float()).all() for tensor in pair.values()):
        raise CheckpointError(f"{name}: {attention} to_{part} holds NaN or infinity. Download the file again.")
    up, down = pair["up"], pair["down"]
    if part == "out":
        return LowRank(f"{attention}.to_out.0.weight", up, down)
    return LowRank(f"{attention}.to_qkv.weight", up, down, first_row=_ROWS[part] * up.shape[0])


def _multiply(pair: Mapping[str, Tensor]) -> bool:
    """Whether these are the two matrices of one change."""
    whole = len(pair) == 2 and all(factor.ndim == 2 and factor.is_floating_point() for factor in pair.values())
    return whole and pair["up"].shape[1] == pair["down"].shape[0]


def _check_width(change: LowRank, shape: tuple[int, ...], name: str, module_name: str) -> None:
    rows = shape[0] // 3 if change.first_row is not None else shape[0]
    if (change.num_rows, change.down.shape[1]) != (rows, shape[1]):
        raise IncompatibleModelError(
            f"{name}: {change.target} changes {change.num_rows}×{change.down.shape[1]} weights, {module_name} has "
            f"{rows}×{shape[1]} there. The MotionLoRA is for another base model; choose one that fits the module."
        )
