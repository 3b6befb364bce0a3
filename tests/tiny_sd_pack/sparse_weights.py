"""Random weights of a SparseCtrl encoder, in the names of the published files.

Source of the names: guoyww/AnimateDiff sparse_controlnet.py and unet_blocks.py.
"""

from itertools import pairwise

from .motion_weights import add_motion_layer
from .random_weights import RandomWeights
from .unet_weights import LATENT_CHANNELS, RANDOM_SHARE, RESBLOCKS_PER_LEVEL, UnetSize

CONDITION = "controlnet_cond_embedding"
CONDITION_WIDTHS = (16, 16, 32, 32, 96, 96, 256)
CONDITION_GAIN = 2.0
"""What passes seven convolutions with activations between them fades; a test must see it."""


def add_sparse_control(weights: RandomWeights, size: UnetSize, rgb: bool, positions: int) -> None:
    """An encoder whose residuals, unlike those of an untrained one, are not zero."""
    time_width = 4 * size.width
    weights.conv("conv_in", LATENT_CHANNELS, size.width)
    weights.linear("time_embedding.linear_1", size.width, time_width)
    weights.linear("time_embedding.linear_2", time_width, time_width)
    _add_condition(weights, size, rgb)
    for index, width in enumerate(_add_down_path(weights, size, positions)):
        weights.conv(f"controlnet_down_blocks.{index}", width, width, kernel=1, gain=RANDOM_SHARE)
    deepest = size.channels[-1]
    weights.conv("controlnet_mid_block", deepest, deepest, kernel=1, gain=RANDOM_SHARE)
    for index in (0, 1):
        _add_resnet(weights, f"mid_block.resnets.{index}", deepest, deepest, time_width)
    _add_attention(weights, "mid_block.attentions.0", deepest, size.context_width)


def _add_condition(weights: RandomWeights, size: UnetSize, rgb: bool) -> None:
    """What sees the image: one convolution over its latent and a mask, or eight over its pixels and a mask."""
    if rgb:
        weights.conv(CONDITION, LATENT_CHANNELS + 1, size.width)
        return
    weights.conv(f"{CONDITION}.conv_in", 3 + 1, CONDITION_WIDTHS[0], gain=CONDITION_GAIN)
    for index, (inputs, outputs) in enumerate(pairwise(CONDITION_WIDTHS)):
        weights.conv(f"{CONDITION}.blocks.{index}", inputs, outputs, gain=CONDITION_GAIN)
    weights.conv(f"{CONDITION}.conv_out", CONDITION_WIDTHS[-1], size.width, gain=CONDITION_GAIN)


def _add_down_path(weights: RandomWeights, size: UnetSize, positions: int) -> list[int]:
    """The width of the features behind each block."""
    skips = [size.width]
    for level, (width, depth) in enumerate(zip(size.channels, size.depths, strict=True)):
        block = f"down_blocks.{level}"
        for index in range(RESBLOCKS_PER_LEVEL):
            _add_resnet(weights, f"{block}.resnets.{index}", skips[-1], width, 4 * size.width)
            if depth:
                _add_attention(weights, f"{block}.attentions.{index}", width, size.context_width)
            add_motion_layer(weights, f"{block}.motion_modules.{index}.temporal_transformer", width, positions, 1)
            skips.append(width)
        if level < len(size.channels) - 1:
            weights.conv(f"{block}.downsamplers.0.conv", width, width)
            skips.append(width)
    return skips


def _add_resnet(weights: RandomWeights, name: str, inputs: int, outputs: int, time_width: int) -> None:
    weights.norm(f"{name}.norm1", inputs)
    weights.conv(f"{name}.conv1", inputs, outputs)
    weights.linear(f"{name}.time_emb_proj", time_width, outputs)
    weights.norm(f"{name}.norm2", outputs)
    weights.conv(f"{name}.conv2", outputs, outputs)
    if inputs != outputs:
        weights.conv(f"{name}.conv_shortcut", inputs, outputs, kernel=1)


def _add_attention(weights: RandomWeights, name: str, width: int, context: int) -> None:
    block = f"{name}.transformer_blocks.0"
    weights.norm(f"{name}.norm", width)
    weights.conv(f"{name}.proj_in", width, width, kernel=1)
    for attention, inputs in (("attn1", width), ("attn2", context)):
        weights.linear(f"{block}.{attention}.to_q", width, width, bias=False)
        weights.linear(f"{block}.{attention}.to_k", inputs, width, bias=False)
        weights.linear(f"{block}.{attention}.to_v", inputs, width, bias=False)
        weights.linear(f"{block}.{attention}.to_out.0", width, width)
    for index in (1, 2, 3):
        weights.norm(f"{block}.norm{index}", width)
    weights.linear(f"{block}.ff.net.0.proj", width, 8 * width)
    weights.linear(f"{block}.ff.net.2", 4 * width, width)
    weights.conv(f"{name}.proj_out", width, width, kernel=1)
