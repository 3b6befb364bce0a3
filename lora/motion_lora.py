"""MotionLoRA: low-rank changes of the layers of a motion module, from any layout of files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.dialects import ANIMATEDIFF as OFFICIAL
from ..core.errors import CheckpointError, IncompatibleModelError, some
from ..core.file_kinds import MOTION_LORA, classify
from ..core.tensor_files import TensorFile
from .factors import read_layer_changes
from .low_rank import LowRank

FUSED_ROWS = {"to_q": 0, "to_k": 1, "to_v": 2}
"""Which third of the fused weight a layer of the files is."""
_FUSED = ".to_qkv.weight"
_WEIGHT = ".weight"


@dataclass(frozen=True)
class MotionLoRA:
    """The changes of one MotionLoRA file, under the weight names of a motion module."""

    name: str
    changes: tuple[LowRank, ...]
    metadata: Mapping[str, Any] = field(default_factory=lambda: {}, compare=False)
    """What the file says about itself, such as how it was trained."""
    layout: str = field(default="animatediff", compare=False)
    """How the file names its factors."""
    num_base_changes: int = field(default=0, compare=False)
    """Changes of the base model in the same file, which are no part of the MotionLoRA."""


def read_motion_lora(file: TensorFile) -> MotionLoRA:
    """The low-rank changes that a MotionLoRA file holds.

    Raises: CheckpointError if the file is of another kind, or its tensors do not pair up or are not finite.
    """
    kind = classify(file.tensors)
    if kind is not MOTION_LORA:
        raise CheckpointError(f"{file.name}: expected a MotionLoRA, found {kind.description}. {kind.remedy}")
    read = read_layer_changes(file.tensors, file.header, file.name)
    temporal = [change for layer, change in read.changes.items() if OFFICIAL.mark.search(layer)]
    if not temporal:
        raise CheckpointError(
            f"{file.name}: expected changes of temporal layers, found names such as {some(list(read.changes)[:2])}. "
            "Get the MotionLoRA again."
        )
    changes = tuple(_of_weight(change) for change in temporal)
    return MotionLoRA(file.name, changes, file.metadata, read.layout.name, len(read.changes) - len(temporal))


def layer_of(change: LowRank) -> str:
    """The layer that a change is of, as files name it: `….attention_blocks.0.to_q`; rows of one have numbers behind."""
    if change.first_row is None:
        return change.target.removesuffix(_WEIGHT)
    names = {rows * change.num_rows: name for name, rows in FUSED_ROWS.items()}
    if change.target.endswith(_FUSED) and change.first_row in names:
        return f"{change.target.removesuffix(_FUSED)}.{names[change.first_row]}"
    return f"{change.target.removesuffix(_WEIGHT)}[{change.first_row}:{change.first_row + change.num_rows}]"


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


def _of_weight(change: LowRank) -> LowRank:
    """A change of a layer as the change of the weight that holds it in memory."""
    parent, _, leaf = change.target.rpartition(".")
    if leaf not in FUSED_ROWS:
        return LowRank(f"{change.target}{_WEIGHT}", change.up, change.down, change.alpha)
    first_row = FUSED_ROWS[leaf] * change.num_rows
    return LowRank(f"{parent}{_FUSED}", change.up, change.down, change.alpha, first_row)


def _check_width(change: LowRank, shape: tuple[int, ...], name: str, module_name: str) -> None:
    rows = shape[0] // 3 if change.first_row is not None else shape[0]
    if (change.num_rows, change.down.shape[1]) != (rows, shape[-1]) or len(shape) != 2:
        raise IncompatibleModelError(
            f"{name}: {layer_of(change)} changes {change.num_rows}×{change.down.shape[1]} weights, {module_name} has "
            f"{rows}×{shape[-1]} there. The MotionLoRA is for another base model; choose one that fits the module."
        )
