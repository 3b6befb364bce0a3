"""The command `convert`: a motion module, MotionLoRA or domain adapter anew, as safetensors in a layout of choice."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import CheckpointError, SettingsError
from ..core.file_kinds import DOMAIN_ADAPTER, LORA, MOTION_LORA, MOTION_MODULE, FileKind, classify
from ..core.tensor_files import TensorFile, read_tensor_file
from ..core.training_record import TRAINING
from ..lora.domain_adapter import read_domain_adapter
from ..lora.motion_lora import read_motion_lora
from ..lora.saved_forms import LAYOUTS as LORA_LAYOUTS
from ..lora.saved_forms import domain_adapter_form, motion_lora_form
from ..motion_modules.generations import AUTO, GENERATIONS
from ..motion_modules.load import build, read_motion_file, saved_form
from ..motion_modules.written_layouts import BAKED, DTYPES, LAYOUTS, written_form
from .given_files import check_given
from .written_files import KEEP, check_target, write_weights

ANIMATEDIFF = "animatediff"
Content = tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]
"""Tensors, metadata, and diffusers' configuration where there is one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `convert`."""
    parser.add_argument("source", type=Path, metavar="IN", help="a weight file, or a folder of diffusers")
    parser.add_argument(
        "target", type=Path, metavar="OUT", help="a new .safetensors file; a folder for diffusers' modules"
    )
    parser.add_argument("--layout", choices=list(LAYOUTS), default=ANIMATEDIFF, help="whose names the weights get")
    parser.add_argument("--dtype", choices=[KEEP, *DTYPES], default=KEEP)
    parser.add_argument(
        "--generation",
        choices=[AUTO, *GENERATIONS],
        default=AUTO,
        help="of a motion module, where its file cannot tell",
    )


def main(options: argparse.Namespace) -> int:
    """Write the new file and print its path. Raises: MotionError for what cannot be read or written."""
    convert(options.source, options.target, DTYPES.get(options.dtype), options.layout, options.generation)
    print(options.target)  # noqa: T201 - the command's answer
    return 0


def convert(
    source: Path, target: Path, dtype: torch.dtype | None, layout: str = ANIMATEDIFF, generation: str = AUTO
) -> None:
    """Write a file anew, its weights in `dtype` or in their own; positions stay in the type that they have.

    Raises: CheckpointError if the source is damaged or of a kind that has no such layout; SettingsError if the target
    exists or a weight does not fit the type; RunError if the disk does not take the file.
    """
    check_given(source, "convert")
    file = read_tensor_file(source)
    kind = classify(file.tensors)
    check_target(target, is_folder=kind is MOTION_MODULE and layout == "diffusers")
    tensors, metadata, config = _content(kind, file, layout, generation)
    write_weights(target, tensors, {**metadata, **_kept(file.metadata)}, dtype, config)


def _content(kind: FileKind, file: TensorFile, layout: str, generation: str) -> Content:
    """What the new file holds."""
    if kind is MOTION_MODULE:
        return _motion_module(file, layout, generation)
    if kind not in (MOTION_LORA, DOMAIN_ADAPTER, LORA):
        raise CheckpointError(
            f"{file.name}: expected a motion module, a MotionLoRA or a domain adapter, found {kind.description}. "
            "Choose one of these."
        )
    if layout not in LORA_LAYOUTS:
        raise SettingsError(f"a LoRA has no layout {layout}; expected one of {', '.join(LORA_LAYOUTS)}.")
    if kind is MOTION_LORA:
        lora = read_motion_lora(file)
        if lora.num_base_changes:
            raise CheckpointError(
                f"{file.name}: besides a MotionLoRA it holds {lora.num_base_changes} changes of the base model, and a "
                "converted file has room for one of the two. Use it as it is."
            )
        return *motion_lora_form(lora, layout), {}
    return *domain_adapter_form(read_domain_adapter(file), layout), {}


def _motion_module(file: TensorFile, layout: str, generation: str) -> Content:
    motion = read_motion_file(file, generation)
    tensors, metadata = saved_form(build(motion.spec, motion.tensors, file.name))
    form = written_form(tensors, motion.spec, layout)
    return form.tensors, {**metadata, "base": motion.spec.base}, form.config


def _kept(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """How the weights were made, which a conversion does not change."""
    return {key: metadata[key] for key in (TRAINING, BAKED) if key in metadata}
