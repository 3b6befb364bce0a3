"""From source pixels to training pixels in one step: whatever size, crop and camera ask for, a picture is read once."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

ROWS_AT_ONCE = 16
"""Target rows that are made together; bounds the memory for large sources."""
_MARGIN = 2
"""Source pixels around a sampling point that may count for it, with room for rounding."""


@dataclass(frozen=True)
class View:
    """The rectangle of a source picture that fills one target frame.

    Units: centre in source pixels from the upper left corner; scales in source pixels for each target pixel, different
    from each other where pixels are not square; angle in degrees by which the content is turned clockwise.
    """

    centre_x: float
    centre_y: float
    scale_x: float
    scale_y: float
    angle: float = 0.0

    @property
    def scale(self) -> float:
        """The larger of both scales."""
        return max(self.scale_x, self.scale_y)


def samples_for(scale: float) -> int:
    """How many samples a side make one target pixel, so that none of the source pixels under it is stepped over."""
    return max(1, math.ceil(scale - 1e-6))


def resampled(pixels: Tensor, view: View, height: int, width: int, samples: int) -> Tensor:
    """A view of a picture: bilinear samples, `samples` × `samples` of them averaged for each target pixel.

    Sampling is in float64, so that a view at scale 1 returns the source's values within float32's rounding.

    Shapes: pixels `h w 3`, uint8 -> `height width 3`, float32 in 0..1
    """
    x = _offsets(width, samples)
    y = _offsets(height, samples)
    rows = ROWS_AT_ONCE * samples
    strips = [_source_points(view, x, y[first : first + rows]) for first in range(0, len(y), rows)]
    return torch.cat([_strip(pixels, *points, samples) for points in strips])


def mirrored(frames: Tensor) -> Tensor:
    """The frames with left and right exchanged. Shapes: `f h w 3` -> `f h w 3`"""
    return frames.flip(-2)


def _offsets(size: int, samples: int) -> Tensor:
    """Sampling points along one side of the target. Units: target pixels from the middle"""
    return (torch.arange(size * samples, dtype=torch.float64) + 0.5) / samples - size / 2


def _source_points(view: View, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Where the points of a target grid lie in the source. Shapes: x `w`, y `h` -> two of `h w`"""
    cosine, sine = math.cos(math.radians(view.angle)), math.sin(math.radians(view.angle))
    along = cosine * x + sine * y[:, None]
    down = cosine * y[:, None] - sine * x
    return view.centre_x + view.scale_x * along, view.centre_y + view.scale_y * down


def _strip(pixels: Tensor, x: Tensor, y: Tensor, samples: int) -> Tensor:
    """Some rows of the target, from no more of the source than they need.

    Shapes: x and y `h w` -> `h/samples w/samples 3`
    """
    left, right = _reach(x, pixels.shape[1])
    top, bottom = _reach(y, pixels.shape[0])
    part = pixels[top:bottom, left:right].permute(2, 0, 1).to(torch.float64, memory_format=torch.contiguous_format)
    grid = torch.stack(((x - left) * 2 / (right - left) - 1, (y - top) * 2 / (bottom - top) - 1), dim=-1)
    points = functional.grid_sample(part[None], grid[None], padding_mode="border", align_corners=False)
    return (functional.avg_pool2d(points, samples)[0] / 255).permute(1, 2, 0).to(torch.float32)


def _reach(coordinates: Tensor, size: int) -> tuple[int, int]:
    """The first and last source pixel that these points touch, as a range."""
    first, last = int(coordinates.min().floor()) - _MARGIN, int(coordinates.max().ceil()) + _MARGIN
    return max(0, min(first, size - 1)), min(size, max(last, 1))
