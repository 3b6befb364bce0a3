"""A picture of a prompt travel: a band for each prompt, as high in each frame as the prompt counts there."""

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from ..sampling.prompt_travel import FEWEST_STEPS, Key, Travel
from .picture_page import FAINT, MARGIN, TEXT, WARNING, WIDTH, Page, blank_page, shortened, tick_step, width_of

LABEL, LINE, SIGN = 20, 18, 16
HIGH, LOW = 34, 18
"""Height of a band, of a few and of many."""
FEW_BANDS, MOST_BANDS = 6, 20
MOST_NOTES = 4
TRACK = "#26282e"
COLORS = ("#6ea8fe", "#ff8f6b", "#6fd69a", "#c79bff", "#f2cf5b", "#5fd0d8", "#ff86b3", "#b7c26a")


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
        return range(0, self.num_frames, tick_step(self.num_frames, self.num_frames))


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
    page, axis = blank_page(height), Axis(travel.num_frames)
    _draw_title(page, travel)
    for index in range(bands.count):
        _draw_label(page, travel, index, bands.top(index) + 8)
        _draw_band(page, axis, travel, index, *bands.span(index))
    for frame in axis.ticks:
        page.text(axis.middle(frame), foot + 14, str(frame), FAINT, 11, "mm")
    _draw_cuts(page, axis, travel, bands)
    for index, (text, color) in enumerate(notes):
        page.text(MARGIN, foot + LINE + 16 + index * LINE, text, color)
    return page.image


def _draw_title(page: Page, travel: Travel) -> None:
    frames = "1 frame" if travel.num_frames == 1 else f"{travel.num_frames} frames"
    loop = ", closed loop" if travel.closed_loop else ""
    page.text(MARGIN, MARGIN + 4, "Prompt Travel", TEXT, 15)
    page.text(WIDTH - MARGIN, MARGIN + 4, f"{frames}, {travel.interpolation}{loop}", FAINT, 12, "rm")


def _draw_label(page: Page, travel: Travel, index: int, y: float) -> None:
    """A prompt on the left, and the frames that it has a key at on the right."""
    places = shortened(", ".join(key.frames for key in _keys(travel, index)), 150, 11)
    page.text(WIDTH - MARGIN, y, places, FAINT, 11, "rm")
    room = WIDTH - 2 * MARGIN - 12 - width_of(places, 11)
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
