"""How clips are cut from videos: every number that a user may set, checked before a file is opened."""

from dataclasses import dataclass

from ...core.errors import SettingsError

LEAST_SIDE, MOST_SIDE, SIDE_STEP = 64, 4096, 8
MOST_FRAMES, MOST_STRIDE, MOST_CLIPS = 1024, 1000, 1000
MOST_SKIPPED = 0.5


@dataclass(frozen=True)
class ClipSettings:
    """A checked set of clip settings; the defaults are those of the published recipe.

    Units: num_frames and min_frames in frames of a clip, frame_stride in frames of the video, sizes in pixels.
    Raises: SettingsError for a value outside its range.
    Source: guoyww/AnimateDiff configs/training/v1/training.yaml for frames, stride and size.
    """

    num_frames: int = 16
    frame_stride: int = 4
    width: int = 256
    height: int = 256
    flip: bool = False
    clips_per_video: int = 1
    """Spread evenly, without overlap, as far as they fit; 0 cuts as many as fit."""
    aspect_buckets: bool = False
    """Each clip keeps its aspect, at about the area asked for."""
    min_frames: int = 0
    """Shorter videos give clips of a multiple of 4 frames, this many or more; 0 asks each video for num_frames."""
    skip_at_most: float = 0.0
    """Share of videos that may be left out because they are bad."""

    def __post_init__(self):
        _check_range("num_frames", self.num_frames, 2, MOST_FRAMES)
        _check_range("frame_stride", self.frame_stride, 1, MOST_STRIDE)
        _check_range("clips_per_video", self.clips_per_video, 0, MOST_CLIPS)
        _check_range("min_frames", self.min_frames, 0, self.num_frames)
        _check_range("skip_at_most", self.skip_at_most, 0.0, MOST_SKIPPED)
        for name in ("width", "height"):
            _check_side(name, getattr(self, name))


def _check_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # written so that NaN fails
        raise SettingsError(f"{name} should be from {least} to {most}, found {value}. Choose a value in that range.")


def _check_side(name: str, value: int) -> None:
    if not LEAST_SIDE <= value <= MOST_SIDE or value % SIDE_STEP:
        raise SettingsError(
            f"{name} should be a multiple of {SIDE_STEP} from {LEAST_SIDE} to {MOST_SIDE}, found {value}. "
            f"{min(MOST_SIDE, max(LEAST_SIDE, value // SIDE_STEP * SIDE_STEP))} would do."
        )
