"""Tensor files of a run: every number finite, and on the disk when the call returns."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...core.errors import RunError, shown
from ...core.finite import is_finite
from ...core.tensor_files import write_tensor_file
from .durable_files import flush_file


def write_finite_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], place: str) -> None:
    """Write a tensor file and wait until it is on the disk; `place` names the tensors in messages.

    Raises: RunError naming the first tensor that holds NaN or infinity, before anything is written; OSError.
    """
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise RunError(
                f"{shown(name)} of the {place} holds NaN or infinity, and such a file is never written. "
                "Go on from the last checkpoint, with a lower learning rate or in bf16."
            )
    write_tensor_file(path, _separated(tensors), metadata)
    flush_file(path)


def _separated(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values, none sharing memory with another, which a tensor file cannot hold."""
    seen: set[int] = set()
    separated: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        separated[name] = tensor.detach().clone() if memory in seen else tensor.detach()
        seen.add(memory)
    return separated
