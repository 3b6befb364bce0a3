"""The toy world's stand-in for a VAE: pictures to latents of four channels and back, without loss.

A picture is a mixture of two inks. Its level, from -1 in the dark ink to 1 in the light one, is split into the four
parts of a Haar wavelet, each half as wide and high.
"""

import torch
from torch import Tensor

DARK, LIGHT = (0.07, 0.13, 0.24), (0.98, 0.93, 0.82)
"""The inks, in red, green and blue from 0 to 1, at levels -1 and 1."""
CHANNELS, DOWNSCALE = 4, 2
_HAAR = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2.0
"""Orthonormal and its own inverse: rows are parts, columns the pixels of a block, row by row."""
_LOWEST = torch.tensor(DARK)
_ACROSS = torch.tensor(LIGHT) - _LOWEST


def as_pixels(levels: Tensor) -> Tensor:
    """The picture of some levels. Shapes: `… h w` -> `… h w 3`, float32 in 0..1 for levels in -1..1"""
    return _LOWEST + (levels[..., None] + 1) / 2 * _ACROSS


def as_levels(pixels: Tensor) -> Tensor:
    """How light each pixel is. Shapes: `… h w 3` -> `… h w`"""
    return 2 * ((pixels - _LOWEST) @ _ACROSS) / (_ACROSS @ _ACROSS) - 1


def encoded(levels: Tensor) -> Tensor:
    """Latents of pictures. Shapes: `n h w` -> `n 4 h/2 w/2`"""
    return torch.einsum("pc,nchw->nphw", _HAAR, torch.nn.functional.pixel_unshuffle(levels[:, None], DOWNSCALE))


def decoded(latents: Tensor) -> Tensor:
    """Pictures of latents. Shapes: `n 4 h w` -> `n 2h 2w`"""
    pixels = torch.einsum("pc,nphw->nchw", _HAAR, latents.float())
    return torch.nn.functional.pixel_shuffle(pixels, DOWNSCALE)[:, 0]
