"""A value for each frame, from `1, 0.8, 0.6` or from lines such as `8: 0.5`."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import SettingsError


@dataclass(frozen=True)
class FrameValues:
    """A list of values, one for each frame, or values at some frames and straight lines between them."""

    values: tuple[float, ...] = ()
    keys: tuple[tuple[int, float], ...] = ()

    def for_frames(self, num_frames: int, name: str, resample: bool = False) -> list[float]:
        """The value of every frame of a clip. Before the first key and after the last it is that of the key.

        With `resample`, a list of another length is stretched to the clip.
        Raises: SettingsError if the list has another length, or a key lies outside the clip.
        """
        if self.values and resample:
            between = stretch(len(self.values), num_frames, range(num_frames))
            values = torch.tensor(self.values, dtype=torch.float64)
            return [float(value) for value in torch.lerp(values[between.before], values[between.after], between.way)]
        if self.values and len(self.values) != num_frames:
            raise SettingsError(
                f"{name}: expected a value for each of the {num_frames} frames, found {len(self.values)}. "
                "Give as many, or lines such as `8: 0.5`, which reach from key to key."
            )
        outside = [frame for frame, _ in self.keys if frame >= num_frames]
        if outside:
            raise SettingsError(
                f"{name}: the clip has frames 0 to {num_frames - 1}, and a line is for frame {outside[0]}. "
                "Give a frame of the clip."
            )
        return list(self.values) if self.values else [self._between(frame) for frame in range(num_frames)]

    def _between(self, frame: int) -> float:
        after = bisect_right([key for key, _ in self.keys], frame)
        if after == 0 or after == len(self.keys):
            return self.keys[max(after - 1, 0)][1]
        (first, start), (last, end) = self.keys[after - 1], self.keys[after]
        return start + (end - start) * (frame - first) / (last - first)


@dataclass(frozen=True)
class Stretch:
    """Where frames of a clip lie between values at even steps, first to last: the value before, the one after, and how
    far the frame is on the way. Shapes: `f` each
    """

    before: list[int]
    after: list[int]
    way: Tensor


def stretch(num_values: int, num_frames: int, frames: Sequence[int]) -> Stretch:
    """Where some frames of a clip lie between so many values that are stretched to it."""
    places = torch.tensor(frames, dtype=torch.float64) * ((num_values - 1) / max(num_frames - 1, 1))
    before = [int(place) for place in places]
    after = [min(place + 1, num_values - 1) for place in before]
    return Stretch(before, after, places - torch.tensor(before))


def parse_frame_values(text: str, name: str) -> FrameValues | None:
    """The values in a widget's text, None if it is empty. `name` is the widget's, for messages.

    Raises: SettingsError if an entry is no number, or a frame comes twice.
    """
    entries = [entry.strip() for entry in re.split(r"[,\n]", text) if entry.strip()]
    if not entries:
        return None
    if not any(":" in entry for entry in entries):
        return FrameValues(tuple(_number(entry, entry, name) for entry in entries))
    keys = sorted(_key(entry, name) for entry in entries)
    frames = [frame for frame, _ in keys]
    twice = [frame for frame in frames if frames.count(frame) > 1]
    if twice:
        raise SettingsError(f"{name}: frame {twice[0]} stands in it twice. Give each frame one value.")
    return FrameValues(keys=tuple(keys))


def _key(entry: str, name: str) -> tuple[int, float]:
    frame, separator, value = entry.partition(":")
    if not separator or not re.fullmatch(r"[0-9]{1,9}", frame.strip()):
        raise SettingsError(_unreadable(entry, name))
    return int(frame), _number(value, entry, name)


def _number(text: str, entry: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise SettingsError(_unreadable(entry, name))
    return value


def _unreadable(entry: str, name: str) -> str:
    return (
        f"{name}: expected numbers such as `1, 0.8, 0.6`, one for each frame, or lines such as `8: 0.5`, a frame and "
        f"its value; found {entry!r}."
    )
