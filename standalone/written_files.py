"""New weight files that a command line asks for: never over another file, never half."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.diffusers_folders import CONFIG, DIFFUSERS_STEM, SAFETENSORS
from ..core.errors import RunError, SettingsError, shown
from ..core.finite import not_finite
from ..core.tensor_files import write_tensor_file
from ..motion_modules.keys import POSITION_TABLE

KEEP = "keep"
SPARE_BYTES = 2**20
"""What a file may take beyond its tensors."""


def check_target(target: Path, is_folder: bool = False) -> None:
    """Raises: SettingsError unless a new file, or a new folder of diffusers, can be made there."""
    if not is_folder and target.suffix != SAFETENSORS:
        raise SettingsError(
            f"OUT should name a {SAFETENSORS} file, found {target.name}. Name it {target.stem}{SAFETENSORS}."
        )
    if is_folder and target.suffix == SAFETENSORS:
        raise SettingsError(
            f"diffusers reads a folder, so OUT should name one, found {target.name}. Name it {target.stem}."
        )
    if target.exists():
        raise SettingsError(f"{target} exists already, and nothing is written over it. Choose another name.")
    if not target.parent.is_dir():
        raise SettingsError(f"the folder {target.parent} does not exist. Make it, or choose another.")


def write_weights(
    target: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Write a new file, or with a `config` a new folder of diffusers; weights in `dtype` or in their own.

    Raises: SettingsError if a weight does not fit the type; RunError if the disk does not take the file.
    """
    stored = {name: _stored(name, tensor, dtype) for name, tensor in tensors.items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
    if shutil.disk_usage(target.parent).free < size + SPARE_BYTES:
        raise RunError(f"{target.name} takes {size / 2**20:,.0f} MiB, which {target.parent} has not free. Free some.")
    try:
        if config:
            _write_folder(target, stored, metadata, config)
        else:
            write_tensor_file(target, stored, metadata)
    except OSError as error:
        raise RunError(
            f"expected to write {target}, found: {error}. No part of it was left behind. "
            "Free disk space, or get the right to write there."
        ) from error


def _write_folder(
    target: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    target.mkdir()
    try:
        (target / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        write_tensor_file(target / f"{DIFFUSERS_STEM}{SAFETENSORS}", tensors, metadata)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _stored(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or name.endswith((POSITION_TABLE, ".pos_embed.pe", ".positional_encoding")):
        return tensor.detach().clone()  # a copy: tensors that share memory cannot be written
    stored = tensor.detach().to(dtype, copy=True)
    if not_finite({name: stored}):
        raise SettingsError(
            f"{shown(name)} reaches {tensor.abs().max().item():,.0f}, and {str(dtype).removeprefix('torch.')} ends at "
            f"{torch.finfo(dtype).max:,.0f}. Choose --dtype fp32 or bf16."
        )
    return stored
