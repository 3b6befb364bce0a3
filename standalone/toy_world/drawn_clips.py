"""Clips of the toy world as training sees them: drawn when they are read, cut and moved like those of video files."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...training.data.camera_motion import with_camera_motion
from ...training.data.camera_path import SourceSize
from ...training.data.clips import Cut, TrainingClip, TrainingClips
from ...training.data.frame_source import Picture
from .picture_codec import as_levels, as_pixels
from .video_domain import as_video
from .waves import NUM_FRAMES, SIDE, Waves, scene

WORLD_VERSION = 1
"""Rises when the same scene is drawn otherwise, or videos look otherwise."""
DETAIL = 4
"""Pixels of a drawing for each of a frame, where a camera moves over it."""
CAMERA, CAMERA_AMOUNT = "pan right", 14 / 16
"""The camera motion of the demo: two pixels a frame to the right, so that what it sees goes two to the left."""


@dataclass(frozen=True)
class Drawing:
    """The source of one clip's frames. Units: extent in frame sides"""

    waves: Waves
    detail: int = 1
    extent: float = 1.0

    @property
    def side(self) -> int:
        """Units: pixels of the drawing"""
        return round(SIDE * self.detail * self.extent)

    @property
    def path(self) -> Path:
        return Path(self.waves.caption)

    @property
    def times(self) -> Sequence[float]:
        return range(NUM_FRAMES)

    @property
    def rate(self) -> float | None:
        return None

    @property
    def member(self) -> str:
        return ""

    def pictures(self, frames: Sequence[int]) -> Iterator[Picture]:
        """The pictures at these indices, in 8 bits as from a file."""
        for frame in frames:
            levels = self.waves.levels(frame, self.side, self.extent)
            yield Picture((as_pixels(levels) * 255).round().byte())

    def files(self, frames: Sequence[int]) -> tuple[Path, ...]:
        """None: the drawing is told by `DrawnClip.transform_key`."""
        return ()


@dataclass(frozen=True)
class DrawnClip(TrainingClip):
    """One clip, drawn when it is read."""

    is_video: bool = False
    """With the look of the toy world's videos, which is put on after the camera, as a camera does."""

    def read(self) -> Tensor:
        """Shapes: -> `f h w 3`, float32 in 0..1"""
        pixels = super().read()
        return as_pixels(as_video(as_levels(pixels))).clamp(0, 1) if self.is_video else pixels

    def transform_key(self) -> str:
        return f"{WORLD_VERSION} {self.cut.source} {self.is_video} {super().transform_key()}"


def still_clips(count: int, seed: int) -> TrainingClips:
    """Clean clips, of whose frames a base takes one at a time."""
    clips = (_clip(number, Drawing(scene(number, seed))) for number in range(count))
    return TrainingClips(tuple(clips), flip=False, frame_stride=1)


def video_clips(count: int, seed: int) -> TrainingClips:
    """Captioned videos of moving waves."""
    clips = (_clip(number, Drawing(scene(number, seed)), is_video=True) for number in range(count))
    return TrainingClips(tuple(clips), flip=False, frame_stride=1)


def camera_clips(count: int, seed: int) -> TrainingClips:
    """Clean clips of waves under a moving camera, which sees as much at once as the other clips show."""
    extent = math.ceil((1 + CAMERA_AMOUNT) * SIDE) / SIDE
    clips = (_clip(number, Drawing(scene(number, seed), DETAIL, extent)) for number in range(count))
    return with_camera_motion(TrainingClips(tuple(clips), flip=False, frame_stride=1), CAMERA, CAMERA_AMOUNT)


def _clip(number: int, drawing: Drawing, is_video: bool = False) -> DrawnClip:
    cut = Cut(drawing, tuple(range(NUM_FRAMES)), SourceSize(drawing.side, drawing.side))
    name, caption = f"{number}: {drawing.waves.caption}", drawing.waves.caption
    return DrawnClip(name, caption, NUM_FRAMES, SIDE, SIDE, None, cut, is_video)
