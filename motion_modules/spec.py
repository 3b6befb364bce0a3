"""What a motion module is, apart from its weights: where it goes, how wide, and over what it normalises."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Part = Literal["down_blocks", "mid_block", "up_blocks"]

NUM_HEADS = 8
"""Attention heads of every published motion module; the number does not stand in the files.

Source: guoyww/AnimateDiff configs/inference/inference-v1.yaml to -v3.yaml, `num_attention_heads`.
"""


@dataclass(frozen=True)
class Address:
    """One place in a UNet that a temporal transformer follows: part, level and layer, in the published order."""

    part: Part
    level: int
    layer: int

    @property
    def prefix(self) -> str:
        """The start of the tensor names at this address."""
        block = self.part if self.part == "mid_block" else f"{self.part}.{self.level}"
        return f"{block}.motion_modules.{self.layer}.temporal_transformer"


@dataclass(frozen=True)
class MotionModuleSpec:
    """The shape of a motion module and the norms it was trained under."""

    generation: str
    """The published family whose norms and schedule this module follows, a name in `generations.py`."""
    down_channels: tuple[int, ...]
    """Width at each level of the UNet's down path, four levels for SD 1.5, three for SDXL."""
    up_channels: tuple[int, ...]
    """Width at each level of the up path."""
    middle_channels: int | None
    """Width of the transformer in the middle block, None where there is none."""
    num_positions: int
    """Length of the position table: the most frames one call can take."""
    layers_per_block: int = 2
    """Layers at each level of the down path; the up path has one more."""
    num_attention_blocks: int = 2
    """Temporal self-attentions in each transformer."""
    num_heads: int = NUM_HEADS
    trained_frames: int = 16
    """Frames of the clips it was trained on; fewer give poor motion."""
    beta_schedule: str = "animatediff"
    """The noise schedule it was trained on, a name in `sampling/beta_schedules.py`."""
    base_norms_over_frames: bool = False
    """The UNet's ResBlock and output norms take their statistics over all frames of a clip (v1)."""
    motion_norm_over_frames: bool = False
    """The motion module's own GroupNorm takes its statistics over all frames of a clip (SDXL beta)."""
    image_channels: int = 0
    """Channels of the image that the UNet's input sees beside the latent: mask and image latent (PIA), 0 for none."""

    @property
    def base(self) -> str:
        """The family of base models that this module was made for, told by its number of levels."""
        return "SD 1.5" if len(self.down_channels) == 4 else "SDXL"

    def sites(self) -> Iterator[tuple[Address, int]]:
        """Every address with its width, in the order in which the UNet runs them."""
        for level, channels in enumerate(self.down_channels):
            yield from ((Address("down_blocks", level, layer), channels) for layer in range(self.layers_per_block))
        if self.middle_channels is not None:
            yield Address("mid_block", 0, 0), self.middle_channels
        for level, channels in enumerate(self.up_channels):
            yield from ((Address("up_blocks", level, layer), channels) for layer in range(self.layers_per_block + 1))
