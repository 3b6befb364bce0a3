"""The command `convert`: a motion module, MotionLoRA or domain adapter anew, as safetensors in AnimateDiff's layout."""

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import CheckpointError, RunError, SettingsError, shown
from ..core.file_kinds import DOMAIN_ADAPTER, MOTION_LORA, MOTION_MODULE, classify
from ..core.tensor_files import TensorFile, read_tensor_file, write_tensor_file
from ..lora.domain_adapter import read_domain_adapter
from ..lora.motion_lora import read_motion_lora
from ..lora.saved_forms import TRAINING, domain_adapter_form, motion_lora_form
from ..motion_modules.keys import POSITION_TABLE, strip_prefixes
from ..motion_modules.load import build, motion_tensors, saved_form
from ..motion_modules.spec_reader import read_spec
from .given_files import check_given

KEEP = "keep"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
SUFFIX = ".safetensors"
BAKED = "baked"
"""The entry of our metadata that lists the MotionLoRAs inside a module's weights."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `convert`."""
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("target", type=Path, metavar="OUT", help="a new .safetensors file")
    parser.add_argument("--dtype", choices=[KEEP, *DTYPES], default=KEEP)


def main(options: argparse.Namespace) -> int:
    """Write the new file and print its path. Raises: MotionError for what cannot be read or written."""
    convert(options.source, options.target, DTYPES.get(options.dtype))
    print(options.target)  # noqa: T201 - the command's answer
    return 0


def convert(source: Path, target: Path, dtype: torch.dtype | None) -> None:
    """Write a file anew, its weights in `dtype` or in their own; positions stay in the type that they have.

    Raises: CheckpointError if the source is damaged or of a kind that has no such layout; SettingsError if the target
    exists or a weight does not fit the type; RunError if the disk does not take the file.
    """
    check_given(source, "convert")
    _check_target(target)
    tensors, metadata = _published(read_tensor_file(source))
    stored = {name: _stored(name, tensor, dtype) for name, tensor in tensors.items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
    if shutil.disk_usage(target.parent).free < size + 2**20:
        raise RunError(f"{target.name} takes {size / 2**20:,.0f} MiB, which {target.parent} has not free. Free some.")
    try:
        write_tensor_file(target, stored, metadata)
    except OSError as error:
        raise RunError(
            f"expected to write {target}, found: {error}. No part of it was left behind. "
            "Free disk space, or get the right to write there."
        ) from error


def _check_target(target: Path) -> None:
    if target.suffix != SUFFIX:
        raise SettingsError(f"OUT should name a {SUFFIX} file, found {target.name}. Name it {target.stem}{SUFFIX}.")
    if target.exists():
        raise SettingsError(f"{target} exists already, and nothing is written over it. Choose another name.")
    if not target.parent.is_dir():
        raise SettingsError(f"the folder {target.parent} does not exist. Make it, or choose another.")


def _published(file: TensorFile) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file in AnimateDiff's layout, and what the new file says about itself."""
    kind = classify(file.tensors)
    if kind is MOTION_MODULE:
        tensors, metadata = _motion_module(file)
    elif kind is MOTION_LORA:
        tensors, metadata = motion_lora_form(read_motion_lora(file))
    elif kind is DOMAIN_ADAPTER:
        adapter = read_domain_adapter(file)
        tensors, metadata = domain_adapter_form({strip_prefixes(name): tensor for name, tensor in adapter.items()})
    else:
        raise CheckpointError(
            f"{file.name}: expected a motion module, a MotionLoRA or a domain adapter, found {kind.description}. "
            "Choose one of these."
        )
    return tensors, {**metadata, **_kept(file.metadata)}


def _motion_module(file: TensorFile) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = motion_tensors(file)
    spec = read_spec(tensors, file.metadata, file.name)
    form, metadata = saved_form(build(spec, tensors, file.name))
    return form, {**metadata, "base": spec.base}


def _kept(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """How the weights were made, which a conversion does not change."""
    return {key: metadata[key] for key in (TRAINING, BAKED) if key in metadata}


def _stored(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or name.endswith(POSITION_TABLE):
        return tensor.detach().clone()  # a copy: tensors that share memory cannot be written
    stored = tensor.detach().to(dtype, copy=True)
    if not torch.isfinite(stored).all():
        raise SettingsError(
            f"{shown(name)} reaches {tensor.abs().max().item():,.0f}, and {str(dtype).removeprefix('torch.')} ends at "
            f"{torch.finfo(dtype).max:,.0f}. Choose --dtype fp32 or bf16."
        )
    return stored
