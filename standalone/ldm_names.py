"""The names of a UNet's weights: those of single-file checkpoints, and diffusers' own.

Source: CompVis/latent-diffusion openaimodel.py `UNetModel`; huggingface/diffusers `UNet2DConditionModel`.
"""

import re

_LAYERS_PER_BLOCK = 2
"""Of SD 1.5 and SDXL on the way down; the way up has one more."""
_PER_LEVEL = _LAYERS_PER_BLOCK + 1

_OUTER = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_RESBLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_MIDDLE = {"0": "mid_block.resnets.0", "1": "mid_block.attentions.0", "2": "mid_block.resnets.1"}
_BLOCK = re.compile(r"^(input_blocks|output_blocks)\.(\d+)\.(\d+)\.(.+)$")
_MIDDLE_BLOCK = re.compile(r"^middle_block\.([012])\.(.+)$")


def diffusers_unet_name(name: str) -> str | None:
    """Diffusers' name of a weight of a single-file UNet, None for a name that no UNet of SD 1.5 or SDXL has."""
    layer, _, kind = name.rpartition(".")
    if layer in _OUTER:
        return f"{_OUTER[layer]}.{kind}"
    if middle := _MIDDLE_BLOCK.match(name):
        return _inside(_MIDDLE[middle[1]], middle[2])
    if block := _BLOCK.match(name):
        place = _down if block[1] == "input_blocks" else _up
        return place(int(block[2]), int(block[3]), block[4])
    return None


def _down(block: int, part: int, rest: str) -> str | None:
    """Each level is its layers and a downsampler, after one input convolution."""
    level, layer = divmod(block - 1, _PER_LEVEL)
    if layer == _LAYERS_PER_BLOCK:
        return f"down_blocks.{level}.downsamplers.0.conv.{rest[3:]}" if rest.startswith("op.") else None
    return _layer(f"down_blocks.{level}", layer, part, rest)


def _up(block: int, part: int, rest: str) -> str | None:
    """Each level is its layers; an upsampler shares the last layer's block."""
    level, layer = divmod(block, _PER_LEVEL)
    if part and rest.startswith("conv."):
        return f"up_blocks.{level}.upsamplers.0.{rest}"
    return _layer(f"up_blocks.{level}", layer, part, rest)


def _layer(block: str, layer: int, part: int, rest: str) -> str | None:
    kind = {0: "resnets", 1: "attentions"}.get(part)
    return None if kind is None else _inside(f"{block}.{kind}.{layer}", rest)


def _inside(stem: str, rest: str) -> str | None:
    """A ResBlock's layers have other names; those of a spatial transformer are the same in both."""
    if ".attentions." in stem:
        return f"{stem}.{rest}"
    layer, _, kind = rest.rpartition(".")
    return f"{stem}.{_RESBLOCK[layer]}.{kind}" if layer in _RESBLOCK else None
