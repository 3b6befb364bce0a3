"""A whole motion module: one temporal transformer for each address, under its published name."""

from typing import Any

import torch
from torch import Tensor, nn

from ..core.protocols import Operations
from .adjustments import PLAIN, Adjustments
from .keys import LATENT_CHANNELS
from .spec import Address, MotionModuleSpec
from .transformer import TemporalTransformer


class MotionLayer(nn.Module):
    """The published wrapper around one transformer; it exists for its name in the files."""

    def __init__(self, transformer: TemporalTransformer):
        super().__init__()
        self.temporal_transformer = transformer


class MotionBlock(nn.Module):
    """The motion layers of one UNet block."""

    def __init__(self, layers: list[MotionLayer]):
        super().__init__()
        self.motion_modules = nn.ModuleList(layers)


class ImageInput(nn.Module):
    """The part of an input convolution that sees an image. The latent's part and the bias are the animated base's own.

    Those of the file are kept to be saved again, and never run.
    Source: open-mmlab/PIA i2v_pipeline.py, where a personalised base keeps its own input beside these channels.
    """

    base_weight: Tensor
    base_bias: Tensor

    def __init__(self, image_channels: int, channels: int, operations: Operations):
        super().__init__()
        self.image = operations.Conv2d(image_channels, channels, 3, padding=1, bias=False)
        self.register_buffer("base_weight", torch.zeros(channels, LATENT_CHANNELS, 3, 3))
        self.register_buffer("base_bias", torch.zeros(channels))

    def forward(self, image: Tensor) -> Tensor:
        """What is added behind the base's own input convolution. Shapes: `f c h w` -> `f c' h w`"""
        return self.image(image)


class MotionModule(nn.Module):
    """Weights of AnimateDiff by address. Holds no state of a call: frames and strengths come as arguments."""

    def __init__(self, spec: MotionModuleSpec, operations: Operations = nn):
        super().__init__()
        self.spec = spec
        if spec.image_channels:
            self.image_input = ImageInput(spec.image_channels, spec.down_channels[0], operations)

        def block(channels: int, num_layers: int) -> MotionBlock:
            return MotionBlock([MotionLayer(_transformer(spec, channels, operations)) for _ in range(num_layers)])

        self.down_blocks = nn.ModuleList(block(channels, spec.layers_per_block) for channels in spec.down_channels)
        if spec.middle_channels is not None:
            self.mid_block = block(spec.middle_channels, 1)
        self.up_blocks = nn.ModuleList(block(channels, spec.layers_per_block + 1) for channels in spec.up_channels)

    def at(self, address: Address) -> TemporalTransformer:
        """The transformer that belongs at an address."""
        block: Any = self.mid_block if address.part == "mid_block" else getattr(self, address.part)[address.level]
        return block.motion_modules[address.layer].temporal_transformer

    def forward(self, x: Tensor, address: Address, num_frames: int, adjust: Adjustments = PLAIN) -> Tensor:
        """Features of the UNet after the given address, with motion.

        Shapes: x `(b f) c h w` -> `(b f) c h w`, with f = num_frames
        """
        return self.at(address)(x, num_frames, adjust)

    def zero_outputs(self) -> None:
        """Make every transformer an exact identity, from which training starts."""
        for address, _ in self.spec.sites():
            self.at(address).zero_output()


def _transformer(spec: MotionModuleSpec, channels: int, operations: Operations) -> TemporalTransformer:
    return TemporalTransformer(
        channels,
        spec.num_positions,
        spec.num_attention_blocks,
        spec.num_heads,
        spec.motion_norm_over_frames,
        operations,
    )
