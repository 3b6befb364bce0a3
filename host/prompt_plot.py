"""A picture of a prompt travel: a band for each prompt, as high in each frame as the prompt counts there."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..sampling.prompt_travel import FEWEST_STEPS, Key, Travel

WIDTH = 640
"""Units in which everything is laid out."""
SCALE = 2
"""Pixels to a unit, so that the picture stays sharp in a wide node."""
MARGIN, LABEL, LINE, SIGN = 18, 20, 18, 16
HIGH, LOW = 34, 18
"""Height of a band, of a few and of many."""
FEW_BANDS, MOST_BANDS = 6, 20
MOST_NOTES = 4
BACKGROUND, TRACK, TEXT, FAINT, WARNING = "#1b1c20", "#26282e", "#e4e6eb", "#8b909c", "#ffb454"
COLORS = ("#6ea8fe", "#ff8f6b", "#6fd69a", "#c79bff", "#f2cf5b", "#5fd0d8", "#ff86b3", "#b7c26a")
TICK_STEPS = (1, 2, 4, 8, 16, 20, 50, 100, 200, 500, 1000)
MOST_TICKS = 17

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Page:
    """An image, in units of the layout."""

    draw: ImageDraw.ImageDraw

    def box(self, box: Box, color: str, radius: float = 0) -> None:
        """A filled box."""
        left, top, right, bottom = (round(edge * SCALE) for edge in box)
        corners = (left, top, max(left, right - 1), max(top, bottom - 1))
        self.draw.rounded_rectangle(corners, radius * SCALE, fill=color)

    def text(self, x: float, y: float, text: str, color: str, size: float = 12, anchor: str = "lm") -> None:
        """A line of text. `anchor` as in Pillow: its left, middle or right side at x, its middle at y."""
        self.draw.text((x * SCALE, y * SCALE), text, fill=color, font=font(size), anchor=anchor)

    def diamond(self, x: float, y: float, size: float, color: str) -> None:
        """A filled diamond around a point."""
        corners = ((x - size, y), (x, y - size), (x + size, y), (x, y + size))
        self.draw.polygon([(left * SCALE, top * SCALE) for left, top in corners], fill=color, outline=BACKGROUND)

    def sign(self, x: float, top: float, size: float) -> None:
        """A warning triangle that hangs below a point."""
        corners = ((x, top), (x - size, top + size * 1.7), (x + size, top + size * 1.7))
        self.draw.polygon([(left * SCALE, down * SCALE) for left, down in corners], fill=WARNING, outline=BACKGROUND)
        self.box((x - 0.9, top + size * 0.6, x + 0.9, top + size * 1.15), BACKGROUND)
        self.box((x - 0.9, top + size * 1.3, x + 0.9, top + size * 1.5), BACKGROUND)


@dataclass(frozen=True)
class Axis:
    """Where frames lie from left to right."""

    num_frames: int

    @property
    def frame_width(self) -> float:
        """Units from one frame to the next."""
        return (WIDTH - 2 * MARGIN) / self.num_frames

    def left(self, frame: float) -> float:
        """Where a frame begins."""
        return MARGIN + frame * self.frame_width

    def middle(self, frame: float) -> float:
        """The middle of a frame."""
        return self.left(frame + 0.5)

    @property
    def ticks(self) -> range:
        """Frames that are numbered: evenly spaced, with room for their numbers."""
        step = next((step for step in TICK_STEPS if self.num_frames / step <= MOST_TICKS), self.num_frames)
        return range(0, self.num_frames, step)


@dataclass(frozen=True)
class Bands:
    """Where the bands lie from top to bottom, each below its label."""

    count: int

    @property
    def height(self) -> float:
        """Of one band."""
        return HIGH if self.count <= FEW_BANDS else LOW

    def top(self, index: int) -> float:
        """Where a band's label begins."""
        return MARGIN + LINE + 8 + index * (LABEL + self.height * 1.3)

    def span(self, index: int) -> tuple[float, float]:
        """Top and bottom of the band itself."""
        top = self.top(index) + LABEL
        return top, top + self.height

    @property
    def bottom(self) -> float:
        """Where the last one ends."""
        return self.span(self.count - 1)[1]


def draw_travel(travel: Travel) -> Image.Image:
    """The picture, 640 units wide at two pixels a unit."""
    notes = list(_notes(travel))
    bands = Bands(min(len(travel.prompts), MOST_BANDS))
    foot = bands.bottom + (SIGN if travel.cuts else 0)
    height = foot + LINE + 6 + len(notes) * LINE + MARGIN
    image = Image.new("RGB", (WIDTH * SCALE, round(height * SCALE)), BACKGROUND)
    page, axis = Page(ImageDraw.Draw(image)), Axis(travel.num_frames)
    _draw_title(page, travel)
    for index in range(bands.count):
        _draw_label(page, travel, index, bands.top(index) + 8)
        _draw_band(page, axis, travel, index, *bands.span(index))
    for frame in axis.ticks:
        page.text(axis.middle(frame), foot + 14, str(frame), FAINT, 11, "mm")
    _draw_cuts(page, axis, travel, bands)
    for index, (text, color) in enumerate(notes):
        page.text(MARGIN, foot + LINE + 16 + index * LINE, text, color)
    return image


def _draw_title(page: Page, travel: Travel) -> None:
    frames = "1 frame" if travel.num_frames == 1 else f"{travel.num_frames} frames"
    loop = ", closed loop" if travel.closed_loop else ""
    page.text(MARGIN, MARGIN + 4, "Prompt Travel", TEXT, 15)
    page.text(WIDTH - MARGIN, MARGIN + 4, f"{frames}, {travel.interpolation}{loop}", FAINT, 12, "rm")


def _draw_label(page: Page, travel: Travel, index: int, y: float) -> None:
    """A prompt on the left, and the frames that it has a key at on the right."""
    places = shortened(", ".join(key.frames for key in _keys(travel, index)), 150, 11)
    page.text(WIDTH - MARGIN, y, places, FAINT, 11, "rm")
    room = WIDTH - 2 * MARGIN - 12 - font(11).getlength(places) / SCALE
    page.text(MARGIN, y, shortened(travel.prompts[index] or "(no words)", room, 13), _color(index), 13)


def _draw_band(page: Page, axis: Axis, travel: Travel, index: int, top: float, bottom: float) -> None:
    page.box((MARGIN, top, WIDTH - MARGIN, bottom), TRACK, 3)
    gap = 1 if axis.frame_width > 5 else 0
    for frame, weight in enumerate(travel.weights(index)):
        if weight > 0:
            high = bottom - weight * (bottom - top)
            page.box((axis.left(frame), high, axis.left(frame + 1) - gap, bottom), _color(index))
    for key in _keys(travel, index):
        _draw_key(page, axis, key, top + 8)


def _keys(travel: Travel, index: int) -> list[Key]:
    return [key for key in travel.keys if key.prompt == travel.prompts[index]]


def _color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def _draw_key(page: Page, axis: Axis, key: Key, y: float) -> None:
    """A diamond on a frame, or one on each end of a range and a line between."""
    page.box((axis.middle(key.first), y - 1, axis.middle(key.last), y + 1), TEXT)
    for frame in {key.first, key.last}:
        page.diamond(axis.middle(frame), y, 4.5, "#ffffff")


def _draw_cuts(page: Page, axis: Axis, travel: Travel, bands: Bands) -> None:
    """A line in the middle of each transition that is too short, through its two bands, with a sign below all."""
    for way in travel.cuts:
        middle = way.start.last + way.steps / 2
        is_behind_the_end = middle > travel.num_frames - 0.5
        x = axis.middle(middle - travel.num_frames if is_behind_the_end else middle)
        for prompt in (way.start.prompt, way.end.prompt):
            index = travel.prompts.index(prompt)
            if index < bands.count:
                top, bottom = bands.span(index)
                page.box((x - 0.75, top, x + 0.75, bottom), WARNING)
        page.sign(x, bands.bottom + 2, 9)


def _notes(travel: Travel) -> Iterator[tuple[str, str]]:
    """Lines below the bands, with their colours."""
    more = len(travel.prompts) - MOST_BANDS
    if more > 0:
        yield f"and {more} more prompts", FAINT
    for way in travel.cuts[:MOST_NOTES]:
        end = way.end.first % travel.num_frames
        yield f"frame {way.start.last} to {end}: less than {FEWEST_STEPS} frames are seen as a cut", WARNING
    if len(travel.cuts) > MOST_NOTES:
        yield f"and {len(travel.cuts) - MOST_NOTES} more cuts", WARNING


def shortened(text: str, room: float, size: float) -> str:
    """A text that fits into so many units, cut with dots where it must be."""
    text = " ".join(text.split())
    if font(size).getlength(text) <= room * SCALE:
        return text
    length = len(text)
    while length and font(size).getlength(f"{text[:length]}…") > room * SCALE:
        length -= 1
    return f"{text[:length].rstrip(' ,')}…"


@cache
def font(size: float) -> Any:
    """Pillow's own font, which needs no file on the user's machine."""
    return ImageFont.load_default(size * SCALE)
