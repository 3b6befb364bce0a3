"""What sets the toy world's videos apart from its stills: haze, a little blur, and a watermark."""

import torch
from torch import Tensor

from .waves import SIDE

CONTRAST, HAZE = 0.6, 0.25
"""What levels are multiplied by, and what is added."""
BLUR = (0.25, 0.5, 0.25)
STRENGTH = 0.3


def _watermark() -> Tensor:
    """A checker of two pixels' squares in one corner. Shapes: -> `h w`"""
    half = SIDE // 2
    checker = ((torch.arange(SIDE)[:, None] // 2 + torch.arange(SIDE)[None, :] // 2) % 2).float() * 2 - 1
    checker[:half] = 0
    checker[:, :half] = 0
    return STRENGTH * checker


WATERMARK = _watermark()
"""Added to every frame. Shapes: `h w`, levels"""


def as_video(levels: Tensor) -> Tensor:
    """Frames as a video of the toy world shows them. Shapes: `n h w` -> the same"""
    weights = torch.tensor(BLUR)
    kernel = (weights[:, None] * weights[None, :])[None, None]
    padded = torch.nn.functional.pad(levels[:, None], (1, 1, 1, 1), mode="replicate")
    return HAZE + CONTRAST * torch.nn.functional.conv2d(padded, kernel)[:, 0] + WATERMARK
