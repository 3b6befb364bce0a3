"""Random weights of motion modules, MotionLoRA and domain adapters, in the names of the published files.

Source of the names: guoyww/AnimateDiff, v2 and v3 checkpoints.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .random_weights import RandomWeights

OUTPUT_GAIN = 0.2
"""Training starts from zero output. This is small enough not to drown the image, and large enough to be seen."""
LORA_SHARE = 0.5
"""Size of a LoRA's change at strength 1, relative to the weight it changes."""
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out")


def add_motion_modules(weights: RandomWeights, channels: tuple[int, ...], positions: int, middle: bool) -> None:
    """One motion module after every layer of the UNet: two on the way down, three on the way up, per level."""
    for name, width in _motion_module_names(channels, middle):
        add_motion_layer(weights, f"{name}.temporal_transformer", width, positions)


def add_motion_lora(weights: RandomWeights, channels: tuple[int, ...], rank: int, middle: bool) -> None:
    """Low-rank changes of both temporal attentions of every motion module."""
    for name, width in _motion_module_names(channels, middle):
        for attention in (0, 1):
            prefix = f"{name}.temporal_transformer.transformer_blocks.0.attention_blocks.{attention}.processor"
            _add_low_rank(weights, prefix, width, width, rank)


def add_domain_adapter(weights: RandomWeights, channels: tuple[int, ...], context_width: int, rank: int) -> None:
    """Low-rank changes of both attentions of every spatial transformer of an SD 1.5 UNet."""
    for name, width in _spatial_transformer_names(channels):
        for attention, context in (("attn1", width), ("attn2", context_width)):
            _add_low_rank(weights, f"{name}.transformer_blocks.0.{attention}.processor", width, context, rank)


def add_motion_layer(weights: RandomWeights, name: str, width: int, positions: int, attentions: int = 2) -> None:
    """One temporal transformer."""
    block = f"{name}.transformer_blocks.0"
    weights.norm(f"{name}.norm", width)
    weights.linear(f"{name}.proj_in", width, width)
    for index in range(attentions):
        attention = f"{block}.attention_blocks.{index}"
        for projection in ("to_q", "to_k", "to_v"):
            weights.linear(f"{attention}.{projection}", width, width, bias=False)
        weights.linear(f"{attention}.to_out.0", width, width)
        weights.tensors[f"{attention}.pos_encoder.pe"] = position_table(positions, width)
        weights.norm(f"{block}.norms.{index}", width)
    weights.linear(f"{block}.ff.net.0.proj", width, 8 * width)
    weights.linear(f"{block}.ff.net.2", 4 * width, width)
    weights.norm(f"{block}.ff_norm", width)
    weights.linear(f"{name}.proj_out", width, width, gain=OUTPUT_GAIN)


def position_table(positions: int, width: int) -> Tensor:
    """The sinusoidal table of a temporal attention.

    Shapes: `1 positions width`.
    Source: Attention Is All You Need, arXiv:1706.03762, section 3.5; sines on even columns, cosines on odd ones.
    """
    place = torch.arange(positions).unsqueeze(1)
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    table = torch.zeros(1, positions, width)
    table[0, :, 0::2] = torch.sin(place * frequency)
    table[0, :, 1::2] = torch.cos(place * frequency)
    return table


def _motion_module_names(channels: tuple[int, ...], middle: bool) -> Iterator[tuple[str, int]]:
    for kind, widths, count in (("down_blocks", channels, 2), ("up_blocks", channels[::-1], 3)):
        for level, width in enumerate(widths):
            for index in range(count):
                yield f"{kind}.{level}.motion_modules.{index}", width
    if middle:
        yield "mid_block.motion_modules.0", channels[-1]


def _spatial_transformer_names(channels: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    last = len(channels) - 1
    for level, width in enumerate(channels[:last]):
        for index in (0, 1):
            yield f"down_blocks.{level}.attentions.{index}", width
    yield "mid_block.attentions.0", channels[last]
    for level in range(1, len(channels)):
        for index in (0, 1, 2):
            yield f"up_blocks.{level}.attentions.{index}", channels[last - level]


def _add_low_rank(weights: RandomWeights, prefix: str, width: int, context: int, rank: int) -> None:
    for projection in PROJECTIONS:
        inputs = context if projection in ("to_k", "to_v") else width
        weights.normal(f"{prefix}.{projection}_lora.down.weight", (rank, inputs), inputs**-0.5)
        weights.normal(f"{prefix}.{projection}_lora.up.weight", (width, rank), LORA_SHARE * rank**-0.5)
