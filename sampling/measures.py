"""What a clip shows that an embedding cannot see: how far it moves, how it flickers, and where its pieces meet."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import torch
from torch import Tensor
from torch.nn import functional as F

from .context_windows import ContextWindowSettings
from .optical_flow import Flow, blurred, lengths, optical_flow, warp
from .window_indices import window_indices

LUMINANCE = (0.2126, 0.7152, 0.0722)
"""Source: ITU-R BT.709, section 3."""
LONGEST_SIDE = 768
"""Pixels; larger frames are measured at this size, and motion is given in their own pixels."""
SHORTEST_SIDE = 16
"""Pixels; neighbourhoods of the optical flow are as large."""
DETAIL = 2.0
"""Standard deviation in pixels: what changes on a smaller scale is detail."""
LEAST_RESIDUAL = 0.1
"""Per cent: a quarter of one step of eight bits, so that a clip without any residual has the ratio 1."""
LEAST_MOTION = 0.1
"""Pixels, for the same reason."""


@dataclass(frozen=True)
class FrameChange:
    """What happens from one frame to the next."""

    motion: float
    """Mean length of the optical flow, weighted by texture. Units: pixels of the frames as given"""
    residual: float
    """Mean absolute difference that motion does not explain, colours weighted as the eye does. Units: per cent of the
    range from black to white"""
    brightness: float
    """What of it is the whole picture growing brighter (above 0) or darker. Units: as above"""
    detail: float
    """Mean absolute difference that stays of it beside its own blur: grain, edges, shimmer. Units: as above"""


@dataclass(frozen=True)
class Join:
    """How a place where a clip was put together compares with the rest of it. 1: nothing shows."""

    residual: float
    motion: float


@dataclass(frozen=True)
class Seams:
    """Where the windows of a clip begin and end."""

    pairs: tuple[int, ...]
    """Pair i lies between frames i and i + 1."""
    mean: Join
    worst: int
    """The pair with the largest residual."""
    worst_residual: float


def frame_changes(first: Tensor, second: Tensor) -> list[FrameChange]:
    """The changes of a batch of pairs. What leaves or enters at an edge of the frame is not counted.

    Shapes: first and second `b h w 3`, in 0..1, at least 16 pixels a side
    """
    scale = _scale(*first.shape[1:3])
    first, second = _smaller(first.movedim(-1, 1), scale), _smaller(second.movedim(-1, 1), scale)
    one, other = _luminance(first), _luminance(second)
    flow = optical_flow(one, other)
    moved, is_inside = warp(second, flow.vectors)
    seen = is_inside.to(first.dtype)
    # A frame of which nothing stays in sight has no residual, and no motion either.
    total = _sum(seen).clamp(min=1)
    residual = (moved - first) * seen
    grain = residual - blurred(residual, DETAIL)
    columns = [
        scale * _motion(flow, seen),
        100 * _sum(_luminance(residual.abs())) / total,
        100 * _sum(_luminance(residual)) / total,
        100 * _sum(_luminance(grain.abs()) * seen) / total,
    ]
    return [FrameChange(*map(float, row)) for row in torch.stack(columns, dim=1)]


def diagonal_share(pixels: float, height: int, width: int) -> float:
    """A length in per cent of a frame's diagonal, which does not depend on its resolution."""
    return 100 * pixels / (height**2 + width**2) ** 0.5


def seam_pairs(num_frames: int, length: int, overlap: int) -> list[int]:
    """Pairs of frames between which a window of schedule `static` begins or ends. Pair i: frames i and i + 1.

    Raises: SettingsError for windows that do not exist.
    """
    settings = ContextWindowSettings(length=length, overlap=overlap, schedule="static")
    windows = window_indices(settings, num_frames, 0)
    edges = {pair for window in windows for pair in (window[0] - 1, window[-1])}
    return sorted(pair for pair in edges if 0 <= pair < num_frames - 1)


def measure_seams(changes: Sequence[FrameChange], pairs: Sequence[int]) -> Seams | None:
    """The changes at these pairs beside the median of all others; None if there are no pairs, or no others."""
    elsewhere = [change for pair, change in enumerate(changes) if pair not in pairs]
    if not pairs or not elsewhere:
        return None
    joins = [join(changes[pair], elsewhere) for pair in pairs]
    worst = max(range(len(pairs)), key=lambda place: joins[place].residual)
    mean = Join(fmean(each.residual for each in joins), fmean(each.motion for each in joins))
    return Seams(tuple(pairs), mean, pairs[worst], joins[worst].residual)


def join(change: FrameChange, elsewhere: Sequence[FrameChange]) -> Join:
    """One change beside the median of others: residual and motion, each as a ratio."""
    return Join(
        (change.residual + LEAST_RESIDUAL) / (median(each.residual for each in elsewhere) + LEAST_RESIDUAL),
        (change.motion + LEAST_MOTION) / (median(each.motion for each in elsewhere) + LEAST_MOTION),
    )


def _motion(flow: Flow, seen: Tensor) -> Tensor:
    """Shapes: -> `b`. Units: measured pixels"""
    weights = flow.texture * seen
    return _sum(lengths(flow.vectors) * weights) / _sum(weights).clamp(min=1e-6)


def _sum(maps: Tensor) -> Tensor:
    return maps.sum((1, 2, 3))


def _luminance(frames: Tensor) -> Tensor:
    """Shapes: `b 3 h w` -> `b 1 h w`"""
    return (frames * frames.new_tensor(LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _scale(height: int, width: int) -> float:
    """Pixels of a frame to one that is measured."""
    return max(1.0, max(height, width) / LONGEST_SIDE)


def _smaller(frames: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return frames
    return F.interpolate(frames, size=[round(side / scale) for side in frames.shape[-2:]], mode="area")
