"""Camera motions made from clips: the published way to teach a MotionLoRA zoom, pan, tilt and roll."""

import logging
from collections.abc import Callable
from dataclasses import replace

from ...core.errors import SettingsError, TrainingDataError, shown
from .camera_path import CameraPath
from .clips import TrainingClip, TrainingClips

log = logging.getLogger(__name__)

LEAST_AMOUNT, MOST_AMOUNT = 0.01, 1.0
QUARTER_TURN = 90.0
_Pose = tuple[float, float, float, float]
_POSES: dict[str, Callable[[float, float], _Pose]] = {
    "zoom in": lambda amount, t: ((1 + amount) ** t, 0.0, 0.0, 0.0),
    "zoom out": lambda amount, t: ((1 + amount) ** -t, 0.0, 0.0, 0.0),
    "pan left": lambda amount, t: (1.0, -amount * t, 0.0, 0.0),
    "pan right": lambda amount, t: (1.0, amount * t, 0.0, 0.0),
    "tilt up": lambda amount, t: (1.0, 0.0, -amount * t, 0.0),
    "tilt down": lambda amount, t: (1.0, 0.0, amount * t, 0.0),
    "roll clockwise": lambda amount, t: (1.0, 0.0, 0.0, QUARTER_TURN * amount * t),
    "roll anticlockwise": lambda amount, t: (1.0, 0.0, 0.0, -QUARTER_TURN * amount * t),
}
"""Zoom, shift to the right, shift down and angle at time t in 0..1; each changes at a constant rate.

Left, right, up and down are the camera's ways, the content goes the other way; clockwise is the content's turn.
Source: zoom arXiv 2307.04725 section 4.3; for pan, tilt and roll the paper gives names alone, the rest is ours.
"""
MOTIONS = tuple(_POSES)


def camera_path(motion: str, amount: float, num_frames: int) -> CameraPath:
    """The camera's path over a clip.

    Units: amount is the share by which a zoom enlarges, frame widths or heights of a pan or tilt, or quarter turns.
    Raises: SettingsError for an unknown motion, an amount out of range, or a single frame.
    """
    if motion not in _POSES:
        raise SettingsError(
            f"motion should be one of {', '.join(MOTIONS)}, found {shown(motion)}. Choose one of these."
        )
    if not LEAST_AMOUNT <= amount <= MOST_AMOUNT:
        raise SettingsError(
            f"amount should be from {LEAST_AMOUNT} to {MOST_AMOUNT:g}, found {amount}. 0.25 is a moderate motion."
        )
    if num_frames < 2:
        raise SettingsError(f"a camera motion needs clips of 2 frames or more, found {num_frames}. Raise num_frames.")
    poses = (_POSES[motion](amount, frame / (num_frames - 1)) for frame in range(num_frames))
    return CameraPath(*zip(*poses, strict=True))


def with_camera_motion(clips: TrainingClips, motion: str, amount: float) -> TrainingClips:
    """The same clips seen by a moving camera, from the source's pixels; not mirrored, captions as they were.

    Raises: SettingsError as `camera_path`; TrainingDataError for clips that already have a camera motion.
    """
    if clips.camera_motion is not None:
        raise TrainingDataError(
            f"expected clips as they were taken, found clips with the camera motion {clips.camera_motion}. "
            "Connect Load Training Clips directly, and train one MotionLoRA for each motion."
        )
    moved = tuple(_moved(clip, motion, amount) for clip in clips.clips)
    _warn_of_enlarged(moved, motion)
    return replace(clips, clips=moved, flip=False, camera_motion=motion)


def _moved(clip: TrainingClip, motion: str, amount: float) -> TrainingClip:
    return replace(clip, name=f"{clip.name} ({motion})", camera=camera_path(motion, amount, clip.num_frames))


def _warn_of_enlarged(clips: tuple[TrainingClip, ...], motion: str) -> None:
    enlarged = [clip.enlargement for clip in clips if clip.enlargement > 1]
    if enlarged:
        log.warning(
            "%d of %d clips are enlarged up to %.2f times for %s, which looks soft. "
            "Larger videos, a smaller amount, or a smaller width and height would keep them sharp.",
            len(enlarged),
            len(clips),
            max(enlarged),
            motion,
        )
