"""How the camera moves through a clip, known exactly, and the views of the source that this asks for."""

import math
from dataclasses import dataclass

from .resample import View


@dataclass(frozen=True)
class CameraPath:
    """Where the camera is in each frame, relative to frame 0.

    A point at (x, y) of frame 0, from the middle, is found in frame k at zoom · R(angle) · ((x, y) - shift): the camera
    moves to the right and down by its shift, so the content moves to the left and up.

    Units: zoom is a ratio, above 1 closer; shifts are in frame widths and heights; angle in degrees by which the
    content is turned clockwise.
    """

    zoom: tuple[float, ...]
    shift_x: tuple[float, ...]
    shift_y: tuple[float, ...]
    angle: tuple[float, ...]

    @property
    def num_frames(self) -> int:
        return len(self.zoom)


@dataclass(frozen=True)
class SourceSize:
    """Units: pixels; pixel_aspect is the width of a pixel in heights of one."""

    height: int
    width: int
    pixel_aspect: float = 1.0

    @property
    def shown_width(self) -> float:
        """Width in heights of a pixel."""
        return self.width * self.pixel_aspect


def still_path(num_frames: int) -> CameraPath:
    """A camera that stays where it is."""
    return CameraPath((1.0,) * num_frames, *((0.0,) * num_frames,) * 3)


def views(path: CameraPath, source: SourceSize, height: int, width: int) -> tuple[View, ...]:
    """One view for each frame: as much of the source as fits, such that the whole path stays inside it, centred.

    Units: height and width of the target in pixels.
    """
    left, right = _extent(path, path.shift_x, width, height)
    top, bottom = _extent(path, path.shift_y, height, width)
    scale = min(source.shown_width / (right - left), source.height / (bottom - top))
    middle_x = (source.shown_width - scale * (left + right)) / 2
    middle_y = (source.height - scale * (top + bottom)) / 2
    return tuple(
        View(
            centre_x=(middle_x + scale * width * shift_x) / source.pixel_aspect,
            centre_y=middle_y + scale * height * shift_y,
            scale_x=scale / zoom / source.pixel_aspect,
            scale_y=scale / zoom,
            angle=angle,
        )
        for zoom, shift_x, shift_y, angle in zip(path.zoom, path.shift_x, path.shift_y, path.angle, strict=True)
    )


def _extent(path: CameraPath, shifts: tuple[float, ...], along: int, across: int) -> tuple[float, float]:
    """How far the views reach in one direction, from the middle of frame 0. Units: target pixels at frame 0's scale"""
    reaches = [_half_extent(angle, along, across) / zoom for zoom, angle in zip(path.zoom, path.angle, strict=True)]
    spans = [(shift * along - reach, shift * along + reach) for shift, reach in zip(shifts, reaches, strict=True)]
    return min(first for first, _ in spans), max(last for _, last in spans)


def _half_extent(angle: float, along: int, across: int) -> float:
    """Half the side of the upright box around a turned frame."""
    radians = math.radians(angle)
    return (along * abs(math.cos(radians)) + across * abs(math.sin(radians))) / 2
