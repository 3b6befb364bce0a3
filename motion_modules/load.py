"""From the tensors of a file to a motion module, or to an error that names what does not fit."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import CheckpointError, shown, some
from ..core.file_kinds import MOTION_MODULE, classify
from ..core.protocols import Operations
from ..core.tensor_files import TensorFile
from .keys import ADDRESS, POSITION_TABLE, fuse_qkv, split_qkv, strip_prefixes
from .module import MotionModule
from .positions import sinusoidal_positions
from .spec import MotionModuleSpec

LATENT_CHANNELS = 4
_BASE_LAYER = "down_blocks.0.resnets.0.conv1.weight"
_VECTOR = re.compile(r"(\.bias|norm\.weight|norms\.\d+\.weight)$")


def motion_tensors(file: TensorFile) -> dict[str, Tensor]:
    """The file's motion tensors under canonical names: published ones, with q, k and v fused.

    Raises: CheckpointError if the file is of another kind, or lacks what a motion module must have.
    """
    kind = classify(file.tensors)
    if kind is not MOTION_MODULE:
        raise CheckpointError(f"{file.name}: expected a motion module, found {kind.description}. {kind.remedy}")
    names = {strip_prefixes(name): _widened(tensor) for name, tensor in file.tensors.items()}
    motion = {name: tensor for name, tensor in names.items() if ADDRESS.match(name)}
    others = sorted(names.keys() - motion.keys())
    if not motion:
        raise CheckpointError(
            f"{file.name}: its motion tensors are named in a layout that MotionGraft does not read yet "
            f"({some(others[:2])}). Use the file in AnimateDiff's own layout."
        )
    if others and not _is_whole_unet(names):
        raise CheckpointError(
            f"{file.name}: besides a motion module it holds {len(others)} tensors of another design "
            f"({some(others[:2])}), as PIA and AnimateLCM-I2V do. MotionGraft does not read these yet; "
            "choose a plain motion module."
        )
    _check_form(motion, file.name)
    return fuse_qkv(motion)


def _widened(tensor: Tensor) -> Tensor:
    """8-bit floats as fp16, which holds every one of them exactly and can be computed with."""
    return tensor.to(torch.float16) if tensor.is_floating_point() and tensor.element_size() == 1 else tensor


def _check_form(tensors: Mapping[str, Tensor], name: str) -> None:
    """Raises: CheckpointError unless every tensor is of floats, in the number of dimensions that its name asks for."""
    for key, tensor in tensors.items():
        dimensions = 3 if key.endswith(POSITION_TABLE) else 1 if _VECTOR.search(key) else 2
        if not tensor.is_floating_point() or tensor.ndim != dimensions:
            raise CheckpointError(
                f"{name}: expected floating-point weights in AnimateDiff's shapes, found {shown(key)} of type "
                f"{str(tensor.dtype).removeprefix('torch.')} and shape {list(tensor.shape)}. "
                "The file is damaged or quantised; get it in fp16 or fp32."
            )


def _is_whole_unet(names: Mapping[str, Tensor]) -> bool:
    """Whether the other tensors are the base UNet that the official trainer saves along, with its plain input."""
    first = names.get("conv_in.weight")
    return first is not None and first.shape[1] == LATENT_CHANNELS and _BASE_LAYER in names


def build(
    spec: MotionModuleSpec,
    tensors: Mapping[str, Tensor],
    name: str,
    operations: Operations = nn,
    dtype: torch.dtype | None = None,
) -> MotionModule:
    """A motion module of exactly these tensors: weights in `dtype`, or in their own; position tables as they are.

    Raises: CheckpointError if a tensor is missing, left over, of another shape, or not finite.
    """
    check_tensors(spec, tensors, name)
    with torch.device("meta"):
        module = MotionModule(spec, operations)
    weights = {
        key: tensor if key.endswith(POSITION_TABLE) else tensor.to(dtype or tensor.dtype)
        for key, tensor in tensors.items()
    }
    module.load_state_dict(with_positions(spec, weights), assign=True)
    return module


def check_tensors(spec: MotionModuleSpec, tensors: Mapping[str, Tensor], name: str) -> None:
    """Raises: CheckpointError unless the tensors are exactly those of the spec, and all finite."""
    with torch.device("meta"):
        expected = MotionModule(spec).state_dict()
    missing = [key for key in expected if key not in tensors and not key.endswith(POSITION_TABLE)]
    left_over = [key for key in tensors if key not in expected]
    if missing or left_over:
        raise CheckpointError(_unmatched(name, missing, left_over))
    misfits = [key for key, tensor in tensors.items() if tensor.shape != expected[key].shape]
    if misfits:
        key = misfits[0]
        raise CheckpointError(
            f"{name}: {key} should be {list(expected[key].shape)} and is {list(tensors[key].shape)} "
            f"({len(misfits)} tensors differ in shape). "
            "The file is damaged or not a motion module of AnimateDiff's design."
        )
    broken = [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"{name}: {len(broken)} of {len(tensors)} tensors hold NaN or infinity, first {broken[0]}. "
            "Every frame would be noise; get the file again, or use an earlier checkpoint of the training run."
        )


def with_positions(spec: MotionModuleSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with sinusoidal position tables where the file stores none."""
    made = {
        f"{address.prefix}.transformer_blocks.0.attention_blocks.{block}{POSITION_TABLE}": sinusoidal_positions(
            spec.num_positions, channels
        )
        for address, channels in spec.sites()
        for block in range(spec.num_attention_blocks)
    }
    return {**made, **tensors}


def saved_form(module: MotionModule) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors under published names, and the metadata that lets `spec_reader` know this module exactly."""
    return split_qkv(module.state_dict()), {"kind": MOTION_MODULE.name, "spec": asdict(module.spec)}


def _unmatched(name: str, missing: list[str], left_over: list[str]) -> str:
    found = [f"{len(missing)} tensors are missing ({some(missing[:2])})"] if missing else []
    found += [f"{len(left_over)} are not part of one ({some(left_over[:2])})"] if left_over else []
    return f"{name}: not a whole motion module: {' and '.join(found)}. Get the file again, or choose another."
