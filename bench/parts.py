"""Where the time of one temporal transformer goes, and why attention reads strided 4-D views."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..motion_modules.attention import attend_over_time
from ..motion_modules.transformer import TemporalTransformer
from .clock import Work, time_in_turn
from .settings import Settings

PROMPTS = 2
"""ComfyUI runs cond and uncond as one batch."""
LEVELS = (1, 2, 4)
"""Widths of the levels in units of the first, and how much smaller their sides are."""
NUM_HEADS = 8
NUM_POSITIONS = 32
LAYOUT_TOKENS = 1024
"""Tokens of a frame of 256×256 pixels."""


@dataclass(frozen=True)
class PartTimes:
    """Medians of the parts of one table."""

    title: str
    seconds: dict[str, float]


@torch.inference_mode()
def measure_parts(settings: Settings) -> list[PartTimes]:
    """A table for each width of the UNet, and one for the layouts that attention could read."""
    work = {f"one temporal transformer, {level * settings.width} wide": _parts(settings, level) for level in LEVELS}
    shape = f"{PROMPTS}×{settings.frames}×{LAYOUT_TOKENS}×{settings.width}"
    work[f"attention over time, {shape}"] = _layouts(settings)
    return [PartTimes(title, time_in_turn(parts, settings.repeats)) for title, parts in work.items()]


def _parts(settings: Settings, level: int) -> dict[str, Work]:
    channels, side = level * settings.width, settings.latent_size // level
    transformer = _on_device(TemporalTransformer(channels, NUM_POSITIONS, num_heads=NUM_HEADS))
    block: Any = transformer.transformer_blocks[0]
    attention = block.attention_blocks[0]
    x = _on_device(torch.randn(PROMPTS * settings.frames, channels, side, side))
    view = x.flatten(2).transpose(1, 2)
    tokens, qkv = view.contiguous(), torch.cat([view] * 3, dim=-1)
    return {
        "whole": lambda: transformer(x, settings.frames),
        "GroupNorm": lambda: transformer.norm(x),
        "copy to tokens, proj_in": lambda: transformer.proj_in(view.contiguous()),
        "(proj_in without the copy, not used)": lambda: transformer.proj_in(view),
        "LayerNorm, of 3": lambda: block.norms[0](tokens),
        "positions, of 2": lambda: attention.pos_encoder.add_to(tokens, settings.frames),
        "to_qkv, of 2": lambda: attention.to_qkv(tokens),
        "attention over time, of 2": lambda: attend_over_time(qkv, settings.frames, NUM_HEADS),
        "to_out, of 2": lambda: attention.to_out[0](tokens),
        "feed-forward": lambda: block.ff(tokens),
        "proj_out": lambda: transformer.proj_out(tokens),
        "residual from tokens": lambda: x + tokens.transpose(1, 2).unflatten(2, x.shape[2:]),
    }


def _layouts(settings: Settings) -> dict[str, Work]:
    qkv = _on_device(torch.randn(PROMPTS * settings.frames, LAYOUT_TOKENS, 3 * settings.width))
    return {
        "5-D views": lambda: attend_in_five_dimensions(qkv, settings.frames, NUM_HEADS),
        "copies with a pixel's frames side by side": lambda: attend_on_copies(qkv, settings.frames, NUM_HEADS),
        "4-D strided views, clip by clip": lambda: attend_over_time(qkv, settings.frames, NUM_HEADS),
    }


def attend_in_five_dimensions(qkv: Tensor, num_frames: int, num_heads: int) -> Tensor:
    """`attend_over_time` in one call: the clips are an axis of their own.

    Shapes: qkv `(b f) n (3 h d)` -> `(b f) n (h d)`
    """
    parts = qkv.unflatten(0, (-1, num_frames)).unflatten(-1, (3, num_heads, -1))
    q, k, v = parts.permute(3, 0, 2, 4, 1, 5)
    return F.scaled_dot_product_attention(q, k, v).permute(0, 3, 1, 2, 4).flatten(3).flatten(0, 1)


def attend_on_copies(qkv: Tensor, num_frames: int, num_heads: int) -> Tensor:
    """`attend_over_time` as it is usually written: tokens are regrouped by pixel before, and by frame after it.

    Shapes: qkv `(b f) n (3 h d)` -> `(b f) n (h d)`
    """
    tokens = qkv.shape[1]
    by_pixel = qkv.unflatten(0, (-1, num_frames)).transpose(1, 2).flatten(0, 1)
    q, k, v = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in by_pixel.chunk(3, dim=-1))
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return out.unflatten(0, (-1, tokens)).transpose(1, 2).flatten(0, 1)


def _on_device(thing: Any) -> Any:
    """A tensor or module where and in the type in which a UNet of this machine computes."""
    if isinstance(thing, nn.Module):
        thing.requires_grad_(False)
    return thing.to("cuda", torch.float16) if torch.cuda.is_available() else thing
