"""Self-attention over time, at every pixel for itself, straight from the spatial token layout."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.protocols import Operations
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
    if torch.is_grad_enabled():
        # Written into one result, every clip would cost the backward pass a copy of the gradient of all of them.
        return torch.cat([_joined(_attend(clip, num_heads)) for clip in torch.split(qkv, num_frames)])
    frames, tokens, width = qkv.shape
    out = qkv.new_empty(frames, tokens, width // 3)
    for clip, place in zip(torch.split(qkv, num_frames), torch.split(out, num_frames), strict=True):
        first = 0
        for part in _attend(clip, num_heads):
            part_of_place = place[:, first : first + part.shape[1]]
            part_of_place.view(part.shape).copy_(part)
            first += part.shape[1]
    return out


def _attend(clip: Tensor, num_heads: int) -> Iterator[Tensor]:
    """The attention of one clip, so many sequences at a time. Shapes: `f n (3 h d)` -> `f n' h d` each"""
    frames, tokens, width = clip.shape
    q, k, v = clip.view(frames, tokens, 3, num_heads, width // (3 * num_heads)).permute(2, 1, 3, 0, 4)
    for first in range(0, tokens, MAX_SEQUENCES):
        part = slice(first, first + MAX_SEQUENCES)
        yield F.scaled_dot_product_attention(q[part], k[part], v[part]).permute(2, 0, 1, 3)


def _joined(parts: Iterator[Tensor]) -> Tensor:
    """Shapes: `f n' h d` each -> `f n (h d)`."""
    joined = [part.flatten(2) for part in parts]
    return joined[0] if len(joined) == 1 else torch.cat(joined, dim=1)


class PositionTable(nn.Module):
    """The positions of one attention block; files may carry an edited table, so each block keeps its own."""

    pe: Tensor

    def __init__(self, num_positions: int, channels: int):
        super().__init__()
        self.register_buffer("pe", sinusoidal_positions(num_positions, channels))

    def add_to(self, tokens: Tensor, num_frames: int) -> Tensor:
        """The tokens, changed in place, with each frame's position added.

        Shapes: tokens `(b f) n c` -> the same
        """
        rows = rows_for(self.pe, num_frames).to(tokens)
        tokens.view(-1, num_frames, *tokens.shape[1:]).add_(rows.unsqueeze(1))
        return tokens


class TemporalSelfAttention(nn.Module):
    """One attention over the frames of a clip, with its positions. Names as in the published files, q k v fused."""

    def __init__(self, channels: int, num_positions: int, num_heads: int, operations: Operations = nn):
        super().__init__()
        self.num_heads = num_heads
        self.pos_encoder = PositionTable(num_positions, channels)
        self.to_qkv = operations.Linear(channels, 3 * channels, bias=False)
        self.to_out = nn.ModuleList([operations.Linear(channels, channels)])

    def forward(self, tokens: Tensor, num_frames: int) -> Tensor:
        """Attend over time. Changes `tokens` in place: the caller hands over a fresh norm's output.

        Shapes: tokens `(b f) n c` -> `(b f) n c`
        """
        qkv = self.to_qkv(self.pos_encoder.add_to(tokens, num_frames))
        return self.to_out[0](attend_over_time(qkv, num_frames, self.num_heads))
