"""How near each frame of a clip is to the image that it is animated from (PIA)."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ..core.errors import SettingsError

AFFINITIES: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "small motion": (1.0, 0.9, 0.85, 0.85, 0.85, 0.8),
        "moderate motion": (1.0, 0.8, 0.8, 0.8, 0.79, 0.78, 0.75),
        "large motion": (1.0, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.5),
        "loop, small motion": (
            *(1.0, 0.9, 0.85, 0.85, 0.85, 0.8, 0.8, 0.8),
            *(0.8, 0.8, 0.8, 0.8, 0.85, 0.85, 0.9, 1.0),
        ),
        "loop, moderate motion": (
            *(1.0, 0.8, 0.8, 0.8, 0.79, 0.78, 0.75, 0.75),
            *(0.75, 0.75, 0.75, 0.78, 0.79, 0.8, 0.8, 1.0),
        ),
        "loop, large motion": (
            *(1.0, 0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5),
            *(0.5, 0.6, 0.7, 0.7, 0.7, 0.7, 0.8, 1.0),
        ),
        "new style, large motion": (0.5, 0.2),
        "new style, moderate motion": (0.5, 0.4, 0.4, 0.4, 0.35, 0.35, 0.3, 0.25, 0.2),
        "new style, small motion": (0.5, 0.4, 0.4, 0.4, 0.35, 0.3),
    }
)
"""Affinity by distance from the image's frame; the last one goes for all that are farther.

Source: open-mmlab/PIA animatediff/utils/util.py, `RANGE_LIST`.
"""
LOOP = "loop"


def affinities(preset: str, num_frames: int, image_frame: int) -> list[float]:
    """The affinity of every frame of a clip. A loop is stretched to it; with the image at frame 0, its ends meet.

    Raises: SettingsError for an unknown preset, or an image outside the clip.
    Source: open-mmlab/PIA animatediff/utils/util.py, `prepare_mask_coef_by_statistics`, which is for 16 frames.
    """
    steps = AFFINITIES.get(preset)
    if steps is None:
        raise SettingsError(f"affinity is {preset!r}; expected one of {'; '.join(AFFINITIES)}.")
    if not 0 <= image_frame < num_frames:
        raise SettingsError(
            f"the image stands at frame {image_frame}, and the clip has frames 0 to {num_frames - 1}. "
            "Set frame to one of these."
        )
    if preset.startswith(LOOP):
        steps = _stretched(steps, num_frames)
    return [steps[min(abs(frame - image_frame), len(steps) - 1)] for frame in range(num_frames)]


def _stretched(steps: Sequence[float], length: int) -> tuple[float, ...]:
    """The steps at `length` even places from first to last, linear between them; as they are if the lengths agree."""
    if length in (1, len(steps)):
        return tuple(steps)
    places = [index * (len(steps) - 1) / (length - 1) for index in range(length)]
    return tuple(_between(steps, place) for place in places)


def _between(steps: Sequence[float], place: float) -> float:
    low = min(int(place), len(steps) - 2)
    return steps[low] + (place - low) * (steps[low + 1] - steps[low])
