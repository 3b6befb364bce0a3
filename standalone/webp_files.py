"""A clip as an animated WEBP."""

import secrets
from pathlib import Path

from PIL import Image
from torch import Tensor

from ..core.errors import SettingsError

SUFFIX = ".webp"
QUALITY = 85
"""That of ComfyUI's SaveAnimatedWEBP in the example workflows."""


def check_new_webp(path: Path) -> None:
    """Raises: SettingsError unless a new WEBP can be written there. Asked before any work is done."""
    if path.suffix.lower() != SUFFIX:
        raise SettingsError(
            f"--out should name a {SUFFIX} file, found {path.name}. Name it {path.stem or 'clip'}.webp."
        )
    if path.exists():
        raise SettingsError(f"{path} exists already, and nothing is written over it. Choose another name for --out.")
    if not path.parent.is_dir():
        raise SettingsError(f"the folder {path.parent} of --out does not exist. Make it, or choose another.")


def write_webp(path: Path, frames: Tensor, frames_per_second: float) -> None:
    """Write a clip that plays forever; readers see the whole file or none.

    Shapes: frames `f h w 3`, uint8
    Raises: OSError if the disk does not take the file.
    """
    pictures = [Image.fromarray(frame.numpy()) for frame in frames]
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        pictures[0].save(
            unfinished,
            format="WEBP",
            save_all=True,
            append_images=pictures[1:],
            duration=round(1000 / frames_per_second),
            loop=0,
            quality=QUALITY,
        )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
