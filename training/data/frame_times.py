"""Which frames a clip consists of, chosen by the times they are shown at."""

from bisect import bisect_right
from collections.abc import Sequence

TOLERANCE = 0.5
"""How much later than its target time a frame may come, in frames: timestamps are rounded."""


def average_rate(times: Sequence[float]) -> float | None:
    """Frames per unit of time between the first frame and the last; None for a single frame."""
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else None


def frames_needed(num_frames: int, stride: int) -> int:
    """Frames from the first of a clip to its last, both included."""
    return (num_frames - 1) * stride + 1


def clip_starts(total: int, needed: int, clips: int) -> tuple[int, ...]:
    """First frames of clips that lie centred in equal parts of a video, without overlap; `clips` 0 is all that fit.

    Units: frames
    """
    fitting = total // needed
    count = min(clips, fitting) if clips else fitting
    parts = [(part * total // count, (part + 1) * total // count) for part in range(count)]
    return tuple(first + (end - first - needed) // 2 for first, end in parts)


def shown_frames(times: Sequence[float], start: int, num_frames: int, stride: int) -> tuple[int, ...]:
    """Indices of the frames shown every `stride` average frames, from the `start`-th on.

    At a constant frame rate these are exactly every stride-th frame. A frame is named twice where a video pauses.
    """
    period = 1 / (average_rate(times) or 1)
    targets = (times[0] + (start + step * stride + TOLERANCE) * period for step in range(num_frames))
    return tuple(bisect_right(times, target) - 1 for target in targets)
