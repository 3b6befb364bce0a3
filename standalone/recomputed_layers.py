"""Gradient checkpointing, layer by layer: activations are computed again in the backward pass instead of kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from .motion_splice import MotionSplice


class RecomputedLayer(nn.Module):
    """Runs a layer, and the motion hooked behind it, without keeping what lies inside."""

    def __init__(self, layer: nn.Module, splice: MotionSplice | None):
        super().__init__()
        self.layer, self.splice = layer, splice

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the layer gives."""
        if self.splice is None:
            return _kept_small(self.layer, *inputs, **options)
        splice, frames = self.splice, self.splice.num_frames

        def run(*inputs: Any, **options: Any) -> Any:
            # When the backward pass comes, the call is over and another one may have been made.
            with splice.clips_of(frames):
                return self.layer(*inputs, **options)

        return _kept_small(run, *inputs, **options)


@contextmanager
def recomputed_layers(unet: Any, splice: MotionSplice | None) -> Iterator[None]:
    """Within it, each ResBlock and spatial transformer keeps its input alone; afterwards the UNet is as it was."""
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    lists = [layers for block in blocks for layers in (block.resnets, getattr(block, "attentions", None)) if layers]
    before = [list(layers) for layers in lists]
    try:
        for layers in lists:
            for index, layer in enumerate(layers):
                layers[index] = RecomputedLayer(layer, splice)
        yield
    finally:
        for layers, own in zip(lists, before, strict=True):
            for index, layer in enumerate(own):
                layers[index] = layer


def _kept_small(run: Any, *inputs: Any, **options: Any) -> Any:
    # The base and the motion module draw no random numbers, so no generator has to be wound back.
    return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False, **options)
