"""Self-attention over time, at every pixel for itself, straight from the spatial token layout."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..core.protocols import Operations
from .adjustments import PLAIN, Adjustments
from .positions import rows_for, sinusoidal_positions

MAX_SEQUENCES = 2**15
"""Sequences in one attention call; CUDA kernels put them in a grid axis that ends at 65,535.

Source: comfy/ldm/modules/attention.py `attention_pytorch` splits at the same number for the same reason.
"""


def attend_over_time(qkv: Tensor, num_frames: int, num_heads: int) -> Tensor:
    """What each frame's pixel gathers from the same pixel in the other frames of its clip.

    Nothing is rearranged: each clip's q, k and v are strided views of the one projection, and the result lands in the
    token layout. 4-D views stay on the fused kernels, 5-D views do not (docs/performance.md).

    Shapes: qkv `(b f) n (3 h d)` -> `(b f) n (h d)`, with f = num_frames, h = num_heads
    Source: arXiv 2307.04725 equations 4 and 5.
    """
    frames, tokens, width = qkv.shape
    if torch.is_grad_enabled():
        views = cast(Any, _Views).apply(qkv, num_frames, num_heads)
        parts = [part.permute(2, 0, 1, 3).flatten(2) for part in _attend(views)]
        return _joined(parts, -(-tokens // MAX_SEQUENCES))
    out = qkv.new_empty(frames, tokens, width // 3)
    places = _views(out, num_frames, 1, num_heads)
    for place, part in zip(places, _attend(_views(qkv, num_frames, 3, num_heads)), strict=True):
        place.copy_(part)
    return out


def _attend(views: Sequence[Tensor]) -> Iterator[Tensor]:
    """The attention of each part. Shapes: q, k and v in turn, `n' h f d` -> `n' h f d` each"""
    for first in range(0, len(views), 3):
        q, k, v = views[first : first + 3]
        yield F.scaled_dot_product_attention(q, k, v)


def _views(tokens: Tensor, num_frames: int, num_matrices: int, num_heads: int) -> tuple[Tensor, ...]:
    """What each attention call reads or gives: clip by clip, in each so many sequences at a time, q before k and v.

    Shapes: `(b f) n (m h d)` -> `n' h f d` each, with m = 3 for q, k and v, 1 for what is gathered
    """
    channels = tokens.shape[2] // (num_matrices * num_heads)
    clips = tokens.view(-1, num_frames, tokens.shape[1], num_matrices, num_heads, channels).permute(0, 3, 2, 4, 1, 5)
    return tuple(view for clip in clips for part in torch.split(clip, MAX_SEQUENCES, dim=1) for view in part)


class _Views(torch.autograd.Function):
    """`_views` with a backward pass that writes every gradient where it belongs, once.

    PyTorch's own would gather q, k and v of a clip, then the clips, then order them for the projection: three copies of
    the largest gradient of a transformer's attention.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, num_frames: int, num_heads: int) -> tuple[Tensor, ...]:
        ctx.shape, ctx.sizes = qkv.shape, (num_frames, 3, num_heads)
        return _views(qkv, *ctx.sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        whole = gradients[0].new_empty(ctx.shape)
        for place, gradient in zip(_views(whole, *ctx.sizes), gradients, strict=True):
            place.copy_(gradient)
        return whole, None, None


def _joined(parts: list[Tensor], parts_of_clip: int) -> Tensor:
    """Shapes: `f n' c` each -> `(b f) n c`."""
    if parts_of_clip == 1:
        return torch.cat(parts)
    firsts = range(0, len(parts), parts_of_clip)
    return torch.cat([torch.cat(parts[first : first + parts_of_clip], dim=1) for first in firsts])


class PositionTable(nn.Module):
    """The positions of one attention block; files may carry an edited table, so each block keeps its own."""

    pe: Tensor

    def __init__(self, num_positions: int, channels: int):
        super().__init__()
        table = torch.empty(1, num_positions, channels)
        # On the meta device there is nothing to compute, and torch takes longer to find that out than for all the rest.
        self.register_buffer("pe", table if table.is_meta else sinusoidal_positions(num_positions, channels))

    def add_to(self, tokens: Tensor, num_frames: int) -> Tensor:
        """The tokens, changed in place, with each frame's position added.

        Shapes: tokens `(b f) n c` -> the same
        """
        rows = rows_for(self.pe, num_frames).to(tokens)
        # Added through a view of the tokens, it would cost the backward pass three copies of their gradient.
        return tokens.add_(rows.repeat(len(tokens) // num_frames, 1).unsqueeze(1))


class TemporalSelfAttention(nn.Module):
    """One attention over the frames of a clip, with its positions. Names as in the published files, q k v fused."""

    def __init__(self, channels: int, num_positions: int, num_heads: int, operations: Operations = nn):
        super().__init__()
        self.num_heads = num_heads
        self.pos_encoder = PositionTable(num_positions, channels)
        self.to_qkv = operations.Linear(channels, 3 * channels, bias=False)
        self.to_out = nn.ModuleList([operations.Linear(channels, channels)])

    def forward(self, tokens: Tensor, num_frames: int, adjust: Adjustments = PLAIN) -> Tensor:
        """Attend over time. Changes `tokens` in place: the caller hands over a fresh norm's output.

        Shapes: tokens `(b f) n c` -> `(b f) n c`
        """
        if adjust.views:
            return adjust.run(self.to_out[0], self._seen_in_views(tokens, num_frames, adjust))
        qkv = adjust.run(self.to_qkv, self.pos_encoder.add_to(tokens, num_frames))
        _scale_queries(qkv, _by_token(adjust.attention_scale))
        return adjust.run(self.to_out[0], attend_over_time(qkv, num_frames, self.num_heads))

    def _seen_in_views(self, tokens: Tensor, num_frames: int, adjust: Adjustments) -> Tensor:
        """What frames gather in windows of their clip, each with positions of its own.

        The projection is linear: it takes every token once, and the positions once for all windows.

        Shapes: tokens `(b f) n c` -> `(b f) n c`
        Source: arXiv 2310.15169 section 3.3.2, window-based attention fusion.
        """
        clips = _by_clip(adjust.run(self.to_qkv, tokens), num_frames)
        rows = rows_for(self.pos_encoder.pe, len(adjust.views[0].frames)).to(tokens).unsqueeze(1)
        positions, scale = adjust.run(self.to_qkv, rows), _by_token(adjust.attention_scale)
        gathered = _by_clip(torch.zeros_like(tokens, dtype=clips.dtype), num_frames)
        for view in adjust.views:
            part = clips[:, view.frames].add_(positions).flatten(0, 1)
            _scale_queries(part, _of_frames(scale, num_frames, view.frames))
            seen = _by_clip(attend_over_time(part, len(view.frames), self.num_heads), len(view.frames))
            gathered.index_add_(1, view.frames, seen * view.shares.to(seen)[:, None, None])
        return gathered.flatten(0, 1)


def _by_clip(tokens: Tensor, num_frames: int) -> Tensor:
    """Shapes: `(b f) n c` -> `b f n c`."""
    return tokens.view(-1, num_frames, *tokens.shape[1:])


def _by_token(scale: Tensor | float) -> Tensor | float:
    """Shapes: `(b f) 1 h w` -> `(b f) (h w) 1`."""
    return scale.flatten(1).unsqueeze(2) if isinstance(scale, Tensor) else scale


def _of_frames(scale: Tensor | float, num_frames: int, frames: Tensor) -> Tensor | float:
    """Shapes: `(b f) n 1` -> `(b w) n 1`."""
    if not isinstance(scale, Tensor):
        return scale
    return _by_clip(scale, num_frames)[:, frames].flatten(0, 1)


def _scale_queries(qkv: Tensor, scale: Tensor | float) -> None:
    """Scale q alone, in place; a kernel's own scale may not be 0. Shapes: qkv `(b f) n 3c`, scale `(b f) n 1`"""
    if isinstance(scale, Tensor) or scale != 1:
        qkv[..., : qkv.shape[2] // 3] *= scale.to(qkv) if isinstance(scale, Tensor) else scale
