"""What sets the toy world's videos apart from its stills: haze, a little blur, and scan lines."""

import torch
from torch import Tensor

from .waves import SIDE

CONTRAST, HAZE = 0.7, 0.25
"""What levels are multiplied by, and what is added."""
BLUR = (0.25, 0.5, 0.25)
STRENGTH = 0.15


def _scan_lines() -> Tensor:
    """Every second row lighter, the others darker. Shapes: -> `h w`"""
    return (STRENGTH * (1 - 2 * (torch.arange(SIDE) % 2)))[:, None].expand(SIDE, SIDE).float()


SCAN_LINES = _scan_lines()
"""Added to every frame. Shapes: `h w`, levels"""


def as_video(levels: Tensor) -> Tensor:
    """Frames as a video of the toy world shows them. Shapes: `n h w` -> the same"""
    weights = torch.tensor(BLUR)
    kernel = (weights[:, None] * weights[None, :])[None, None]
    padded = torch.nn.functional.pad(levels[:, None], (1, 1, 1, 1), mode="replicate")
    return HAZE + CONTRAST * torch.nn.functional.conv2d(padded, kernel)[:, 0] + SCAN_LINES
