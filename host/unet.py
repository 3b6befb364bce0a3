"""Where the addresses of a motion module lie in ComfyUI's UNet."""

from dataclasses import dataclass
from typing import Any

from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel, VideoResBlock
from comfy.model_patcher import ModelPatcher
from comfy.supported_models import SD15, SDXL
from torch import nn

from ..core.errors import IncompatibleModelError
from ..motion_modules.spec import Address, MotionModuleSpec

Block = tuple[str, int]
"""ComfyUI's name for a place in the running UNet: `transformer_options["block"]`."""


@dataclass(frozen=True)
class Place:
    """The layer that a temporal transformer follows: the block it stands in, and the kind of layer."""

    block: Block
    layer_class: type[nn.Module]


def block_of(address: Address, layers_per_block: int) -> Block:
    """ComfyUI's name for the block at an address.

    A level of the down path is its layers and a downsampler, after one input convolution; a level of the up path has
    one layer more, and its upsampler shares the last layer's block.
    """
    if address.part == "mid_block":
        return ("middle", 0)
    if address.part == "down_blocks":
        return ("input", 1 + address.level * (layers_per_block + 1) + address.layer)
    return ("output", address.level * (layers_per_block + 1) + address.layer)


def unet_of(model: ModelPatcher) -> Any:
    """The model's network; a module of torch.compile stands in front of the one it compiled."""
    unet = model.get_model_object("diffusion_model")
    return getattr(unet, "_orig_mod", unet)


def find_places(model: ModelPatcher, spec: MotionModuleSpec, name: str) -> dict[Place, Address]:
    """Every address of a motion module with its place in a model's UNet.

    Raises: IncompatibleModelError if the model has no such UNet, or its depth or widths differ.
    """
    unet = check_image_unet(model, name)
    _check_depth(model, unet, spec, name)
    places: dict[Place, Address] = {}
    for address, channels in spec.sites():
        block = block_of(address, spec.layers_per_block)
        layer = _layer_before_motion(_layers(unet, block))
        if layer is None or _width(layer) != channels:
            raise IncompatibleModelError(_misfit(name, address, channels, layer))
        places[Place(block, SpatialTransformer if isinstance(layer, SpatialTransformer) else ResBlock)] = address
    return places


def last_place(unet: UNetModel) -> Place:
    """The layer whose result the UNet's output norm takes."""
    last = len(unet.output_blocks) - 1
    layer = unet.output_blocks[last][-1]
    return Place(("output", last), SpatialTransformer if isinstance(layer, SpatialTransformer) else ResBlock)


def check_image_unet(model: ModelPatcher, name: str) -> UNetModel:
    """The model's UNet. Raises: IncompatibleModelError if the model has none that motion can be spliced into."""
    unet = unet_of(model)
    video = (VideoResBlock, SpatialVideoTransformer)
    if not isinstance(unet, UNetModel) or any(isinstance(layer, video) for layer in unet.modules()):
        raise IncompatibleModelError(
            f"{name} needs the UNet of an SD 1.5 or SDXL model, and this model is {model_name(model)}. "
            "Load an SD 1.5 or SDXL checkpoint."
        )
    return unet


def model_name(model: ModelPatcher) -> str:
    """ComfyUI's name for the family of a model, such as `SD15` or `Flux`."""
    return type(model.model.model_config).__name__


def base_name(model: ModelPatcher) -> str:
    """`SD 1.5` or `SDXL`, or ComfyUI's name for another family."""
    families = {SD15: "SD 1.5", SDXL: "SDXL"}
    config = model.model.model_config
    return next((name for family, name in families.items() if isinstance(config, family)), model_name(model))


def _layers(unet: UNetModel, block: Block) -> list[nn.Module]:
    if block[0] == "middle":
        return list(unet.middle_block or [])
    return list((unet.input_blocks if block[0] == "input" else unet.output_blocks)[block[1]])


def _layer_before_motion(layers: list[nn.Module]) -> nn.Module | None:
    """The spatial transformer if the block has one, else its first ResBlock."""
    for layer_class in (SpatialTransformer, ResBlock):
        found = next((layer for layer in layers if isinstance(layer, layer_class)), None)
        if found is not None:
            return found
    return None


def _width(layer: Any) -> int:
    return layer.in_channels if isinstance(layer, SpatialTransformer) else layer.out_channels


def _check_depth(model: ModelPatcher, unet: UNetModel, spec: MotionModuleSpec, name: str) -> None:
    per_level = spec.layers_per_block + 1
    expected = (per_level * len(spec.down_channels), per_level * len(spec.up_channels))
    if (len(unet.input_blocks), len(unet.output_blocks)) != expected:
        base = base_name(model)
        raise IncompatibleModelError(
            f"{name} is for {spec.base}, this model is {base}. "
            f"Choose a motion module for {base}, or an {spec.base} checkpoint."
        )


def _misfit(name: str, address: Address, channels: int, layer: nn.Module | None) -> str:
    found = "no layer there" if layer is None else str(_width(layer))
    block = address.prefix.split(".motion_modules")[0]
    return (
        f"{name} is {channels} wide at {block}, this model's UNet has {found}. "
        "The motion module was made for another base model; choose one that fits."
    )
