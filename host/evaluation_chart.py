"""A picture of what was measured of a clip: a panel for each measure, over the clip's frames."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import floor, log10
from statistics import fmean

from PIL import Image

from ..sampling.animation_report import AnimationMeasures
from .picture_page import FAINT, MARGIN, TEXT, WARNING, WIDTH, Page, blank_page, tick_step

RIGHT, HEAD, FOOT = 44, 62, 34
PANEL, PANEL_TITLE, TRACK_HEIGHT = 94, 26, 82
INSET = 6
"""Between a track's edges and the lowest and highest value."""
TRACK, GRID, SEAM = "#22242a", "#363942", WARNING
BLUE, GREEN, ROSE = "#6ea8fe", "#6fd69a", "#ff86b3"
MOST_DASHES = 20
"""Seams that are drawn through a panel; more would hide the curve, and are marked at its edges."""
TICK = 7
ROUND = (1, 2, 3, 4, 5, 6, 8, 10)


@dataclass(frozen=True)
class Panel:
    """One curve."""

    name: str
    unit: str
    values: Sequence[float]
    """One for each frame and the next."""
    color: str
    low: float
    high: float
    """Values at the lower and upper edge."""

    def height_of(self, value: float) -> float:
        """Where a value lies below the upper edge of the panel's track."""
        return TRACK_HEIGHT - INSET - (value - self.low) / (self.high - self.low) * (TRACK_HEIGHT - 2 * INSET)

    @property
    def mean(self) -> str:
        return f"{fmean(self.values):.2f}"


def draw_measures(measures: AnimationMeasures) -> Image.Image:
    """The picture, 640 units wide at two pixels a unit."""
    panels = list(_panels(measures))
    height = HEAD + len(panels) * (PANEL_TITLE + PANEL) + FOOT
    page = blank_page(height)
    _draw_head(page, measures)
    for index, panel in enumerate(panels):
        _draw_panel(page, panel, HEAD + index * (PANEL_TITLE + PANEL), measures)
    _draw_frames(page, len(measures.changes), height - FOOT + 14)
    return page.image


def _panels(measures: AnimationMeasures) -> Iterator[Panel]:
    smooth = measures.scores.smoothness
    yield Panel("smoothness", "of 100, each frame with the next", smooth, BLUE, _floor(smooth), 100)
    motions = measures.motions
    yield Panel("motion", "% of the diagonal a frame", motions, GREEN, 0, _ceiling(motions, 0.1))
    residuals = [change.residual for change in measures.changes]
    yield Panel("residual", "% of the range changes without moving", residuals, ROSE, 0, _ceiling(residuals, 0.5))


def _draw_head(page: Page, measures: AnimationMeasures) -> None:
    page.text(MARGIN, 22, "Evaluate Animation", TEXT, 15)
    size = f"{len(measures.changes) + 1} frames, {measures.width} x {measures.height} pixels"
    page.text(WIDTH - MARGIN, 22, size, FAINT, 12, "rm")
    x = MARGIN
    for name, value, color in _scores(measures):
        x = page.text(x, 46, f"{name} ", color, 12)
        x = page.text(x, 46, value, TEXT, 12) + 16


def _scores(measures: AnimationMeasures) -> Iterator[tuple[str, str, str]]:
    """Name, value and the name's colour of what has no panel."""
    yield "text", f"{measures.scores.mean_text:.1f}", FAINT
    yield "domain", f"{measures.scores.mean_domain:.1f}" if measures.scores.domain else "no references", FAINT
    if measures.seams is not None:
        yield "seams", f"{measures.seams.mean.residual:.2f} times the residual elsewhere", SEAM
    if measures.loop is not None:
        yield "loop", f"{measures.loop.residual:.2f} times", FAINT


def _draw_panel(page: Page, panel: Panel, top: float, measures: AnimationMeasures) -> None:
    x = page.text(MARGIN, top + 13, panel.mean, panel.color, 15) + 8
    x = page.text(x, top + 13, panel.name, TEXT, 13) + 8
    page.text(x, top + 13, panel.unit, FAINT, 11)
    top += PANEL_TITLE
    page.box((MARGIN, top, WIDTH - RIGHT, top + TRACK_HEIGHT), TRACK)
    for value in (panel.low, (panel.low + panel.high) / 2, panel.high):
        y = top + panel.height_of(value)
        page.box((MARGIN, y - 0.5, WIDTH - RIGHT, y + 0.5), GRID)
        page.text(WIDTH - RIGHT + 6, y, f"{value:g}", FAINT, 11)
    _draw_seams(page, measures, top)
    count = len(panel.values)
    points = [(_place(pair + 0.5, count), top + panel.height_of(value)) for pair, value in enumerate(panel.values)]
    page.curve(points, panel.color)


def _draw_seams(page: Page, measures: AnimationMeasures, top: float) -> None:
    pairs = measures.seams.pairs if measures.seams is not None else ()
    for pair in pairs:
        x, bottom = _place(pair + 0.5, len(measures.changes)), top + TRACK_HEIGHT
        if len(pairs) <= MOST_DASHES:
            page.dashes(x, top, bottom, SEAM)
        else:
            page.box((x - 0.5, top, x + 0.5, top + TICK), SEAM)
            page.box((x - 0.5, bottom - TICK, x + 0.5, bottom), SEAM)


def _draw_frames(page: Page, pairs: int, y: float) -> None:
    for frame in range(0, pairs + 1, tick_step(pairs + 1, pairs)):
        page.text(_place(frame, pairs), y, str(frame), FAINT, 11, "mm")
    page.text(WIDTH - RIGHT + 6, y, "frame", FAINT, 11)


def _place(frame: float, pairs: int) -> float:
    """Where a frame lies from left to right; its change to the next lies halfway between the two."""
    return MARGIN + 10 + frame * (WIDTH - RIGHT - MARGIN - 20) / pairs


def _floor(values: Sequence[float]) -> float:
    """A round value below all of them, 100 at the top."""
    return 100 - _ceiling([100 - value for value in values], 1)


def _ceiling(values: Sequence[float], least: float) -> float:
    """A round value above all of them."""
    most = max(least, *values)
    power = 10.0 ** floor(log10(most))
    return next(round(digit * power, 6) for digit in ROUND if digit * power >= most * (1 - 1e-9))
