"""A value that changes over the steps of sampling, from `0: 1, 0.5: 0.2`."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..core.errors import SettingsError

_POINT = re.compile(r"^\s*(?P<percent>[^:\s]+)\s*:\s*(?P<value>\S+)\s*$")


@dataclass(frozen=True)
class PercentSchedule:
    """Values at shares of the sampling, and straight lines between them.

    A share is one of noise levels, as ComfyUI's `start_percent` is: 0 at the highest and 1 at the lowest, wherever the
    steps lie.
    """

    points: tuple[tuple[float, float], ...]

    @property
    def is_constant(self) -> bool:
        """Whether it has one value all along."""
        return len({value for _, value in self.points}) == 1

    def at(self, percent: float) -> float:
        """The value at a share of the sampling; before the first point and after the last, that of the point."""
        percents = [point for point, _ in self.points]
        after = bisect_right(percents, percent)
        if after == 0 or after == len(self.points):
            return self.points[max(after - 1, 0)][1]
        (first, start), (last, end) = self.points[after - 1], self.points[after]
        return start + (end - start) * (percent - first) / (last - first)


def parse_percent_schedule(text: str, name: str) -> PercentSchedule | None:
    """The schedule in a widget's text, None if the text is empty. `name` is the widget's, for messages.

    Raises: SettingsError if a point is none, lies outside the sampling, or comes twice.
    """
    entries = [entry for entry in re.split(r"[,\n]", text) if entry.strip()]
    if not entries:
        return None
    points = sorted(_point(entry, name) for entry in entries)
    _check_distinct(points, name)
    return PercentSchedule(tuple(points))


def _point(entry: str, name: str) -> tuple[float, float]:
    found = _POINT.match(entry)
    try:
        percent, value = (float(found["percent"]), float(found["value"])) if found else (-1.0, 0.0)
    except ValueError:
        percent, value = -1.0, 0.0
    if not 0 <= percent <= 1 or not abs(value) < float("inf"):
        raise SettingsError(
            f"{name}: expected points such as `0: 1, 0.5: 0.2`, a share of the sampling from 0 to 1 and a value, "
            f"found {entry.strip()!r}."
        )
    return percent, value


def _check_distinct(points: Sequence[tuple[float, float]], name: str) -> None:
    for (first, _), (second, _) in pairwise(points):
        if first == second:
            raise SettingsError(f"{name}: {first:g} stands in it twice. Give each share of the sampling one value.")
