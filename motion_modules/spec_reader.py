"""What a motion module is: MotionGraft's metadata first, then diffusers' configuration, then what its tensors show."""

import re
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from typing import Any, cast

from torch import Tensor

from ..core.dialects import NUMBER, Dialect
from ..core.errors import CheckpointError, SettingsError, shown, some
from ..core.tensor_files import TensorFile
from .generations import AUTO, GENERATIONS, Classification, Generation, Traits, classify
from .keys import ADDRESS, IMAGE_WEIGHT, POSITION_TABLE
from .spec import MotionModuleSpec
from .transformer import NUM_GROUPS

MAX_WORD = 40
"""Characters in a name that our metadata holds, such as a generation or a schedule."""
_WIDTH = ".temporal_transformer.norm.weight"
_BLOCK = re.compile(rf"\.attention_blocks\.({NUMBER})\.")
_OF_GENERATION = ("base_norms_over_frames", "motion_norm_over_frames", "beta_schedule", "trained_frames")


def read_spec(
    file: TensorFile, tensors: Mapping[str, Tensor], dialect: Dialect, is_whole_unet: bool, generation: str = AUTO
) -> tuple[MotionModuleSpec, Classification]:
    """The shape and norms of a motion module, and how they are known.

    Raises: CheckpointError if blocks are missing or the metadata contradicts the tensors; SettingsError if the module
    cannot be of the generation that was chosen.
    """
    shape = _shape_of(tensors, file.name)
    length = shape.pop("num_positions")
    traits = Traits(
        dialect,
        len(shape["down_channels"]),
        shape["middle_channels"] is not None,
        length,
        shape["image_channels"],
        is_whole_unet,
        file.name,
    )
    known, classification = _known(file, traits, generation)
    shape["num_positions"] = length or _assumed_positions(file, known)
    known["trained_frames"] = min(known["trained_frames"], shape["num_positions"])
    spec = MotionModuleSpec(**{**known, **shape})
    _check_number(spec, len(tensors), file.name)
    _check_widths(spec, file.name)
    return spec, classification


def read_down_spec(file: TensorFile, tensors: Mapping[str, Tensor]) -> MotionModuleSpec:
    """The shape of a motion module that lies in a down path alone, as SparseCtrl's does, under v3's norms.

    Source: guoyww/AnimateDiff sparse_controlnet.py, where all norms are taken frame by frame.
    Raises: CheckpointError if layers are missing, or lie elsewhere too.
    """
    shape = _shape_of(tensors, file.name, may_lack=("mid_block", "up_blocks"))
    if shape["up_channels"] or shape["middle_channels"]:
        raise CheckpointError(
            f"{file.name}: expected motion layers in down_blocks alone, as SparseCtrl has them, found others too. "
            "The file was edited or is of another design; get the original."
        )
    known = {**_of_generation(GENERATIONS["v3"]), **_configured_heads(file)}
    shape["num_positions"] = shape["num_positions"] or _assumed_positions(file, known)
    spec = MotionModuleSpec(**{**known, **shape})
    _check_number(spec, len(tensors), file.name)
    _check_widths(spec, file.name)
    return spec


def _known(file: TensorFile, traits: Traits, chosen: str) -> tuple[dict[str, Any], Classification]:
    """What the tensors do not say: chosen by hand, else of our metadata, else of the family that the file shows."""
    saved = file.metadata.get("spec")
    heads = _configured_heads(file)
    known = {} if saved is None else _saved(saved, traits, file.name)
    if chosen != AUTO:
        kept = {name: known[name] for name in ("num_heads", "trained_frames") if name in known}
        return {**heads, **_chosen(chosen, traits, file.name), **kept}, Classification(chosen, "it was chosen by hand")
    if known:
        return known, Classification(known["generation"], "its MotionGraft metadata says so")
    found = classify(traits)
    return {**heads, **_of_generation(GENERATIONS[found.generation])}, found


def _chosen(name: str, traits: Traits, file: str) -> dict[str, Any]:
    generation = GENERATIONS.get(name)
    if generation is None:
        raise SettingsError(f"generation is {name!r}; expected one of {', '.join((AUTO, *GENERATIONS))}.")
    takes_image = {"pia": (True,), "diffusers": (True, False)}.get(name, (False,))
    if traits.levels not in generation.levels or bool(traits.image_channels) not in takes_image:
        has = "with an image input" if traits.image_channels else "without an image input"
        raise SettingsError(
            f"{file} cannot be {name}: it is for a UNet of {traits.levels} levels, {has}. "
            f"Set generation to {AUTO}, or to one for such a UNet."
        )
    return _of_generation(generation)


def _of_generation(generation: Generation) -> dict[str, Any]:
    values = asdict(generation)
    return {"generation": generation.name, **{name: values[name] for name in _OF_GENERATION}}


def _assumed_positions(file: TensorFile, known: Mapping[str, Any]) -> int:
    """Positions for a file that stores none."""
    configured = file.config.get("motion_max_seq_length")
    if type(configured) is int and configured > 1:
        return min(configured, MAX_POSITIONS)
    published = GENERATIONS.get(known["generation"])
    return published.num_positions if published else GENERATIONS["v3"].num_positions


MAX_POSITIONS = 4096
"""Longest table that is made on a file's word."""


def _configured_heads(file: TensorFile) -> dict[str, Any]:
    """The number of attention heads, where diffusers' configuration lies beside the file.

    Raises: CheckpointError if the configuration is of a design that cannot be run.
    """
    heads = _one_number(file.config.get("motion_num_attention_heads"))
    if heads is None:
        return {}
    groups = file.config.get("motion_norm_num_groups", NUM_GROUPS)
    if type(heads) is not int or heads < 1 or groups != NUM_GROUPS:
        raise CheckpointError(
            f"{file.name}: its config.json has motion_num_attention_heads {reprlib.repr(heads)} and "
            f"motion_norm_num_groups {reprlib.repr(groups)}; expected one number of heads and {NUM_GROUPS} groups. "
            "Choose another motion module."
        )
    return {"num_heads": heads}


def _one_number(configured: object) -> object:
    """diffusers takes one number for all levels, or one for each; if these agree, they are one."""
    numbers = cast(list[object], configured) if isinstance(configured, list) else [configured]
    # Anything but numbers is not compared: a file can hold lists in lists, too deep for Python.
    agree = len(numbers) == 1 or all(type(number) is int and number == numbers[0] for number in numbers)
    return numbers[0] if numbers and agree else numbers


def _shape_of(tensors: Mapping[str, Tensor], name: str, may_lack: Sequence[str] = ("mid_block",)) -> dict[str, Any]:
    """The fields of the spec that stand in the tensors themselves. `may_lack` are parts that need not be there."""
    widths: dict[str, dict[int, int]] = {"down_blocks": {}, "mid_block": {}, "up_blocks": {}}
    layers, blocks, lengths = set[int](), set[int](), Counter[int]()
    for key, tensor in tensors.items():
        place, block = ADDRESS.match(key), _BLOCK.search(key)
        if place and key.endswith(_WIDTH):
            widths[place[1] or "mid_block"][int(place[2] or 0)] = tensor.shape[0]
            layers |= {int(place[3])} if place[1] == "down_blocks" else set()
        blocks |= {int(block[1])} if block else set()
        lengths.update([tensor.shape[1]] if key.endswith(POSITION_TABLE) else [])
    counted = {**{part: set(levels) for part, levels in widths.items()}, "layers": layers, "blocks": blocks}
    _check_gapless(name, counted, may_lack)
    image = tensors.get(IMAGE_WEIGHT)
    return {
        "down_channels": tuple(widths["down_blocks"][level] for level in sorted(widths["down_blocks"])),
        "up_channels": tuple(widths["up_blocks"][level] for level in sorted(widths["up_blocks"])),
        "middle_channels": widths["mid_block"].get(0),
        "layers_per_block": len(layers),
        "num_attention_blocks": len(blocks),
        "num_positions": lengths.most_common(1)[0][0] if lengths else None,
        "image_channels": 0 if image is None else image.shape[1],
    }


def _check_gapless(name: str, numbers: Mapping[str, set[int]], may_lack: Sequence[str]) -> None:
    """Raises: CheckpointError unless levels, layers and attention blocks are counted from 0 without a gap."""
    for part, found in numbers.items():
        if found != set(range(len(found))) or not (found or part in may_lack):
            raise CheckpointError(
                f"{name}: expected {part} counted from 0 without a gap, found {some(list(map(str, sorted(found))))}. "
                "The file holds part of a motion module; get the whole one."
            )


def _saved(saved: object, traits: Traits, name: str) -> dict[str, Any]:
    """What our metadata says beyond the tensors' shapes, if every value is one that we would have written."""
    values = cast(dict[str, Any], saved) if isinstance(saved, dict) else {}
    defaults = {field.name: field.default for field in fields(MotionModuleSpec) if field.default is not MISSING}
    known = {key: value for key, value in values.items() if key in {"generation", *defaults}}
    wrong = [key for key, value in known.items() if type(value) is not type(defaults.get(key, ""))]
    wrong += [key for key, value in known.items() if isinstance(value, str) and len(value) > MAX_WORD]
    if not wrong and not 1 < known.get("trained_frames", 2) <= (traits.num_positions or MAX_POSITIONS):
        wrong.append("trained_frames")
    if wrong or "generation" not in known:
        raise CheckpointError(
            f"{name}: its MotionGraft metadata is incomplete or edited ({some(wrong) or 'generation is missing'}). "
            "Save the module again, or use a copy that was not edited."
        )
    return {"trained_frames": MotionModuleSpec.trained_frames, **known}


def _check_number(spec: MotionModuleSpec, num_tensors: int, name: str) -> None:
    """Raises: CheckpointError if so many attentions cannot be in the file; to look for each might never end."""
    levels = len(spec.down_channels), len(spec.up_channels)
    places = levels[0] * spec.layers_per_block + levels[1] * (spec.layers_per_block + 1)
    if places * spec.num_attention_blocks > num_tensors:
        raise CheckpointError(
            f"{name}: not a whole motion module: by its numbers expected {places} temporal transformers of "
            f"{spec.num_attention_blocks} attentions each, found {num_tensors} tensors. Get the file again, or choose "
            "another."
        )


def _check_widths(spec: MotionModuleSpec, name: str) -> None:
    for address, channels in spec.sites():
        if spec.num_heads < 1 or channels % NUM_GROUPS or channels % spec.num_heads:
            raise CheckpointError(
                f"{name}: {address.prefix} is {channels} wide; expected a multiple of {NUM_GROUPS} groups and of "
                f"{shown(str(spec.num_heads))} heads. The file is damaged or not a motion module of AnimateDiff's "
                "design."
            )
