"""Folders of frames and animated pictures, read by Pillow."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image, ImageOps

from ...core.errors import some
from .frame_source import BadClipError, Picture, picture_of
from .frame_times import average_rate

_READ_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""SyntaxError is what Pillow raises for a broken PNG."""
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height. Source: Exif 2.3, tag Orientation"""
_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
_DEEP_MODES = ("I", "F")
"""Modes with more than 8 bits of grey, which Pillow would cut off instead of rounding."""


@dataclass(frozen=True)
class FrameFolder:
    """A folder whose pictures are the frames of one clip, in natural order; their clock is the frame number."""

    path: Path
    pictures_of: tuple[Path, ...]

    @property
    def times(self) -> Sequence[float]:
        return range(len(self.pictures_of))

    @property
    def rate(self) -> float | None:
        return None

    @property
    def member(self) -> str:
        return ""

    def pictures(self, frames: Sequence[int]) -> Iterator[Picture]:
        """The pictures at these indices. Raises: BadClipError for one that cannot be read."""
        for frame in frames:
            with _opened(self.path, self.pictures_of[frame]) as image:
                yield _picture(image)

    def files(self, frames: Sequence[int]) -> tuple[Path, ...]:
        """The frames that are used."""
        return tuple(self.pictures_of[frame] for frame in frames)


@dataclass(frozen=True)
class AnimatedPicture:
    """An animated WEBP, which FFmpeg does not decode. Units: times in seconds"""

    path: Path
    times: tuple[float, ...]

    @property
    def member(self) -> str:
        return ""

    @property
    def rate(self) -> float | None:
        """Average frames per second."""
        return average_rate(self.times)

    def pictures(self, frames: Sequence[int]) -> Iterator[Picture]:
        """The pictures at these rising indices. Raises: BadClipError for one that cannot be read."""
        with _opened(self.path, self.path) as image:
            for frame in frames:
                image.seek(frame)
                yield _picture(image)

    def files(self, frames: Sequence[int]) -> tuple[Path, ...]:
        """The picture file."""
        return (self.path,)


def probe_frame_folder(folder: Path, pictures: tuple[Path, ...]) -> FrameFolder:
    """A folder of frames, once the heads of all files agree in size. Raises: BadClipError if they do not."""
    sizes: dict[tuple[int, int], list[str]] = {}
    for picture in pictures:
        with _opened(folder, picture) as image:
            sizes.setdefault(_upright_size(image), []).append(picture.name)
    if len(sizes) > 1:
        kinds = [f"{names[0]} {width}×{height}" for (width, height), names in sizes.items()]
        raise BadClipError(folder, f"frames differ in size: {some(kinds)}; put each clip's frames into its own folder")
    return FrameFolder(folder, pictures)


def probe_animated_picture(path: Path) -> AnimatedPicture:
    """An animated picture and when its frames are shown. Raises: BadClipError if it cannot be read to its end."""
    times, now = list[float](), 0.0
    with _opened(path, path) as image:
        for frame in range(getattr(image, "n_frames", 1)):
            image.seek(frame)
            image.load()
            times.append(now)
            now += max(1.0, float(image.info.get("duration") or 0)) / 1000
    return AnimatedPicture(path, tuple(times))


def is_animated_webp(path: Path) -> bool:
    """Whether a file is an animated WEBP, by its first bytes. Source: WebP container specification, chunk VP8X"""
    with path.open("rb") as file:
        head = file.read(21)
    return len(head) == 21 and head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20] & 0x02)


@contextmanager
def _opened(clip: Path, path: Path) -> Generator[Any, None, None]:
    """An open picture; whatever goes wrong with it is a reason against the clip."""
    try:
        with cast(Any, Image.open(path)) as image:
            yield image
    except _READ_ERRORS as error:
        raise BadClipError(clip, f"{path.name} cannot be read ({_words(error)}); replace or remove it") from error


def _words(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return "not a picture" if "cannot identify" in text else text


def _upright_size(image: Any) -> tuple[int, int]:
    width, height = image.size
    orientation = image.getexif().get(_ORIENTATION) if "exif" in image.info else None  # else it decodes a PNG to look
    return (height, width) if orientation in _TURNED else (width, height)


def _picture(image: Any) -> Picture:
    if image.mode.startswith(_DEEP_MODES):
        raise ValueError(f"expected 8 bits a colour, found mode {image.mode}")
    upright = cast(Any, ImageOps.exif_transpose(image))
    has_alpha = image.mode in _ALPHA_MODES or "transparency" in image.info
    return picture_of(np.asarray(upright.convert("RGBA" if has_alpha else "RGB")))
