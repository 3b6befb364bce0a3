"""The eight published camera motions, by name, from the files that are installed."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import folder_paths

from ..core.errors import CheckpointError, SettingsError
from ..core.tensor_files import read_tensor_file
from ..lora.motion_lora import read_motion_lora
from .folders import MOTION_LORAS, file_stamp, find_file
from .loras import apply_motion_lora
from .motion_modules import LoadedMotionModule

PRESETS: Mapping[str, str] = MappingProxyType(
    {
        "zoom in": "v2_lora_ZoomIn",
        "zoom out": "v2_lora_ZoomOut",
        "pan left": "v2_lora_PanLeft",
        "pan right": "v2_lora_PanRight",
        "tilt up": "v2_lora_TiltUp",
        "tilt down": "v2_lora_TiltDown",
        "roll clockwise": "v2_lora_RollingClockwise",
        "roll anticlockwise": "v2_lora_RollingAnticlockwise",
    }
)
"""File of each motion, without its suffix. Source: guoyww/AnimateDiff README.md, MotionLoRA."""
SOURCE = "https://huggingface.co/guoyww/animatediff"


def apply_camera_motion(
    module: LoadedMotionModule, motion: str, strength: float, schedule: str = ""
) -> LoadedMotionModule:
    """The motion module with a camera motion added. Raises: as `find_camera_motion` and `apply_motion_lora` do."""
    lora = read_motion_lora(read_tensor_file(find_camera_motion(motion)))
    return apply_motion_lora(module, lora, strength, schedule=schedule)


def find_camera_motion(motion: str) -> Path:
    """The installed file of a camera motion: `.ckpt` or `.safetensors`, in any subfolder, in letters of any case.

    Raises: SettingsError for an unknown motion, CheckpointError if its file is not installed.
    """
    return find_file(MOTION_LORAS, _installed_name(motion))


def camera_motion_stamp(motion: str) -> str:
    """A text that changes when the file of a motion does, or comes or goes."""
    try:
        return file_stamp(MOTION_LORAS, _installed_name(motion))
    except (CheckpointError, SettingsError):
        return motion


def _installed_name(motion: str) -> str:
    stem = PRESETS.get(motion)
    if stem is None:
        raise SettingsError(f"motion is {motion!r}; expected one of {', '.join(PRESETS)}.")
    names = folder_paths.get_filename_list(MOTION_LORAS)
    name = next((name for name in names if _stem(name) == stem.lower()), None)
    if name is None:
        raise CheckpointError(
            f"{motion} needs {stem}.ckpt in models/{MOTION_LORAS}, and it is not there. Get it from {SOURCE}, put it "
            "there and press R; or choose a file of your own in Apply MotionLoRA."
        )
    return name


def _stem(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).stem.lower()
