"""Seeds of single frames, from lines such as `5: 42` and `0-7: 42`."""

import re
from dataclasses import dataclass
from itertools import pairwise

from ..core.errors import SettingsError, shown

LARGEST_SEED = 0xFFFFFFFFFFFFFFFF
_ENTRY = re.compile(r"^(?P<first>\d{1,9})\s*(?:-\s*(?P<last>\d{1,9}))?\s*:\s*(?P<seed>\d{1,20})$", re.ASCII)


@dataclass(frozen=True, order=True)
class SeedOfFrames:
    """A first and a last frame, and the seed of these and of all between."""

    first: int
    last: int
    seed: int


@dataclass(frozen=True)
class FrameSeeds:
    """Ranges of frames with a seed of their own, in the order of their frames; none overlap."""

    ranges: tuple[SeedOfFrames, ...] = ()

    def seed_of(self, frame: int, seed: int) -> int:
        """The seed of a frame; `seed` is that of all others."""
        return next((each.seed for each in self.ranges if each.first <= frame <= each.last), seed)

    def check_clip(self, num_frames: int) -> None:
        """Raises: SettingsError if a range lies outside the clip."""
        if self.ranges and self.ranges[-1].last >= num_frames:
            raise SettingsError(
                f"seeds: the clip has frames 0 to {num_frames - 1}, and a line is for frame {self.ranges[-1].last}. "
                "Give frames of the clip."
            )


def parse_frame_seeds(text: str) -> FrameSeeds:
    """The seeds in a widget's text; there are none if it is empty.

    Raises: SettingsError if an entry is unreadable, a range runs backwards, or a frame has two seeds.
    """
    entries = [entry.strip() for entry in re.split(r"[,\n]", text) if entry.strip()]
    ranges = sorted(_range(entry) for entry in entries)
    for one, other in pairwise(ranges):
        if other.first <= one.last:
            raise SettingsError(f"seeds: frame {other.first} stands in them twice. Give each frame one seed.")
    return FrameSeeds(tuple(ranges))


def _range(entry: str) -> SeedOfFrames:
    found = _ENTRY.match(entry)
    if found is None or int(found["seed"]) > LARGEST_SEED:
        raise SettingsError(
            "seeds: expected lines such as `5: 42` or `0-7: 42`, a frame or a range and its seed from 0 to 2^64-1; "
            f"found {shown(entry)!r}."
        )
    first = int(found["first"])
    last = first if found["last"] is None else int(found["last"])
    if last < first:
        raise SettingsError(f"seeds: the range {first}-{last} runs backwards. Write `{last}-{first}`.")
    return SeedOfFrames(first, last, int(found["seed"]))
