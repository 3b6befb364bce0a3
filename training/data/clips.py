"""Clips to train on: where each lies, how it is cut, and its frames, exact and on demand."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from .camera_path import CameraPath, SourceSize, still_path, views
from .frame_source import BadClipError, FrameSource, Picture
from .resample import View, resampled, samples_for

TRANSFORM_VERSION = 1
"""Rises when the same cut gives other pixels than before."""


@dataclass(frozen=True)
class Cut:
    """Which frames of which source a clip consists of.

    Units: frames are indices into the source.
    """

    source: FrameSource
    frames: tuple[int, ...]
    size: SourceSize


@dataclass(frozen=True)
class TrainingClip:
    """One clip, which knows where it is and how it is cut, and reads when asked.

    Units: height and width in pixels, as `read` returns them; camera is None for a clip as it was taken.
    """

    name: str
    """Unique in its set: path from the folder, `#2` for a second clip of one video, the camera motion in brackets."""
    caption: str
    num_frames: int
    height: int
    width: int
    camera: CameraPath | None
    cut: Cut

    def read(self) -> Tensor:
        """The frames, the same at each call.

        Shapes: `f h w 3`, float32 in 0..1
        Raises: TrainingDataError if the file is gone, damaged, or no longer the one that was checked.
        """
        frames = torch.empty(self.num_frames, self.height, self.width, 3)
        pictures = self.cut.source.pictures(self.cut.frames)
        for frame, picture, view in zip(frames, pictures, self.views, strict=True):
            check_size(self.cut, picture)
            frame.copy_(resampled(picture.pixels, view, self.height, self.width, self._samples))
        return frames

    def content_files(self) -> tuple[Path, ...]:
        """The files whose bytes decide the content: the video, or the frames used."""
        return self.cut.source.files(self.cut.frames)

    def transform_key(self) -> str:
        """A text that changes when frame times, size, crop or camera do; not with caption, path or content."""
        times = [round(self.cut.source.times[frame], 6) for frame in self.cut.frames]
        size = [self.width, self.height, self._samples]
        member = [self.cut.source.member] if self.cut.source.member else []  # in a shard, which has many clips
        views = [list(asdict(view).values()) for view in self.views]
        return json.dumps([TRANSFORM_VERSION, times, size, views, *member])

    @cached_property
    def views(self) -> tuple[View, ...]:
        """What each frame shows of the source."""
        path = self.camera or still_path(self.num_frames)
        return views(path, self.cut.size, self.height, self.width)

    @property
    def enlargement(self) -> float:
        """How many times a source pixel is enlarged where it is most, 1 or more."""
        return max(1.0, *(1 / min(view.scale_x, view.scale_y) for view in self.views))

    @property
    def _samples(self) -> int:
        """The same for all frames, so that sharpness does not jump in a zoom."""
        return samples_for(max(view.scale for view in self.views))


@dataclass(frozen=True)
class TrainingClips:
    """A set of clips that were all checked."""

    clips: tuple[TrainingClip, ...]
    flip: bool
    """The cache also holds the mirrored clips."""
    frame_stride: int
    camera_motion: str | None = None


def check_size(cut: Cut, picture: Picture) -> None:
    """Raises: BadClipError unless the picture has the size that the clip was cut for."""
    expected = (cut.size.height, cut.size.width)
    if picture.size != expected:
        raise BadClipError(
            cut.source.path,
            f"expected frames of {expected[1]}×{expected[0]}, found one of {picture.size[1]}×{picture.size[0]}; "
            "make all frames the same size, then load the folder again",
        )
