"""Prompts that change over the frames of a clip, from lines such as `0: a cat` and `8-12: a dog`."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType

from ..core.errors import SettingsError, shown

CURVES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "linear": lambda way: way,
        "slerp": lambda way: way,
        "hold": lambda way: 0.0,
        "ease": lambda way: way * way * (3 - 2 * way),
    }
)
"""How much of the next prompt there is after a part of the way to it.

`slerp` walks evenly too, but on an arc. Source of `ease`: the cubic of Hermite that is flat at both ends.
"""
INTERPOLATIONS = tuple(CURVES)
FEWEST_STEPS = 4
"""A travel in fewer steps from frame to frame is seen as a cut."""
_KEY = re.compile(r"^(?P<first>-?\d{1,9})\s*(?:-\s*(?P<last>-?\d{1,9}))?\s*[:\uff1a]\s*(?P<prompt>.*)$")
"""A frame or a range, a colon (of any keyboard), and whatever follows."""
_COMMENT = re.compile(r"^\s*#|\s\s#")
_QUOTED = re.compile(r"^[\"']\s*-?\d+\s*[\"']\s*:")
"""FizzNodes and AnimateDiff-Evolved: `"0": "a cat",`."""


@dataclass(frozen=True)
class Key:
    """A prompt at a frame, or held from a first to a last one, and the line that says so."""

    first: int
    last: int
    prompt: str
    line: int

    @property
    def frames(self) -> str:
        """Its frames, as they are written."""
        return f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True)
class Transition:
    """The way from the last frame of one key to the first of the next, which may lie behind the clip's end."""

    start: Key
    end: Key
    steps: int

    @property
    def changes(self) -> bool:
        """Whether there is anything to travel between."""
        return self.start.prompt != self.end.prompt


@dataclass(frozen=True)
class Blend:
    """What a frame is made of: a prompt, and a share from 0 to below 1 of the following one."""

    prompt: int
    following: int
    share: float


@dataclass(frozen=True)
class Travel:
    """A checked schedule. Keys are in the order of their frames and do not overlap; there is at least one."""

    keys: tuple[Key, ...]
    num_frames: int
    interpolation: str = "linear"
    closed_loop: bool = False

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """The distinct prompts, in the order in which they come."""
        return tuple(dict.fromkeys(key.prompt for key in self.keys))

    @cached_property
    def transitions(self) -> tuple[Transition, ...]:
        """Every way between neighbouring keys; in a closed loop also that from the last key to the first."""
        pairs = list(pairwise(self.keys))
        if self.closed_loop and len(self.keys) > 1:
            pairs.append((self.keys[-1], self._moved(self.keys[0], self.num_frames)))
        return tuple(Transition(start, end, end.first - start.last) for start, end in pairs)

    @property
    def cuts(self) -> tuple[Transition, ...]:
        """The transitions that are too short to be seen as a travel; there are none where prompts only hold."""
        short = (way for way in self.transitions if way.changes and way.steps < FEWEST_STEPS)
        return () if self.interpolation == "hold" else tuple(short)

    @cached_property
    def blends(self) -> tuple[Blend, ...]:
        """What each frame is made of."""
        by_frame = dict(self._held())
        for way in self.transitions:
            first, second = self.prompts.index(way.start.prompt), self.prompts.index(way.end.prompt)
            for step in range(1, way.steps):
                share = CURVES[self.interpolation](step / way.steps) if way.changes else 0.0
                by_frame[(way.start.last + step) % self.num_frames] = Blend(first, second, share)
        return tuple(by_frame[frame] for frame in range(self.num_frames))

    def weights(self, prompt: int) -> list[float]:
        """How much of a prompt there is in each frame; over all prompts they add up to 1."""
        return [
            (1 - blend.share) * (blend.prompt == prompt) + blend.share * (blend.following == prompt)
            for blend in self.blends
        ]

    def _held(self) -> Iterator[tuple[int, Blend]]:
        """The frames that lie in a key. Before the first and after the last one, an open travel holds these."""
        keys = list(self.keys)
        if not self.closed_loop or len(keys) == 1:
            keys[0] = replace(keys[0], first=0)
            keys[-1] = replace(keys[-1], last=self.num_frames - 1)
        for key in keys:
            index = self.prompts.index(key.prompt)
            yield from ((frame, Blend(index, index, 0.0)) for frame in range(key.first, key.last + 1))

    @staticmethod
    def _moved(key: Key, frames: int) -> Key:
        return replace(key, first=key.first + frames, last=key.last + frames)


def parse_travel(
    text: str,
    num_frames: int,
    interpolation: str = "linear",
    prepend: str = "",
    append: str = "",
    closed_loop: bool = False,
) -> Travel:
    """The travel that a text describes, with `prepend` in front of every prompt and `append` behind it.

    Raises: SettingsError, with the number of the line, if a line is unreadable, lies outside the clip, or speaks of
    frames that another one speaks of; and if there is no line.
    """
    if interpolation not in CURVES:
        raise SettingsError(f"interpolation is {interpolation!r}; expected one of {', '.join(INTERPOLATIONS)}.")
    lines = ((number, _COMMENT.split(line, maxsplit=1)[0].strip()) for number, line in enumerate(text.splitlines(), 1))
    keys = [_key(line, number, num_frames) for number, line in lines if line]
    if not keys:
        raise SettingsError("the prompts have no line. Write one `frame: prompt` a line, such as `0: a cat`.")
    keys.sort(key=lambda key: key.first)
    _check_apart(keys)
    whole = (replace(key, prompt=joined(prepend, key.prompt, append)) for key in keys)
    return Travel(tuple(whole), num_frames, interpolation, closed_loop)


def joined(prepend: str, prompt: str, append: str) -> str:
    """The three texts with commas between those that are not empty; the prompt as it is where the others are."""
    parts = (prepend.strip().rstrip(",").rstrip(), prompt, append.strip().lstrip(",").lstrip())
    return ", ".join(part for part in parts if part)


def _key(line: str, number: int, num_frames: int) -> Key:
    found = _KEY.match(line)
    if found is None:
        raise SettingsError(
            f"line {number}: expected `frame: prompt`, such as `0: a cat` or `8-12: a dog`, found `{shown(line)}`. "
            f"{_advice(line)}"
        )
    first = _frame(int(found["first"]), number, num_frames)
    last = first if found["last"] is None else _frame(int(found["last"]), number, num_frames)
    if last < first:
        raise SettingsError(
            f"line {number}: the range {first}-{last} runs backwards. Write `{last}-{first}`; "
            "to travel over the end of the clip, use two lines and closed_loop."
        )
    return Key(first, last, found["prompt"], number)


def _advice(line: str) -> str:
    if _QUOTED.match(line):
        return "Leave out the quotes, and the comma at the end."
    return "Write the frame and a colon in front, keep each prompt on one line, or make it a comment with #."


def _frame(frame: int, number: int, num_frames: int) -> int:
    """The frame from the start of the clip; negative ones count from its end."""
    if not -num_frames <= frame < num_frames:
        enough = max(frame + 1, -frame)
        raise SettingsError(
            f"line {number}: frame {frame} is not in the clip, which has frames 0 to {num_frames - 1} "
            f"(from its end, -{num_frames} to -1). Choose one of these, or set num_frames to {enough}."
        )
    return frame % num_frames


def _check_apart(keys: Sequence[Key]) -> None:
    for first, second in pairwise(keys):
        if second.first <= first.last:
            lines = sorted((first.line, second.line))
            raise SettingsError(
                f"line {lines[1]}: frame {second.first} has a prompt in line {lines[0]} already "
                f"({first.frames} and {second.frames}). Give each frame one prompt: change or remove one of the lines."
            )
