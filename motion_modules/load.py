"""From the tensors of a file to a motion module, or to an error that names what does not fit."""

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.dialects import Dialect, dialect_of, official_names
from ..core.errors import CheckpointError, shown, some
from ..core.file_kinds import MOTION_MODULE, classify
from ..core.finite import is_computable, not_finite
from ..core.protocols import Operations
from ..core.tensor_files import TensorFile
from .generations import AUTO, Classification
from .keys import (
    ADDRESS,
    IMAGE_CHANNELS,
    INPUT_BIAS,
    INPUT_WEIGHT,
    LATENT_CHANNELS,
    POSITION_TABLE,
    canonical,
    published,
)
from .module import MotionModule
from .positions import sinusoidal_positions
from .spec import MotionModuleSpec
from .spec_reader import MAX_POSITIONS, read_spec

log = logging.getLogger(__name__)

_BASE_LAYER = "down_blocks.0.resnets.0.conv1.weight"
_VECTOR = re.compile(r"(\.bias|norm\.weight|norms\.\d+\.weight)$")


@dataclass(frozen=True)
class MotionFile:
    """A motion module as its file holds it: what it is, why it is taken for that, and its canonical tensors."""

    name: str
    spec: MotionModuleSpec
    tensors: Mapping[str, Tensor]
    dialect: Dialect
    classification: Classification
    num_base_tensors: int
    """Tensors of the base UNet that lie in the same file and are left there."""


def read_motion_file(file: TensorFile, generation: str = AUTO) -> MotionFile:
    """The motion module of a file in any known dialect; its weights are checked when it is built.

    `generation` overrules what the file shows, for files that cannot tell.
    Raises: CheckpointError if the file is of another kind, mixed or not whole; SettingsError if it cannot be of the
    generation.
    """
    dialect, renamed = _official(file)
    others = {name for name in renamed if not ADDRESS.match(name) and name not in (INPUT_WEIGHT, INPUT_BIAS)}
    is_whole = _BASE_LAYER in renamed and INPUT_WEIGHT in renamed
    if others and not is_whole:
        raise CheckpointError(
            f"{file.name}: besides a motion module it holds {len(others)} tensors of another design "
            f"({some(sorted(others)[:2])}). MotionGraft does not read this one; choose a plain motion module."
        )
    motion = {name: tensor for name, tensor in renamed.items() if name not in others}
    if is_whole and motion[INPUT_WEIGHT].shape[1:2] == (LATENT_CHANNELS,):
        del motion[INPUT_WEIGHT]
        motion.pop(INPUT_BIAS, None)
    check_form(motion, file.name)
    tensors = canonical(_with_own_positions(motion) if dialect.shares_positions else motion)
    spec, classification = read_spec(file, tensors, dialect, is_whole, generation)
    return MotionFile(file.name, spec, tensors, dialect, classification, len(renamed) - len(motion))


def log_identity(motion: MotionFile) -> None:
    """Say what a file is taken for and why; as a warning, with what to do, if it may be something else."""
    found = motion.classification
    is_complete = any(name.endswith(POSITION_TABLE) for name in motion.tensors)
    made = "" if is_complete else f" It stores no positions: they are made for {motion.spec.num_positions} frames."
    remedy = f" {found.doubt} If it is another, choose its generation where it is loaded." if found.doubt else ""
    level = logging.WARNING if found.doubt else logging.INFO
    log.log(level, "%s is %s, because %s.%s%s", motion.name, found.generation, found.evidence, made, remedy)


def motion_tensors(file: TensorFile) -> Mapping[str, Tensor]:
    """The file's motion tensors under canonical names. Raises: CheckpointError as `read_motion_file` does."""
    return read_motion_file(file).tensors


def _official(file: TensorFile) -> tuple[Dialect, dict[str, Tensor]]:
    """The dialect of a motion module's file, and its tensors under official names."""
    kind = classify(file.tensors)
    if kind is not MOTION_MODULE:
        raise CheckpointError(f"{file.name}: expected a motion module, found {kind.description}. {kind.remedy}")
    return named_officially(file.tensors, file.name)


def named_officially(tensors: Mapping[str, Tensor], file: str) -> tuple[Dialect, dict[str, Tensor]]:
    """The dialect of a file's tensors, and these under official names, in types that can be computed with.

    Raises: CheckpointError if no dialect names a motion module like that, or two do.
    """
    dialect = dialect_of(tensors, file)
    renamed = {} if dialect is None else official_names(tensors, dialect, file)
    if dialect is None or not any(ADDRESS.match(name) for name in renamed):
        raise CheckpointError(
            f"{file}: its motion tensors are named in a layout that MotionGraft does not know "
            f"({some(sorted(tensors)[:2])}). Use the file in AnimateDiff's or diffusers' layout."
        )
    return dialect, {official: _widened(tensors[name]) for official, name in renamed.items()}


def _with_own_positions(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with the position table of the first attention for the others of its transformer too."""
    own = dict(tensors)
    for name in tensors:
        if name.endswith(".attention_blocks.1.to_q.weight"):
            block = name.removesuffix(".1.to_q.weight")
            table = tensors.get(f"{block}.0{POSITION_TABLE}")
            own |= {} if table is None else {f"{block}.1{POSITION_TABLE}": table}
    return own


def _widened(tensor: Tensor) -> Tensor:
    """8-bit floats as fp16, which holds every one of them exactly and can be computed with."""
    return tensor.to(torch.float16) if is_computable(tensor) and tensor.element_size() == 1 else tensor


def check_form(tensors: Mapping[str, Tensor], name: str) -> None:
    """Raises: CheckpointError unless every tensor holds floats, in the number of dimensions that its name asks for."""
    if INPUT_WEIGHT in tensors and INPUT_BIAS not in tensors:
        raise CheckpointError(f"{name}: 1 tensors are missing ({INPUT_BIAS}). Get the whole file.")
    if INPUT_WEIGHT in tensors and tensors[INPUT_WEIGHT].shape[1:2] != (LATENT_CHANNELS + IMAGE_CHANNELS,):
        raise CheckpointError(
            f"{name}: its input convolution {INPUT_WEIGHT} is {list(tensors[INPUT_WEIGHT].shape)}; expected "
            f"{LATENT_CHANNELS + IMAGE_CHANNELS} input channels, as PIA has. Choose another motion module."
        )
    for key, tensor in tensors.items():
        if not is_computable(tensor) or tensor.ndim != _dimensions(key) or 0 in tensor.shape:
            raise CheckpointError(
                f"{name}: expected floating-point weights in AnimateDiff's shapes, found {shown(key)} of type "
                f"{str(tensor.dtype).removeprefix('torch.')} and shape {list(tensor.shape)}. "
                "The file is damaged or quantised; get it in fp16 or fp32."
            )


def _dimensions(name: str) -> int:
    if name == INPUT_WEIGHT:
        return 4
    return 3 if name.endswith(POSITION_TABLE) else 1 if _VECTOR.search(name) else 2


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
    check_tensors(spec, tensors, name)  # against torch's layers: ComfyUI's may have no weights before they are loaded
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
    _check_tensors(expected, tensors, name)


def _check_tensors(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str) -> None:
    missing = [key for key, made in expected.items() if key not in tensors and not _is_made(key, made)]
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
    broken = not_finite(tensors)
    if broken:
        raise CheckpointError(
            f"{name}: {len(broken)} of {len(tensors)} tensors hold NaN or infinity, first {broken[0]}. "
            "Every frame would be noise; get the file again, or use an earlier checkpoint of the training run."
        )


def _is_made(name: str, expected: Tensor) -> bool:
    """Whether a tensor is made where the file stores none. A table of any length would be made on the word of one."""
    return name.endswith(POSITION_TABLE) and expected.shape[1] <= MAX_POSITIONS


def with_positions(spec: MotionModuleSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with sinusoidal position tables where the file stores none."""
    names = {
        f"{address.prefix}.transformer_blocks.0.attention_blocks.{block}{POSITION_TABLE}": channels
        for address, channels in spec.sites()
        for block in range(spec.num_attention_blocks)
    }
    missing = {name: channels for name, channels in names.items() if name not in tensors}
    return {**tensors, **{name: sinusoidal_positions(spec.num_positions, width) for name, width in missing.items()}}


def saved_form(module: MotionModule) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors under published names, and the metadata that lets `spec_reader` know this module exactly."""
    return published(module.state_dict()), {"kind": MOTION_MODULE.name, "spec": asdict(module.spec)}


def _unmatched(name: str, missing: list[str], left_over: list[str]) -> str:
    found = [f"{len(missing)} tensors are missing ({some(missing[:2])})"] if missing else []
    found += [f"{len(left_over)} are not part of one ({some(left_over[:2])})"] if left_over else []
    return f"{name}: not a whole motion module: {' and '.join(found)}. Get the file again, or choose another."
