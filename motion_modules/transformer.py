"""The temporal transformer: norm, project in, attend over time, feed forward, project out, add."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.protocols import LinearRunner, Operations, run_plainly
from .adjustments import PLAIN, Adjustments
from .attention import TemporalSelfAttention
from .frames import norm_over_frames

NUM_GROUPS = 32
GROUP_NORM_EPS = 1e-6
"""Source: guoyww/AnimateDiff motion_module.py, `TemporalTransformer3DModel.norm`."""
MAX_TOKENS = 2**15
"""Tokens in a feed-forward layer at once: enough to keep a GPU busy, few enough for 0.3 GiB at width 320 in float16.

Measured in docs/performance.md. Offloaded weights come once for each part; the layers of large frames have few.
"""


class GatedProjection(nn.Module):
    """Half of the projection, gated by the GELU of the other half (GEGLU).

    Source: arXiv 2002.05202 section 2.
    """

    def __init__(self, channels: int, inner: int, operations: Operations):
        super().__init__()
        self.proj = operations.Linear(channels, 2 * inner)

    def forward(self, tokens: Tensor, run: LinearRunner = run_plainly) -> Tensor:
        """Shapes: `n t c` -> `n t inner`."""
        value, gate = run(self.proj, tokens).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Two layers, four times as wide between them. `net.1` is the published dropout of 0, without weights.

    It takes a part of the tokens at a time: what lies between its layers would else be the peak of an SDXL step.
    """

    def __init__(self, channels: int, operations: Operations):
        super().__init__()
        expand = GatedProjection(channels, 4 * channels, operations)
        self.net = nn.Sequential(expand, nn.Identity(), operations.Linear(4 * channels, channels))

    def forward(self, tokens: Tensor, run: LinearRunner = run_plainly) -> Tensor:
        """Shapes: `n t c` -> `n t c`."""
        at_once = max(1, MAX_TOKENS // tokens.shape[1])
        if len(tokens) <= at_once:  # split nevertheless, they would cost the backward pass a copy
            return self._run(tokens, run)
        return torch.cat([self._run(part, run) for part in torch.split(tokens, at_once)])

    def _run(self, tokens: Tensor, run: LinearRunner) -> Tensor:
        expand, _, contract = self.net
        return run(contract, expand(tokens, run))


class TemporalTransformerBlock(nn.Module):
    """Temporal self-attentions and a feed-forward layer, each behind a LayerNorm and added to the stream."""

    def __init__(
        self, channels: int, num_positions: int, num_attention_blocks: int, num_heads: int, operations: Operations
    ):
        super().__init__()
        blocks = range(num_attention_blocks)
        self.attention_blocks = nn.ModuleList(
            TemporalSelfAttention(channels, num_positions, num_heads, operations) for _ in blocks
        )
        self.norms = nn.ModuleList(operations.LayerNorm(channels) for _ in blocks)
        self.ff = FeedForward(channels, operations)
        self.ff_norm = operations.LayerNorm(channels)

    def forward(self, tokens: Tensor, num_frames: int, adjust: Adjustments = PLAIN) -> Tensor:
        """Shapes: tokens `(b f) n c` -> `(b f) n c`."""
        for norm, attention in zip(self.norms, self.attention_blocks, strict=True):
            tokens = tokens + attention(norm(tokens), num_frames, adjust)
        return tokens + self.ff(self.ff_norm(tokens), adjust.run)


class TemporalTransformer(nn.Module):
    """What is spliced behind one spatial block of the UNet."""

    def __init__(
        self,
        channels: int,
        num_positions: int,
        num_attention_blocks: int = 2,
        num_heads: int = 8,
        norm_over_frames: bool = False,
        operations: Operations = nn,
    ):
        super().__init__()
        self.norm_over_frames = norm_over_frames
        self.norm = operations.GroupNorm(NUM_GROUPS, channels, eps=GROUP_NORM_EPS)
        self.proj_in = operations.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            [TemporalTransformerBlock(channels, num_positions, num_attention_blocks, num_heads, operations)]
        )
        self.proj_out = operations.Linear(channels, channels)

    def zero_output(self) -> None:
        """Make the transformer an exact identity, as training starts it. Source: arXiv 2307.04725 section 4.2."""
        for parameter in self.proj_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, num_frames: int, adjust: Adjustments = PLAIN) -> Tensor:
        """The features with motion added; tokens keep one layout from `proj_in` to `proj_out`.

        Shapes: x `(b f) c h w` -> `(b f) c h w`, with f = num_frames
        Source: arXiv 2307.04725 section 4.2 and figure 3.
        """
        if adjust.adds_nothing:
            return x
        h = norm_over_frames(self.norm, x, num_frames) if self.norm_over_frames else self.norm(x)
        h = adjust.run(self.proj_in, h.flatten(2).transpose(1, 2).contiguous())
        for block in self.transformer_blocks:
            h = block(h, num_frames, adjust)
        motion = adjust.run(self.proj_out, h).transpose(1, 2).reshape(x.shape)
        return x + adjust.share_of(motion)
