"""A quick look at latents: each latent pixel as one colour, without a VAE."""

from collections.abc import Sequence

import torch
from torch import Tensor

MAX_PREVIEW_SIDE = 96
"""Latent pixels on the longer side of a preview; larger clips are averaged down."""


def latent_to_rgb(latents: Tensor, factors: Sequence[Sequence[float]], bias: Sequence[float] | None = None) -> Tensor:
    """Frames as bytes of red, green and blue.

    Shapes: latents `f c h w`, factors `c 3` -> `f h' w' 3`, uint8
    """
    scale = MAX_PREVIEW_SIDE / max(latents.shape[-2:])
    small = latents.float()
    if scale < 1:
        size = [max(1, round(side * scale)) for side in latents.shape[-2:]]
        small = torch.nn.functional.interpolate(small, size=size, mode="area")
    colours = torch.tensor(factors, dtype=small.dtype, device=small.device)
    rgb = torch.einsum("fchw,cr->fhwr", small, colours)
    if bias is not None:
        rgb = rgb + torch.tensor(bias, dtype=rgb.dtype, device=rgb.device)
    return ((rgb + 1) * 127.5).clamp(0, 255).to("cpu", torch.uint8)
