"""Where each pixel of a frame went in the next: dense optical flow, from coarse to fine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 3.5
"""Standard deviation, in pixels, of the neighbourhood whose pixels are taken to move alike."""
STEPS = 5
"""Gauss-Newton steps at each size; more gain nothing, because interpolation limits how well two frames can agree."""
LONGEST_STEP = 1.0
"""Pixels: farther away, a pixel's slope says nothing."""
MOST_SIZES = 5
SMALLEST_SIDE = 12
"""Pixels on the shorter side of the smallest size: about as wide as a neighbourhood."""
PYRAMID_BLUR = 0.8
"""Standard deviation in pixels before every second pixel is left out."""
VISIBLE = 1e-4
"""Squared slope that makes texture count half: 1 % of the brightness from pixel to pixel."""
STIFFNESS = 2e-5
"""Squared slope below which a pixel moves with its surroundings: that of noise of one step of eight bits."""
EDGE_SHARE = 1e-3
"""What an edge, whose motion along itself is not seen, counts beside a corner where motion is spread."""
SLOPE = (1 / 12, -8 / 12, 0.0, 8 / 12, -1 / 12)
"""Central difference of fourth order."""
MOST_GAIN = 2.0
"""Times as bright from a frame to the next; more is a cut."""
ROW, COLUMN = 3, 2
"""Dimensions along which a filter runs."""


@dataclass(frozen=True)
class Flow:
    """The motion between two frames."""

    vectors: Tensor
    """What is at (x, y) in the first frame is at (x, y) + vector in the second. Shapes: `b 2 h w`. Units: pixels"""
    texture: Tensor
    """How well motion can be seen: from 0 on a flat surface to nearly 1 at strong edges. Shapes: `b 1 h w`"""


def optical_flow(first: Tensor, second: Tensor) -> Flow:
    """Motion where there is texture; flat surfaces take that of their surroundings.

    Equal frames give exactly 0. What grows brighter or darker all over does not count as moving.

    Shapes: first and second `b 1 h w`, brightness in 0..1, at least 2 pixels a side
    Source: Lucas and Kanade 1981, An Iterative Image Registration Technique with an Application to Stereo Vision,
    section 4; over sizes as in Bouguet 2000, Pyramidal Implementation of the Lucas Kanade Feature Tracker.
    """
    vectors, texture = first.new_zeros(len(first), 2, 2, 2), torch.zeros_like(first)
    for one, other in reversed(list(zip(_pyramid(first), _pyramid(second), strict=True))):
        vectors, texture = _refined(_resized(vectors, one), one, other)
    return Flow(vectors, texture)


def warp(picture: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The second picture moved back onto the first, and where that was found inside it.

    Shapes: picture `b c h w`, vectors `b 2 h w` -> `b c h w`, and `b 1 h w` of booleans. Units: pixels
    Source: Keys 1981, Cubic Convolution Interpolation for Digital Image Processing, equation 15. The cubic of torch's
    grid_sample has 1.5 times the picture's slope at a pixel, and small motions come out a third too short with it.
    """
    height, width = picture.shape[-2:]
    x = torch.arange(width, dtype=vectors.dtype, device=vectors.device) + vectors[:, :1]
    y = torch.arange(height, dtype=vectors.dtype, device=vectors.device)[:, None] + vectors[:, 1:]
    flat = picture.flatten(2)
    moved = torch.zeros_like(flat)
    for row, row_share in _taps(y, height):
        for column, column_share in _taps(x, width):
            places = (row * width + column).flatten(2).expand_as(flat)
            moved += flat.gather(2, places) * (row_share * column_share).flatten(2)
    is_inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return moved.view_as(picture), is_inside


def lengths(vectors: Tensor) -> Tensor:
    """Shapes: `b 2 h w` -> `b 1 h w`"""
    return vectors.square().sum(1, keepdim=True).sqrt()


def blurred(maps: Tensor, deviation: float) -> Tensor:
    """Each pixel's mean over its surroundings. Shapes: `b c h w` -> the same. Units: pixels"""
    reach = int(3 * deviation)
    weights = [exp(-(offset**2) / (2 * deviation**2)) for offset in range(-reach, reach + 1)]
    kernel = [weight / sum(weights) for weight in weights]
    return _filtered(_filtered(maps, kernel, ROW), kernel, COLUMN)


def _taps(places: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The four pixels around each place along one direction, and the share of each."""
    places = places.clamp(0, size - 1)
    low = places.floor()
    t = places - low
    yield (low.long() - 1).clamp(min=0), ((2 - t) * t - 1) * t / 2
    yield low.long(), ((3 * t - 5) * t * t + 2) / 2
    yield (low.long() + 1).clamp(max=size - 1), ((4 - 3 * t) * t + 1) * t / 2
    yield (low.long() + 2).clamp(max=size - 1), (t - 1) * t * t / 2


def _refined(vectors: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Motion at one size from that at the size below, and the texture that shows it."""
    right, down = _filtered(first, SLOPE, ROW), _filtered(first, SLOPE, COLUMN)
    xx, yy = _covariance(right, right).clamp(min=0), _covariance(down, down).clamp(min=0)
    xy = _covariance(right, down)
    corners = _corners(xx, xy, yy)
    around = blurred(corners, WINDOW)
    soft_xx, soft_yy = xx + STIFFNESS, yy + STIFFNESS
    for _ in range(STEPS):
        missing = _unexplained(first, *warp(second, vectors))
        x, y = _covariance(right, missing), _covariance(down, missing)
        step = torch.cat([soft_yy * x - xy * y, soft_xx * y - xy * x], dim=1) / (soft_xx * soft_yy - xy.square())
        length = lengths(step).clamp(min=LONGEST_STEP)
        vectors = vectors + step * (LONGEST_STEP / length)
        vectors = blurred(vectors * corners, WINDOW) / around
    return vectors, (xx + yy) / (xx + yy + VISIBLE)


def _covariance(a: Tensor, b: Tensor) -> Tensor:
    """How two maps vary together around each pixel; that one is brighter all around adds nothing."""
    return blurred(a * b, WINDOW) - blurred(a, WINDOW) * blurred(b, WINDOW)


def _corners(xx: Tensor, xy: Tensor, yy: Tensor) -> Tensor:
    """How much the motion of each pixel counts where it is spread to its surroundings; everywhere above 0.

    Source: Shi and Tomasi 1994, Good Features to Track, section 4: the smaller eigenvalue of the slopes' covariance.
    """
    smaller = (xx + yy - ((xx - yy).square() + 4 * xy.square()).sqrt()) / 2
    return smaller.clamp(min=0) + EDGE_SHARE * (xx + yy) + 1e-12


def _unexplained(first: Tensor, moved: Tensor, is_inside: Tensor) -> Tensor:
    """What is left between two frames beside one change of brightness and contrast for all pixels.

    The second fit leaves out what fits badly, so that a lamp that goes on does not dim the room.
    Shapes: `b 1 h w` each -> the same
    """
    weights = is_inside.to(first.dtype)
    missing = _without_change_of_light(first, moved, weights)
    usual = missing.flatten(1).abs().median(dim=1).values.view(-1, 1, 1, 1) + 1e-3
    missing = _without_change_of_light(first, moved, weights / (1 + (missing / usual).square()))
    return torch.where(is_inside, missing, 0)


def _without_change_of_light(first: Tensor, moved: Tensor, weights: Tensor) -> Tensor:
    first, moved = first - _mean(first, weights), moved - _mean(moved, weights)
    gain = (_mean(first * moved, weights) + 1e-4) / (_mean(moved.square(), weights) + 1e-4)
    return first - gain.clamp(1 / MOST_GAIN, MOST_GAIN) * moved


def _mean(maps: Tensor, weights: Tensor) -> Tensor:
    return (maps * weights).sum((1, 2, 3), keepdim=True) / weights.sum((1, 2, 3), keepdim=True).clamp(min=1)


def _pyramid(picture: Tensor) -> Iterator[Tensor]:
    """The picture, then each time half as large, as far as a neighbourhood fits."""
    yield picture
    for _ in range(MOST_SIZES - 1):
        if min(picture.shape[-2:]) < 2 * SMALLEST_SIDE:
            return
        size = [(side + 1) // 2 for side in picture.shape[-2:]]
        picture = F.interpolate(blurred(picture, PYRAMID_BLUR), size=size, mode="bilinear", align_corners=True)
        yield picture


def _resized(vectors: Tensor, picture: Tensor) -> Tensor:
    """Vectors at the size of a picture, in its pixels."""
    size = picture.shape[-2:]
    scale = [(new - 1) / (old - 1) for new, old in zip(size, vectors.shape[-2:], strict=True)]
    larger = F.interpolate(vectors, size=size, mode="bilinear", align_corners=True)
    return larger * vectors.new_tensor(scale[::-1]).view(1, 2, 1, 1)


def _filtered(maps: Tensor, kernel: Sequence[float], dim: int) -> Tensor:
    """Correlation along rows or columns; beyond its edge a picture goes on as it ends.

    Not torch's convolution: with one channel that is ten times slower on a CPU, and on a GPU it rounds to 10 bits
    (TF32), which covariances, differences of nearly equal numbers, do not survive.
    """
    reach = len(kernel) // 2
    padding = (reach, reach, 0, 0) if dim == ROW else (0, 0, reach, reach)
    padded = F.pad(maps, padding, mode="replicate")
    total = torch.zeros_like(maps)
    for place, weight in enumerate(kernel):
        total.add_(padded.narrow(dim, place, maps.shape[dim]), alpha=weight)
    return total
