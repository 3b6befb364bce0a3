"""What kind of UNet some weights make up, told from their names and shapes alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.errors import CheckpointError, some

SD15 = "SD 1.5"
SDXL = "SDXL"
SDXL_HEAD_WIDTH = 64
"""Source: stabilityai/generative-models sd_xl_base.yaml, `num_head_channels`."""
SIZE_FEATURES = 256
"""Features of each of the six sizes that SDXL is told. Source: sd_xl_base.yaml, `outdim`."""
SD15_WIDTH, SD15_HEADS = 320, 8
"""Source: CompVis/stable-diffusion v1-inference.yaml, `model_channels` and `num_heads`."""
TOY_HEADS = 2
"""Heads of a narrower UNet whose file does not say `num_heads` in its metadata, as those of tests/tiny_sd_pack."""
LATENT_CHANNELS = 4
_BLOCK = re.compile(r"^(down|up)_blocks\.(\d+)\.")


@dataclass(frozen=True)
class UnetTopology:
    """The sizes of a UNet of SD 1.5's or SDXL's design."""

    family: str
    channels: tuple[int, ...]
    depths: tuple[int, ...]
    """Spatial transformer blocks in each transformer of a level, 0 where a level has none."""
    context_width: int
    label_width: int | None
    """Of SDXL's pooled text and sizes together."""
    num_heads: tuple[int, ...]

    def config(self) -> dict[str, Any]:
        """The arguments of diffusers' UNet2DConditionModel."""
        down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in self.depths]
        up = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in self.depths[::-1]]
        config: dict[str, Any] = {
            "block_out_channels": self.channels,
            "down_block_types": tuple(down),
            "up_block_types": tuple(up),
            "layers_per_block": 2,
            "cross_attention_dim": self.context_width,
            "attention_head_dim": self.num_heads,  # diffusers' name for the number of heads
            "transformer_layers_per_block": tuple(max(1, depth) for depth in (*self.depths[:-1], self.middle_depth)),
        }
        if self.label_width is None:
            return config
        return config | {
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": SIZE_FEATURES,
            "projection_class_embeddings_input_dim": self.label_width,
        }

    @property
    def middle_depth(self) -> int:
        """Of the middle block's transformer: the deepest level's."""
        return max(self.depths)


def topology_of(tensors: Mapping[str, Tensor], num_heads: int | None, name: str) -> UnetTopology:
    """The sizes of a UNet whose weights have diffusers' names.

    Raises: CheckpointError if it is of another design than SD 1.5's or SDXL's.
    """
    levels = {int(match[2]) for key in tensors if (match := _BLOCK.match(key)) and match[1] == "down"}
    first = tensors.get("conv_in.weight")
    if first is None or not levels or not {"mid_block.attentions.0.proj_in.weight"} <= tensors.keys():
        raise CheckpointError(not_a_base(name, "a UNet of another design"))
    channels = tuple(_rows(tensors, f"down_blocks.{level}.resnets.0.conv1.weight") for level in sorted(levels))
    depths = tuple(_depth(tensors, f"down_blocks.{level}.attentions.0.transformer_blocks.") for level in sorted(levels))
    label = tensors.get("add_embedding.linear_1.weight")
    is_linear = tensors["mid_block.attentions.0.proj_in.weight"].ndim == 2
    family = family_of(len(levels), label is not None, is_linear, first.shape[1], name)
    context = tensors.get("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight")
    if context is None:
        raise CheckpointError(not_a_base(name, "a UNet whose middle block sees no text"))
    return UnetTopology(
        family,
        channels,
        depths,
        context.shape[1],
        None if label is None else label.shape[1],
        _heads(channels, family, num_heads),
    )


def family_of(levels: int, has_label: bool, is_linear: bool, latent_channels: int, name: str) -> str:
    """`SD 1.5` or `SDXL`. Raises: CheckpointError for any other design, in the words of what it is."""
    if latent_channels != LATENT_CHANNELS:
        raise CheckpointError(not_a_base(name, f"a UNet that takes {latent_channels} channels, as inpainting ones do"))
    if levels == 4 and not has_label and not is_linear:
        return SD15
    if levels == 3 and has_label and is_linear:
        return SDXL
    if levels == 4 and has_label:
        raise CheckpointError(not_a_base(name, "a UNet like SDXL's refiner"))
    if levels == 4:
        raise CheckpointError(not_a_base(name, "a UNet like Stable Diffusion 2's"))
    raise CheckpointError(not_a_base(name, f"a UNet of {levels} levels"))


def not_a_base(name: str, found: str) -> str:
    """The message about a file that no motion module is made for."""
    return f"{name}: expected a base model of SD 1.5 or SDXL, found {found}. Choose a checkpoint of one of these."


def check_whole(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str) -> None:
    """Raises: CheckpointError unless the tensors are exactly those of a model, in names and shapes."""
    missing = sorted(expected.keys() - tensors.keys())
    left_over = sorted(tensors.keys() - expected.keys())
    misfits = [key for key in expected if key in tensors and tensors[key].shape != expected[key].shape]
    found = [f"{len(missing)} missing ({some(missing[:2])})"] if missing else []
    found += [f"{len(left_over)} more than there should be ({some(left_over[:2])})"] if left_over else []
    found += [f"{len(misfits)} of another shape ({some(misfits[:2])})"] if misfits else []
    if found:
        raise CheckpointError(not_a_base(name, f"a model of another size or a part of one: {', '.join(found)}"))


def _rows(tensors: Mapping[str, Tensor], key: str) -> int:
    return tensors[key].shape[0] if key in tensors else 0


def _depth(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return len({key[len(prefix) :].partition(".")[0] for key in tensors if key.startswith(prefix)})


def _heads(channels: tuple[int, ...], family: str, said: int | None) -> tuple[int, ...]:
    if family == SDXL:
        return tuple(max(1, width // SDXL_HEAD_WIDTH) for width in channels)
    usual = SD15_HEADS if channels[0] == SD15_WIDTH else TOY_HEADS
    return (said or usual,) * len(channels)
