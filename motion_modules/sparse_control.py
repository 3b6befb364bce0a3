"""From the tensors of a SparseCtrl file to its two parts: a ControlNet, and a motion module in its down path alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..core.dialects import ANIMATEDIFF, official_names
from ..core.errors import CheckpointError, shown
from ..core.file_kinds import SPARSECTRL, classify
from ..core.finite import is_computable, not_finite
from ..core.tensor_files import TensorFile
from .keys import LATENT_CHANNELS, canonical
from .load import check_form, named_officially
from .spec import MotionModuleSpec
from .spec_reader import read_down_spec

CONDITION = "controlnet_cond_embedding."
"""What sees the images."""
LATENT_INPUT = f"{CONDITION}weight"
"""The one convolution by which a file sees latents of images (rgb)."""
PIXEL_INPUT = f"{CONDITION}conv_in.weight"
"""The first of the convolutions by which a file sees pixels (scribble)."""
PIXEL_CHANNELS = 3
MASK_CHANNELS = 1
"""Behind those of the image: 1 at keyframes, 0 at frames without an image.

Source of the inputs: guoyww/AnimateDiff configs/inference/sparsectrl/latent_condition.yaml and image_condition.yaml.
"""
_WEBUI_CONDITION = "input_hint_block.0."
"""How conrevo/AnimateDiff-A1111 begins the names of what sees the condition."""
_MOTION = ".motion_modules."
_VECTOR = re.compile(r"(\.bias|(norm\d?|in_layers\.0|out_layers\.0)\.weight)$")


@dataclass(frozen=True)
class SparseControlFile:
    """A SparseCtrl encoder as its file holds it."""

    name: str
    spec: MotionModuleSpec
    motion: Mapping[str, Tensor]
    """Its motion module's tensors under canonical names."""
    control: Mapping[str, Tensor]
    """Those of its ControlNet under diffusers' names, which are AnimateDiff's too, or under CompVis'.

    Those that see the condition are always under diffusers'.
    """

    @property
    def sees_latents(self) -> bool:
        """Whether its condition is a latent, else it is pixels."""
        return LATENT_INPUT in self.control


def read_sparse_control(file: TensorFile) -> SparseControlFile:
    """The SparseCtrl encoder of a file in the names of AnimateDiff, diffusers or WebUI; building it checks it whole.

    Raises: CheckpointError if the file is of another kind, mixed, damaged, or its motion module is not whole.
    """
    kind = classify(file.tensors)
    if kind is not SPARSECTRL:
        raise CheckpointError(
            f"{file.name}: expected {SPARSECTRL.description}, found {kind.description}. {kind.remedy}"
        )
    motion = {name: tensor for name, tensor in file.tensors.items() if _MOTION in name}
    others = official_names((name for name in file.tensors if name not in motion), ANIMATEDIFF, file.name)
    control = {name.replace(_WEBUI_CONDITION, CONDITION): file.tensors[own] for name, own in others.items()}
    _check_control(control, file.name)
    _, official = named_officially(motion, file.name)
    check_form(official, file.name)
    tensors = canonical(official)
    return SparseControlFile(file.name, read_down_spec(file, tensors), tensors, control)


def _check_control(tensors: Mapping[str, Tensor], name: str) -> None:
    """Raises: CheckpointError unless all tensors are sound, and the condition is one of the two published ones."""
    for key, tensor in tensors.items():
        dimensions = (1,) if _VECTOR.search(key) else (2, 4)
        if not is_computable(tensor) or 0 in tensor.shape or tensor.ndim not in dimensions:
            raise CheckpointError(
                f"{name}: expected floating-point weights in SparseCtrl's shapes, found {shown(key)} of type "
                f"{str(tensor.dtype).removeprefix('torch.')} and shape {list(tensor.shape)}. "
                "The file is damaged or quantised; get it in fp16 or fp32."
            )
    _check_condition(tensors, name)
    broken = not_finite(tensors)
    if broken:
        raise CheckpointError(
            f"{name}: {len(broken)} of {len(tensors)} tensors hold NaN or infinity, first {shown(broken[0])}. "
            "Get the file again."
        )


def _check_condition(tensors: Mapping[str, Tensor], name: str) -> None:
    key = LATENT_INPUT if LATENT_INPUT in tensors else PIXEL_INPUT
    expected = MASK_CHANNELS + (LATENT_CHANNELS if key is LATENT_INPUT else PIXEL_CHANNELS)
    shape = list(tensors[key].shape) if key in tensors else []
    if len(shape) != 4 or shape[1] != expected:
        raise CheckpointError(
            f"{name}: expected {key} with {expected} input channels, an image's and a mask, found {shape or 'none'}. "
            "Only the published rgb and scribble encoders are read, and files like them."
        )
