"""The frames of a clip at which images stand: `0, 8, -1` or `spread`, and what an encoder sees at all frames."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..core.errors import SettingsError, shown

SPREAD = "spread"
"""Images evenly from the first frame to the last."""
_FRAME = re.compile(r"[+-]?[0-9]{1,9}")


@dataclass(frozen=True)
class Keyframes:
    """The frame of each image, in the order of the images. Negative ones count from the end of the clip."""

    frames: tuple[int, ...] = ()
    """Empty: as many as there are images, spread evenly."""

    def check_images(self, num_images: int) -> None:
        """Raises: SettingsError unless there is an image for each frame."""
        if self.frames and len(self.frames) != num_images:
            raise SettingsError(
                f"frames names {_count(len(self.frames), 'frame')} ({_listed(self.frames)}), and "
                f"{_count(num_images, 'image')} came with it. Give as many images as frames, as one batch in the order "
                f"of frames, or set frames to {SPREAD}."
            )

    def frames_of(self, num_images: int, num_frames: int) -> list[int]:
        """Where each image stands in a clip, counted from its start.

        Raises: SettingsError if images and frames differ in number, or a frame is outside the clip or comes twice.
        """
        self.check_images(num_images)
        places = list(self.frames) or _spread(num_images, num_frames)
        outside = [frame for frame in places if not -num_frames <= frame < num_frames]
        if outside:
            raise SettingsError(
                f"frames: {outside[0]} is not in the clip, which has frames 0 to {num_frames - 1} (from its end, "
                f"-{num_frames} to -1). Choose one of these, or make the clip longer (batch_size of the latent)."
            )
        counted = [frame % num_frames for frame in places]
        _check_once(counted, f" in a clip of {num_frames} frames ({_listed(places)})")
        return counted


def parse_keyframes(text: str) -> Keyframes:
    """The keyframes in a widget's text.

    Raises: SettingsError if it is empty, an entry is no whole number, or a frame stands in it twice.
    """
    entries = re.split(r"[\s,;]+", text.strip(" \t\r\n,;"))
    if [entry.lower() for entry in entries] == [SPREAD]:
        return Keyframes()
    for entry in entries:
        if not _FRAME.fullmatch(entry):
            raise SettingsError(
                f"frames: expected numbers such as `0, 8, -1`, one for each image, or `{SPREAD}`, found "
                f"{shown(entry)!r}. The first frame is 0, and -1 is the last."
            )
    frames = [int(entry) for entry in entries]
    _check_once(frames)
    return Keyframes(tuple(frames))


def seen_at(frames: Sequence[int], images: Tensor, keyframes: Sequence[int]) -> Tensor:
    """What an encoder sees at some frames of a clip: at keyframes an image and a mask of 1, elsewhere zeros.

    Shapes: images `k c h w`, one for each keyframe -> `f (c + 1) h w`
    Source: arXiv 2311.16933 section 3.2; guoyww/AnimateDiff pipeline_animation.py.
    """
    seen = images.new_zeros(len(frames), images.shape[1] + 1, *images.shape[2:])
    for place, frame in enumerate(frames):
        if frame in keyframes:
            seen[place, :-1] = images[keyframes.index(frame)]
            seen[place, -1] = 1
    return seen


def _spread(num_images: int, num_frames: int) -> list[int]:
    """Whole frames nearest to even steps; a single image stands at the first."""
    if num_images > num_frames:
        raise SettingsError(
            f"frames is {SPREAD}, and {num_images} images do not fit into {_count(num_frames, 'frame')}. "
            "Give fewer images, or make the clip longer (batch_size of the latent)."
        )
    steps = max(num_images - 1, 1)
    return [(2 * image * (num_frames - 1) + steps) // (2 * steps) for image in range(num_images)]


def _check_once(frames: Sequence[int], where: str = "") -> None:
    twice = [frame for frame in frames if frames.count(frame) > 1]
    if twice:
        raise SettingsError(f"frames: frame {twice[0]} comes twice{where}. Give each image a frame of its own.")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _listed(frames: Sequence[int]) -> str:
    return ", ".join(map(str, frames))
