"""Self-attention over time, at every pixel for itself, straight from the spatial token layout."""

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
    frames, tokens, width = qkv.shape
    out = qkv.new_empty(frames, tokens, width // 3)
    heads = (num_heads, width // (3 * num_heads))
    for start in range(0, frames, num_frames):
        clip = slice(start, start + num_frames)
        q, k, v = qkv[clip].view(num_frames, tokens, 3, *heads).permute(2, 1, 3, 0, 4)
        gathered = out[clip].view(num_frames, tokens, *heads).permute(1, 2, 0, 3)
        for first in range(0, tokens, MAX_SEQUENCES):
            part = slice(first, first + MAX_SEQUENCES)
            gathered[part] = F.scaled_dot_product_attention(q[part], k[part], v[part])
    return out


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
