"""What a motion module is, from MotionGraft's metadata or from what only one published generation has."""

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, cast

from torch import Tensor

from ..core.errors import CheckpointError, some
from .keys import ADDRESS, POSITION_TABLE
from .spec import MotionModuleSpec
from .transformer import NUM_GROUPS

log = logging.getLogger(__name__)

ASSUMED_POSITIONS = 32
"""Positions of v2, v3 and SDXL beta, made for files that store none. Source: configs/inference/inference-v2.yaml."""

MAX_WORD = 40
"""Characters in a name that our metadata holds, such as a generation or a schedule."""
_WIDTH = ".temporal_transformer.norm.weight"
_BLOCK = re.compile(r"\.attention_blocks\.(\d+)\.")


def read_spec(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], name: str) -> MotionModuleSpec:
    """The shape and norms of a motion module, from MotionGraft's metadata where there is any, else from its tensors.

    Raises: CheckpointError if blocks are missing or the metadata contradicts the tensors.
    """
    shape = _shape_of(tensors, name)
    saved = metadata.get("spec")
    trained = _published_norms(shape, name) if saved is None else _saved_norms(saved, shape, name)
    spec = MotionModuleSpec(**{**trained, **shape})
    _check_widths(spec, name)
    if not any(key.endswith(POSITION_TABLE) for key in tensors):
        log.warning(
            "%s stores no positions: they are made for %d frames, and its norms are taken as %s's. "
            "If it is AnimateLCM, set beta_schedule to lcm.",
            name,
            spec.num_positions,
            spec.generation,
        )
    return spec


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
        lengths.update([tensor.shape[1]] if key.endswith(POSITION_TABLE) else [])
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
