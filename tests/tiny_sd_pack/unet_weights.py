"""Random weights of a Stable Diffusion UNet and ControlNet, in the names of the published checkpoints.

Source of the names: CompVis/latent-diffusion openaimodel.py, lllyasviel/ControlNet cldm.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from .random_weights import RandomWeights

LATENT_CHANNELS = 4
RESBLOCKS_PER_LEVEL = 2
RANDOM_SHARE = 0.2
"""How much of the predicted noise is random; the rest repeats the input."""


@dataclass(frozen=True)
class UnetSize:
    """The numbers that ComfyUI's model detection reads back from the tensors."""

    width: int
    multipliers: tuple[int, ...]
    depths: tuple[int, ...]
    """Transformer layers per level; 0 = residual blocks alone."""
    context_width: int
    linear_projection: bool
    """Linear layers around each spatial transformer (SDXL), or 1×1 convolutions (SD 1.5)."""
    label_width: int = 0
    """Width of the pooled label of SDXL; 0 = none."""

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(self.width * multiplier for multiplier in self.multipliers)

    @property
    def last_output_block(self) -> str:
        return f"output_blocks.{(RESBLOCKS_PER_LEVEL + 1) * len(self.multipliers) - 1}"


SD15 = UnetSize(32, (1, 2, 4, 4), (1, 1, 1, 0), context_width=32, linear_projection=False)
SDXL = UnetSize(32, (1, 2, 4), (0, 1, 2), context_width=64, linear_projection=True, label_width=32 + 6 * 256)
"""Label: 32 pooled text features and six sizes of 256 features each, as comfy.model_base.SDXL.encode_adm joins them."""


def add_unet(weights: RandomWeights, prefix: str, size: UnetSize) -> None:
    """A UNet whose noise prediction is mostly its own input, so that sampling ends near latents of ordinary size."""
    _add_embeddings(weights, prefix, size)
    skips = _add_encoder(weights, prefix, size)
    _add_middle(weights, prefix, size)
    _add_decoder(weights, prefix, size, skips)
    weights.norm(f"{prefix}out.0", size.width)
    weights.conv(f"{prefix}out.2", size.width, LATENT_CHANNELS, gain=RANDOM_SHARE)
    _pass_input_through(weights, prefix, size)


def add_controlnet(weights: RandomWeights, prefix: str, size: UnetSize, hint_channels: int = 3) -> None:
    """A ControlNet whose residuals, unlike those of an untrained one, are not zero."""
    _add_embeddings(weights, prefix, size)
    for index, width in enumerate(_add_encoder(weights, prefix, size)):
        weights.conv(f"{prefix}zero_convs.{index}.0", width, width, kernel=1, gain=RANDOM_SHARE)
    _add_middle(weights, prefix, size)
    deepest = size.channels[-1]
    weights.conv(f"{prefix}middle_block_out.0", deepest, deepest, kernel=1, gain=RANDOM_SHARE)
    widths = (hint_channels, 16, 16, 32, 32, 96, 96, 256, size.width)
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        weights.conv(f"{prefix}input_hint_block.{2 * index}", inputs, outputs)


def _add_embeddings(weights: RandomWeights, prefix: str, size: UnetSize) -> None:
    time_width = 4 * size.width
    weights.linear(f"{prefix}time_embed.0", size.width, time_width)
    weights.linear(f"{prefix}time_embed.2", time_width, time_width)
    if size.label_width:
        weights.linear(f"{prefix}label_emb.0.0", size.label_width, time_width)
        weights.linear(f"{prefix}label_emb.0.2", time_width, time_width)


def _add_encoder(weights: RandomWeights, prefix: str, size: UnetSize) -> list[int]:
    """The width that each input block leaves for the decoder's skip connections."""
    weights.conv(f"{prefix}input_blocks.0.0", LATENT_CHANNELS, size.width)
    skips = [size.width]
    for level, (channels, depth) in enumerate(zip(size.channels, size.depths, strict=True)):
        if level:
            weights.conv(f"{prefix}input_blocks.{len(skips)}.0.op", skips[-1], skips[-1])
            skips.append(skips[-1])
        for _ in range(RESBLOCKS_PER_LEVEL):
            block = f"{prefix}input_blocks.{len(skips)}"
            _add_resblock(weights, f"{block}.0", skips[-1], channels, size)
            _add_transformer(weights, f"{block}.1", channels, depth, size)
            skips.append(channels)
    return skips


def _add_middle(weights: RandomWeights, prefix: str, size: UnetSize) -> None:
    channels = size.channels[-1]
    _add_resblock(weights, f"{prefix}middle_block.0", channels, channels, size)
    _add_transformer(weights, f"{prefix}middle_block.1", channels, max(size.depths), size)
    _add_resblock(weights, f"{prefix}middle_block.2", channels, channels, size)


def _add_decoder(weights: RandomWeights, prefix: str, size: UnetSize, skips: list[int]) -> None:
    inputs = size.channels[-1]
    for index, (level, is_last) in enumerate(_decoder_blocks(size)):
        block, channels, depth = f"{prefix}output_blocks.{index}", size.channels[level], size.depths[level]
        _add_resblock(weights, f"{block}.0", inputs + skips[-1 - index], channels, size)
        _add_transformer(weights, f"{block}.1", channels, depth, size)
        if is_last and level:
            weights.conv(f"{block}.{2 if depth else 1}.conv", channels, channels)
        inputs = channels


def _decoder_blocks(size: UnetSize) -> Iterator[tuple[int, bool]]:
    """Level of each output block, and whether it is the level's last one."""
    for level in reversed(range(len(size.channels))):
        for index in range(RESBLOCKS_PER_LEVEL + 1):
            yield level, index == RESBLOCKS_PER_LEVEL


def _add_resblock(weights: RandomWeights, name: str, inputs: int, outputs: int, size: UnetSize) -> None:
    weights.norm(f"{name}.in_layers.0", inputs)
    weights.conv(f"{name}.in_layers.2", inputs, outputs)
    weights.linear(f"{name}.emb_layers.1", 4 * size.width, outputs)
    weights.norm(f"{name}.out_layers.0", outputs)
    weights.conv(f"{name}.out_layers.3", outputs, outputs)
    if inputs != outputs:
        weights.conv(f"{name}.skip_connection", inputs, outputs, kernel=1)


def _add_transformer(weights: RandomWeights, name: str, channels: int, depth: int, size: UnetSize) -> None:
    if not depth:
        return
    weights.norm(f"{name}.norm", channels)
    for projection in ("proj_in", "proj_out"):
        if size.linear_projection:
            weights.linear(f"{name}.{projection}", channels, channels)
        else:
            weights.conv(f"{name}.{projection}", channels, channels, kernel=1)
    for layer in range(depth):
        _add_transformer_layer(weights, f"{name}.transformer_blocks.{layer}", channels, size.context_width)


def _add_transformer_layer(weights: RandomWeights, name: str, channels: int, context_width: int) -> None:
    for attention, context in (("attn1", channels), ("attn2", context_width)):
        weights.linear(f"{name}.{attention}.to_q", channels, channels, bias=False)
        weights.linear(f"{name}.{attention}.to_k", context, channels, bias=False)
        weights.linear(f"{name}.{attention}.to_v", context, channels, bias=False)
        weights.linear(f"{name}.{attention}.to_out.0", channels, channels)
    weights.linear(f"{name}.ff.net.0.proj", channels, 8 * channels)
    weights.linear(f"{name}.ff.net.2", 4 * channels, channels)
    for norm in ("norm1", "norm2", "norm3"):
        weights.norm(f"{name}.{norm}", channels)


def _pass_input_through(weights: RandomWeights, prefix: str, size: UnetSize) -> None:
    """Let the noise prediction contain the (normalised) input.

    Purely random predictions would leave latents as large as the first noise, which every decoder clips to a flat
    image. The first convolution copies each latent channel and its negative, the first skip connection carries them
    past everything, and silu(a) - silu(-a) = a joins them at the output.
    """
    copies = 2 * LATENT_CHANNELS
    first, last, out = f"{prefix}input_blocks.0.0", f"{prefix}{size.last_output_block}", f"{prefix}out"
    for name in (first, f"{last}.0.skip_connection", f"{last}.0.out_layers.3", f"{last}.1.proj_out", f"{out}.0"):
        _silence(weights, name, copies)
    weights.tensors[f"{out}.0.weight"][:copies] = 1.0
    weights.tensors[f"{out}.2.weight"][:, :copies] = 0.0
    for copy in range(copies):
        latent, sign = copy % LATENT_CHANNELS, 1.0 if copy < LATENT_CHANNELS else -1.0
        weights.tensors[f"{first}.weight"][copy, latent, 1, 1] = sign
        weights.tensors[f"{last}.0.skip_connection.weight"][copy, copy - size.width] = 1.0
        weights.tensors[f"{out}.2.weight"][latent, copy, 1, 1] = sign


def _silence(weights: RandomWeights, name: str, channels: int) -> None:
    for tensor in (f"{name}.weight", f"{name}.bias"):
        if tensor in weights.tensors:
            weights.tensors[tensor][:channels] = 0.0
