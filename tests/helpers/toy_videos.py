"""Real little videos for tests, encoded here, whose frames tell which they are."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from PIL import Image
from torch import Tensor

BITS = 8
WIDTH, HEIGHT = 128, 96
RATE = 30
pyav = cast(Any, av)
QUIET = {"libx265": {"x265-params": "log-level=none"}}
Paint = Callable[[int], Any]


def index_frame(index: int, width: int = WIDTH, height: int = HEIGHT) -> Any:
    """A frame whose eight upright bars are the bits of its index, white for 1, the lowest bit at the left.

    Shapes: `h w 3`, uint8
    """
    bits = [(index >> bit) & 1 for bit in range(BITS)]
    row = np.repeat(bits, -(-width // BITS))[:width] * 200 + 28
    return np.broadcast_to(row[None, :, None], (height, width, 3)).astype(np.uint8)


def frame_indices(frames: Tensor) -> list[int]:
    """Which frames these are. Shapes: frames `f h w 3` in 0..1"""
    columns = frames.mean(dim=(1, 3))
    bars = columns.unflatten(1, (BITS, -1)).mean(dim=2) > 0.5
    return [sum(int(bit) << place for place, bit in enumerate(row)) for row in bars]


def index_of(pixels: Tensor) -> int:
    """Which frame a picture is. Shapes: pixels `h w 3`, uint8"""
    return frame_indices(pixels[None].float() / 255)[0]


def needs_encoder(codec: str) -> None:
    """Skip the test where this FFmpeg cannot write the codec."""
    try:
        pyav.codec.Codec(codec, "w")
    except pyav.codec.codec.UnknownCodecError:
        pytest.skip(f"this build of PyAV has no encoder {codec}")


def write_video(
    path: Path,
    num_frames: int = 24,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    paint: Paint = index_frame,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    prepare: Callable[[Any], None] = lambda stream: None,
    prepare_frame: Callable[[Any], None] = lambda frame: None,
) -> Path:
    """Encode `paint(0), paint(1), …` and give the path.

    Units: times in milliseconds for each frame; without them 30 frames a second.
    """
    needs_encoder(codec)
    path.parent.mkdir(parents=True, exist_ok=True)
    first = paint(0)
    with pyav.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=RATE, options={**QUIET.get(codec, {}), **(options or {})})
        stream.height, stream.width, stream.pix_fmt = first.shape[0], first.shape[1], pixel_format
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        prepare(stream)
        for index in range(num_frames):
            frame = pyav.VideoFrame.from_ndarray(np.ascontiguousarray(paint(index)), format="rgb24")
            frame.pts = index if times is None else times[index]
            frame.time_base = Fraction(1, RATE if times is None else 1000)
            prepare_frame(frame)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """A file with a track of sound and no video."""
    with pyav.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=44100, layout="mono")
        for number in range(20):
            frame = pyav.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, number * 1024
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def write_frames(folder: Path, num_frames: int = 24, suffix: str = ".png", paint: Paint = index_frame) -> Path:
    """A folder of numbered frames, without leading zeros in their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(num_frames):
        Image.fromarray(paint(index)).save(folder / f"frame{index}{suffix}")
    return folder


def write_animation(path: Path, num_frames: int = 24, milliseconds: int | list[int] = 50, paint: Paint = index_frame):
    """An animated picture, by Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.fromarray(paint(index)) for index in range(num_frames)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=milliseconds, lossless=True)
    return path


def caption(path: Path, text: str = "a cat") -> Path:
    """Put a caption file beside a video or a folder of frames."""
    place = path.with_suffix(".txt") if path.is_file() else path.parent / f"{path.name}.txt"
    place.write_text(text, encoding="utf-8")
    return path


def cut_off(path: Path, share: float = 0.6) -> Path:
    """Keep the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def damage(path: Path, share: float, size: int) -> Path:
    """Overwrite bytes around a place in a file, given as share of its length."""
    content = bytearray(path.read_bytes())
    start = max(0, int(len(content) * share) - size // 2)
    content[start : start + size] = np.random.default_rng(0).bytes(size)
    path.write_bytes(content)
    return path


def noise_frame(index: int) -> Any:
    """A frame that compresses badly, so that each has bytes to lose."""
    return np.random.default_rng(index).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def solid(colour: Iterable[int], width: int = WIDTH, height: int = HEIGHT) -> Paint:
    """Frames of one colour."""
    frame = np.broadcast_to(np.array(list(colour), dtype=np.uint8), (height, width, 3))
    return lambda index: frame
