"""What a video, an animated picture and a folder of frames have in common: pictures, and when they are shown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from ...core.errors import TrainingDataError


class BadClipError(TrainingDataError):
    """A clip that cannot be trained on; `reason` is the message without the file's name."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path.name}: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Picture:
    """One frame as it is shown: upright, without alpha.

    Shapes: pixels `h w 3`, uint8
    Units: pixel_aspect is the width of a pixel in heights of one.
    """

    pixels: Tensor
    pixel_aspect: float = 1.0

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


class FrameSource(Protocol):
    """Frames in the order they are shown, read on demand.

    Units: times from the first frame on, in seconds for a video, in frames where there is no clock; rate is frames per
    second, None where there is no clock or a single frame.
    """

    @property
    def path(self) -> Path: ...
    @property
    def times(self) -> Sequence[float]: ...
    @property
    def rate(self) -> float | None: ...
    @property
    def member(self) -> str:
        """Which part of its file it is, where a file holds several sources; else empty."""
        ...

    def pictures(self, frames: Sequence[int]) -> Iterator[Picture]:
        """The pictures at these rising indices, one at a time. Raises: BadClipError for one that cannot be read."""
        ...

    def files(self, frames: Sequence[int]) -> tuple[Path, ...]:
        """The files whose bytes decide these pictures."""
        ...


def picture_of(array: Any, pixel_aspect: float = 1.0) -> Picture:
    """A picture of red, green, blue and perhaps alpha; what is transparent becomes black, as in a video player.

    Shapes: array `h w 3` or `h w 4`, uint8
    """
    if array.shape[2] == 4:
        alpha = array[..., 3:].astype(np.uint16)
        array = ((array[..., :3] * alpha + 127) // 255).astype(np.uint8)
    return Picture(cast(Any, torch).from_numpy(np.array(array, order="C")), pixel_aspect)
