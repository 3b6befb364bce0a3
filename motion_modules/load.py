"""From the tensors of a file to a motion module, or to an error that names what does not fit."""

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..core.errors import CheckpointError, shown, some
from ..core.file_kinds import MOTION_MODULE, classify
from ..core.protocols import Operations
from ..core.tensor_files import TensorFile
from .keys import ADDRESS, fuse_qkv, split_qkv, strip_prefixes
from .module import MotionModule
from .positions import sinusoidal_positions
from .spec import MotionModuleSpec
from .transformer import NUM_GROUPS

log = logging.getLogger(__name__)

ASSUMED_POSITIONS = 32
"""Positions of v2, v3 and SDXL beta, made for files that store none. Source: configs/inference/inference-v2.yaml."""

LATENT_CHANNELS = 4
MAX_WORD = 40
"""Characters in a name that our metadata holds, such as a generation or a schedule."""
_BASE_LAYER = "down_blocks.0.resnets.0.conv1.weight"
_WIDTH = ".temporal_transformer.norm.weight"
_TABLE = ".pos_encoder.pe"
_VECTOR = re.compile(r"(\.bias|norm\.weight|norms\.\d+\.weight)$")
_BLOCK = re.compile(r"\.attention_blocks\.(\d+)\.")


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
        dimensions = 3 if key.endswith(_TABLE) else 1 if _VECTOR.search(key) else 2
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


def read_spec(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], name: str) -> MotionModuleSpec:
    """The shape and norms of a motion module, from MotionGraft's metadata where there is any, else from its tensors.

    Raises: CheckpointError if blocks are missing or the metadata contradicts the tensors.
    """
    shape = _shape_of(tensors, name)
    saved = metadata.get("spec")
    trained = _published_norms(shape, name) if saved is None else _saved_norms(saved, shape, name)
    spec = MotionModuleSpec(**{**trained, **shape})
    _check_widths(spec, name)
    if not any(key.endswith(_TABLE) for key in tensors):
        log.warning(
            "%s stores no positions: they are made for %d frames, and its norms are taken as %s's. "
            "If it is AnimateLCM, set beta_schedule to lcm.",
            name,
            spec.num_positions,
            spec.generation,
        )
    return spec


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
        key: tensor if key.endswith(_TABLE) else tensor.to(dtype or tensor.dtype) for key, tensor in tensors.items()
    }
    module.load_state_dict(with_positions(spec, weights), assign=True)
    return module


def check_tensors(spec: MotionModuleSpec, tensors: Mapping[str, Tensor], name: str) -> None:
    """Raises: CheckpointError unless the tensors are exactly those of the spec, and all finite."""
    with torch.device("meta"):
        expected = MotionModule(spec).state_dict()
    missing = [key for key in expected if key not in tensors and not key.endswith(_TABLE)]
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
        f"{address.prefix}.transformer_blocks.0.attention_blocks.{block}{_TABLE}": sinusoidal_positions(
            spec.num_positions, channels
        )
        for address, channels in spec.sites()
        for block in range(spec.num_attention_blocks)
    }
    return {**made, **tensors}


def saved_form(module: MotionModule) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors under published names, and the metadata that lets `read_spec` know this module exactly."""
    return split_qkv(module.state_dict()), {"kind": MOTION_MODULE.name, "spec": asdict(module.spec)}


def _shape_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """The fields of the spec that stand in the tensors themselves."""
    widths: dict[str, dict[int, int]] = {"down_blocks": {}, "mid_block": {}, "up_blocks": {}}
    layers, blocks, lengths = set[int](), set[int](), Counter[int]()
    for key, tensor in tensors.items():
        place, block = ADDRESS.match(key), _BLOCK.search(key)
        if place and key.endswith(_WIDTH):
            widths[place[1] or "mid_block"][int(place[2] or 0)] = tensor.shape[0]
            layers |= {int(place[3])} if place[1] == "down_blocks" else set()
        blocks |= {int(block[1])} if block else set()
        lengths.update([tensor.shape[1]] if key.endswith(_TABLE) else [])
    _check_gapless(name, {**{part: set(levels) for part, levels in widths.items()}, "layers": layers, "blocks": blocks})
    return {
        "down_channels": tuple(widths["down_blocks"][level] for level in sorted(widths["down_blocks"])),
        "up_channels": tuple(widths["up_blocks"][level] for level in sorted(widths["up_blocks"])),
        "middle_channels": widths["mid_block"].get(0),
        "layers_per_block": len(layers),
        "num_attention_blocks": len(blocks),
        "num_positions": lengths.most_common(1)[0][0] if lengths else ASSUMED_POSITIONS,
    }


def _check_gapless(name: str, numbers: Mapping[str, set[int]]) -> None:
    """Raises: CheckpointError unless levels, layers and attention blocks are counted from 0 without a gap."""
    for part, found in numbers.items():
        if found != set(range(len(found))) or not (found or part == "mid_block"):
            raise CheckpointError(
                f"{name}: expected {part} counted from 0 without a gap, found {some(list(map(str, sorted(found))))}. "
                "The file holds part of a motion module; get the whole one."
            )


def _published_norms(shape: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Generation and norm modes of a file without our metadata, told by what only that generation has.

    Source: the norm modes are those of guoyww/AnimateDiff inference-v1.yaml, -v2.yaml, -v3.yaml and branch `sdxl`;
    only v1 has 24 positions and no middle block.
    """
    if len(shape["down_channels"]) == 3:
        return {"generation": "sdxl-beta", "motion_norm_over_frames": True, "beta_schedule": "sdxl-beta"}
    if shape["middle_channels"] is not None:
        return {"generation": "v2"}
    if shape["num_positions"] == 24:
        return {"generation": "v1", "base_norms_over_frames": True}
    if shape["num_positions"] != 32:
        log.warning(
            "%s: no metadata and %d positions; taken as v3 (norms frame by frame)", name, shape["num_positions"]
        )
    return {"generation": "v3"}


def _saved_norms(saved: object, shape: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What our metadata says beyond the tensors' shapes, if every value is one that we would have written."""
    values = cast(dict[str, Any], saved) if isinstance(saved, dict) else {}
    defaults = {field.name: field.default for field in fields(MotionModuleSpec) if field.default is not MISSING}
    known = {key: value for key, value in values.items() if key in {"generation", *defaults}}
    wrong = [key for key, value in known.items() if type(value) is not type(defaults.get(key, ""))]
    wrong += [key for key, value in known.items() if isinstance(value, str) and len(value) > MAX_WORD]
    if not wrong and not 1 < known.get("trained_frames", 2) <= shape["num_positions"]:
        wrong.append("trained_frames")
    if wrong or "generation" not in known:
        raise CheckpointError(
            f"{name}: its MotionGraft metadata is incomplete or edited ({some(wrong) or 'generation is missing'}). "
            "Save the module again, or use a copy that was not edited."
        )
    return known


def _check_widths(spec: MotionModuleSpec, name: str) -> None:
    for address, channels in spec.sites():
        if spec.num_heads < 1 or channels % NUM_GROUPS or channels % spec.num_heads:
            raise CheckpointError(
                f"{name}: {address.prefix} is {channels} wide; expected a multiple of {NUM_GROUPS} groups and of "
                f"{spec.num_heads} heads. The file is damaged or not a motion module of AnimateDiff's design."
            )


def _unmatched(name: str, missing: list[str], left_over: list[str]) -> str:
    found = [f"{len(missing)} tensors are missing ({some(missing[:2])})"] if missing else []
    found += [f"{len(left_over)} are not part of one ({some(left_over[:2])})"] if left_over else []
    return f"{name}: not a whole motion module: {' and '.join(found)}. Get the file again, or choose another."
