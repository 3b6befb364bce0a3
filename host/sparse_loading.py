"""SparseCtrl encoders from their files, as ComfyUI's own models, so that it loads, offloads and casts them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.controlnet
import comfy.ops
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.supported_models import SD15
from torch import Tensor, nn

from ..core.errors import CheckpointError, some
from ..core.tensor_files import TensorFile
from ..motion_modules.load import build
from ..motion_modules.module import MotionModule
from ..motion_modules.sparse_control import CONDITION, SparseControlFile, read_sparse_control
from .motion_modules import patcher_around
from .sparse_network import SparseControlNetwork

LEVELS, LAYERS = 4, 2
"""Of SD 1.5's down path. Source: comfy/supported_models.py, SD15."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_MOTION = "motion."
"""In front of the motion module's tensors in the network."""
_NUM_PIXEL_BLOCKS = 6
"""Convolutions between the first and the last of those that see pixels.

Source: guoyww/AnimateDiff sparse_controlnet.py, `SparseControlNetConditioningEmbedding`.
"""


@dataclass(frozen=True)
class LoadedSparseControl:
    """A SparseCtrl encoder as ComfyUI's own model, and the type that it computes in if that is not its own."""

    name: str
    patcher: ModelPatcher
    cast_dtype: torch.dtype | None

    @property
    def network(self) -> SparseControlNetwork:
        return self.patcher.model


def load_sparse_network(file: TensorFile) -> LoadedSparseControl:
    """The SparseCtrl encoder of a file, ready for ComfyUI to load.

    Raises: CheckpointError if the file is not a whole, sound SparseCtrl encoder for SD 1.5.
    """
    return network_of(read_sparse_control(file))


def network_of(sparse: SparseControlFile) -> LoadedSparseControl:
    """An encoder that was read as ComfyUI's own model. Raises: CheckpointError as `load_sparse_network` does."""
    tensors = _named_as_in_comfyui(sparse)
    model_config, operations, _, dtype, cast_dtype, _ = comfy.controlnet.controlnet_config(tensors)
    config = {name: value for name, value in model_config.unet_config.items() if name != "out_channels"}
    widths = tuple(config["model_channels"] * factor for factor in config["channel_mult"])
    if not isinstance(model_config, SD15) or widths != sparse.spec.down_channels:
        raise _other_design(sparse)
    _check_shapes(sparse, config, tensors)
    config |= {"dtype": dtype, "device": "meta"}
    motion_dtype = dtype if dtype in FLOATS else torch.float16  # norms need more than 8 bits
    motion = build(sparse.spec, sparse.motion, sparse.name, comfy.ops.manual_cast, motion_dtype)
    network = SparseControlNetwork(motion, sparse.sees_latents, operations, **config)
    weights = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    of_motion = {f"{_MOTION}{name}": tensor for name, tensor in motion.state_dict().items()}
    network.load_state_dict({**weights, **of_motion}, assign=True)
    return LoadedSparseControl(sparse.name, patcher_around(network, disable_dynamic=False), cast_dtype)


def _named_as_in_comfyui(sparse: SparseControlFile) -> dict[str, Tensor]:
    """The ControlNet's tensors under ComfyUI's names. Raises: CheckpointError if one is missing or left over."""
    if (len(sparse.spec.down_channels), sparse.spec.layers_per_block) != (LEVELS, LAYERS):
        raise _other_design(sparse)
    names = _comfyui_names(sparse)
    theirs = {own: name for name, own in names.items()}
    control = {theirs.get(name, name): tensor for name, tensor in sparse.control.items()}
    missing, left_over = sorted(names.keys() - control.keys()), sorted(control.keys() - names.keys())
    if missing or left_over:
        found = [f"{len(missing)} tensors are missing ({some(missing[:2])})"] if missing else []
        found += [f"{len(left_over)} are not part of one ({some(left_over[:2])})"] if left_over else []
        raise CheckpointError(
            f"{sparse.name}: not a whole SparseCtrl encoder for SD 1.5: {' and '.join(found)}. Get the file again, or "
            "choose another."
        )
    return {own: control[name] for name, own in names.items()}


def _comfyui_names(sparse: SparseControlFile) -> dict[str, str]:
    """ComfyUI's name of each tensor by diffusers' name, for a ControlNet in the depth of SD 1.5."""
    unet = comfy.utils.unet_to_diffusers(
        {
            "num_res_blocks": [LAYERS] * LEVELS,
            "channel_mult": [1] * LEVELS,
            "transformer_depth": [1] * LAYERS * (LEVELS - 1) + [0] * LAYERS,
            "transformer_depth_output": [0] * (LAYERS + 1) * LEVELS,
            "transformer_depth_middle": 1,
        }
    )
    layers = _condition_names(sparse.sees_latents) | {"controlnet_mid_block": "middle_block_out.0"}
    layers |= {f"controlnet_down_blocks.{index}": f"zero_convs.{index}.0" for index in range(LEVELS * (LAYERS + 1))}
    own = {f"{theirs}.{kind}": f"{name}.{kind}" for theirs, name in layers.items() for kind in ("weight", "bias")}
    return own | {theirs: name for theirs, name in unet.items() if _is_in_control(theirs, sparse.spec.down_channels)}


def _is_in_control(name: str, widths: tuple[int, ...]) -> bool:
    """Whether a UNet of SD 1.5 has this tensor, and its copy in a ControlNet too."""
    block, _, layer = name.removeprefix("down_blocks.").partition(".")
    if layer.startswith("downsamplers."):
        return int(block) < LEVELS - 1
    if ".conv_shortcut." in name:  # where a level begins with another width than that of the level above
        level = int(block) if block.isdigit() else 0
        return level > 0 and layer.startswith("resnets.0.") and widths[level] != widths[level - 1]
    return name.startswith(("conv_in.", "time_embedding.", "down_blocks.", "mid_block."))


def _condition_names(sees_latents: bool) -> dict[str, str]:
    """The names of the layers that see the condition; between two of ComfyUI's lies an activation."""
    if sees_latents:
        return {CONDITION.removesuffix("."): "input_hint_block.0"}
    layers = ["conv_in", *(f"blocks.{index}" for index in range(_NUM_PIXEL_BLOCKS)), "conv_out"]
    return {f"{CONDITION}{layer}": f"input_hint_block.{2 * index}" for index, layer in enumerate(layers)}


def _other_design(sparse: SparseControlFile) -> CheckpointError:
    return CheckpointError(
        f"{sparse.name}: its layers have the depth or widths of no base model that SparseCtrl was made for; expected "
        "those of SD 1.5. The file is damaged or of another design; get the original."
    )


class _TorchLayers:
    """torch's own layers, as ComfyUI's networks ask for them: ComfyUI's may have no weights before they are loaded."""

    Linear, Conv2d, GroupNorm, LayerNorm = nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm

    @staticmethod
    def conv_nd(dims: int, *args: Any, **kwargs: Any) -> nn.Conv2d:
        return nn.Conv2d(*args, **kwargs)


def _check_shapes(sparse: SparseControlFile, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raises: CheckpointError unless every tensor has the shape that ComfyUI's ControlNet gives it."""
    with torch.device("meta"):
        motion = MotionModule(sparse.spec)
        expected = SparseControlNetwork(motion, sparse.sees_latents, _TorchLayers, **config).state_dict()
    own = {name for name in expected if not name.startswith(_MOTION)}
    misfits = [name for name in tensors if name not in own or tensors[name].shape != expected[name].shape]
    if misfits or len(own) != len(tensors):
        name = misfits[0] if misfits else min(own - tensors.keys())
        shapes = [list(found[name].shape) if name in found else "none" for found in (expected, tensors)]
        raise CheckpointError(
            f"{sparse.name}: {name} should be {shapes[0]} and is {shapes[1]} ({len(misfits)} tensors differ in shape). "
            "The file is damaged or not a SparseCtrl encoder for SD 1.5; get the original."
        )
