"""What the pictures of results are drawn on: one width, one set of colours, one font."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from PIL import Image, ImageDraw, ImageFont

WIDTH = 640
"""Units in which everything is laid out."""
SCALE = 2
"""Pixels to a unit, so that the picture stays sharp in a wide node."""
MARGIN = 18
BACKGROUND, TEXT, FAINT, WARNING = "#1b1c20", "#e4e6eb", "#8b909c", "#ffb454"
TICK_STEPS = (1, 2, 4, 8, 16, 20, 50, 100, 200, 500, 1000)
MOST_TICKS = 17
MOST_DOTS = 40
"""Points of a curve that are marked one by one; of more, the line is enough."""

Box = tuple[float, float, float, float]
Point = tuple[float, float]


@dataclass(frozen=True)
class Page:
    """An image, in units of the layout."""

    image: Image.Image

    @cached_property
    def draw(self) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self.image)

    def box(self, box: Box, color: str, radius: float = 0) -> None:
        """A filled box: left, top, right, bottom."""
        left, top, right, bottom = (round(edge * SCALE) for edge in box)
        corners = (left, top, max(left, right - 1), max(top, bottom - 1))
        self.draw.rounded_rectangle(corners, radius * SCALE, fill=color)

    def text(self, x: float, y: float, text: str, color: str, size: float = 12, anchor: str = "lm") -> float:
        """A line of text, and where it ends if it begins at x.

        `anchor` as in Pillow: its left, middle or right side at x, its middle at y.
        """
        self.draw.text((x * SCALE, y * SCALE), text, fill=color, font=_font(size), anchor=anchor)
        return x + width_of(text, size)

    def diamond(self, x: float, y: float, size: float, color: str) -> None:
        """A filled diamond around a point."""
        self._polygon(((x - size, y), (x, y - size), (x + size, y), (x, y + size)), color)

    def sign(self, x: float, top: float, size: float) -> None:
        """A warning triangle that hangs below a point."""
        self._polygon(((x, top), (x - size, top + size * 1.7), (x + size, top + size * 1.7)), WARNING)
        self.box((x - 0.9, top + size * 0.6, x + 0.9, top + size * 1.15), BACKGROUND)
        self.box((x - 0.9, top + size * 1.3, x + 0.9, top + size * 1.5), BACKGROUND)

    def curve(self, points: Sequence[Point], color: str) -> None:
        """A line through points, with a dot on each if they are few."""
        places = _pixels(points)
        self.draw.line(places, fill=color, width=2 * SCALE, joint="curve")
        if len(places) <= MOST_DOTS:
            for x, y in places:
                self.draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=color)

    def dashes(self, x: float, top: float, bottom: float, color: str) -> None:
        """A broken line from top to bottom."""
        for start in range(round(top), round(bottom), 6):
            self.box((x - 0.75, start, x + 0.75, min(start + 3.5, bottom)), color)

    def _polygon(self, corners: Sequence[Point], color: str) -> None:
        self.draw.polygon(_pixels(corners), fill=color, outline=BACKGROUND)


def blank_page(height: float) -> Page:
    """An empty page, as high as that."""
    return Page(Image.new("RGB", (WIDTH * SCALE, round(height * SCALE)), BACKGROUND))


def tick_step(num_frames: int, otherwise: int) -> int:
    """How many frames lie between two that are numbered, with room for their numbers; `otherwise` if none is enough."""
    return next((step for step in TICK_STEPS if num_frames / step <= MOST_TICKS), otherwise)


def width_of(text: str, size: float) -> float:
    """The room that a line of text takes."""
    return _font(size).getlength(text) / SCALE


def shortened(text: str, room: float, size: float) -> str:
    """A text that fits into so many units, cut with dots where it must be."""
    text = " ".join(text.split())
    if width_of(text, size) <= room:
        return text
    length = len(text)
    while length and width_of(f"{text[:length]}…", size) > room:
        length -= 1
    return f"{text[:length].rstrip(' ,')}…"


def _pixels(points: Sequence[Point]) -> list[Point]:
    return [(x * SCALE, y * SCALE) for x, y in points]


@cache
def _font(size: float) -> Any:
    """Pillow's own font, which needs no file on the user's machine."""
    return ImageFont.load_default(size * SCALE)
