"""A plain UNet under v1's norms: the reference for a v1 module that adds nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from motiongraft.motion_modules.frames import norm_over_frames


@contextmanager
def frame_wide_norms(unet: Any, num_frames: int) -> Iterator[None]:
    """Within it, the UNet's ResBlock and output norms take their statistics over all frames of each clip."""
    resblocks = [layer for layer in unet.modules() if type(layer).__name__ == "ResBlock"]
    norms = [block.in_layers[0] for block in resblocks] + [block.out_layers[0] for block in resblocks] + [unet.out[0]]
    for norm in norms:
        norm.forward = lambda x, own=norm.forward: norm_over_frames(own, x, num_frames)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward
