"""Clips as animated WEBPs inside a page."""

import base64
import io

import numpy as np
from PIL import Image
from torch import Tensor

from ..toy_world.picture_codec import as_pixels

SIDE = 96
"""Pixels of a shown frame: waves are smooth, so enlarging them invents nothing."""
FRAME_MS = 125
QUALITY = 80


def animated(levels: Tensor) -> str:
    """The address of a WEBP that plays for ever, with all of it inside. Shapes: `f h w`"""
    pixels = (as_pixels(levels).clamp(0, 1) * 255).round().byte().cpu().numpy()
    first, *others = (_enlarged(frame) for frame in pixels)
    file = io.BytesIO()
    first.save(
        file,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=FRAME_MS,
        loop=0,
        quality=QUALITY,
        minimize_size=True,
    )
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _enlarged(frame: np.ndarray) -> Image.Image:
    return Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
