"""All measures of a clip, and what they say in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from .clip_scores import ClipScores
from .measures import FrameChange, Join, Seams, diagonal_share

STILL = 0.02
"""Per cent of the diagonal a frame: a seventh of a pixel in 512×512, less than anyone sees."""


@dataclass(frozen=True)
class AnimationMeasures:
    """What was measured of one clip."""

    height: int
    width: int
    scores: ClipScores
    changes: Sequence[FrameChange]
    """One for each frame and the next."""
    seams: Seams | None
    seams_reason: str
    """Why there are none."""
    loop: Join | None
    """The step from the last frame to the first beside the median of all others; None if it was not asked for."""
    notes: tuple[str, ...] = ()

    @property
    def motion(self) -> float:
        """Mean motion. Units: per cent of the frame's diagonal from a frame to the next"""
        return diagonal_share(self.motion_pixels, self.height, self.width)

    @property
    def motion_pixels(self) -> float:
        return fmean(change.motion for change in self.changes)

    @property
    def motions(self) -> list[float]:
        """By pair of frames, in the units of `motion`."""
        return [diagonal_share(change.motion, self.height, self.width) for change in self.changes]


def describe(measures: AnimationMeasures) -> str:
    """The report: a fact a line."""
    return "\n".join(_facts(measures))


def _facts(measures: AnimationMeasures) -> Iterator[str]:
    scores, changes = measures.scores, measures.changes
    yield f"{len(changes) + 1} frames, {measures.width}×{measures.height} pixels"
    yield f"text alignment: {scores.mean_text:.2f} of 100, frames with the prompt"
    yield f"domain similarity: {_domain(scores)}"
    yield (
        f"motion smoothness: {scores.mean_smoothness:.2f} of 100, each frame with the next; "
        f"motion: {measures.motion:.3f} % of the diagonal a frame ({measures.motion_pixels:.2f} pixels)"
    )
    if measures.motion < STILL:
        yield "The clip stands still, and any still clip is smooth: its smoothness says nothing."
    yield f"flicker: {_flicker(changes)}"
    yield f"seams: {_seams(measures)}"
    yield f"loop: {_loop(measures)}"
    yield from measures.notes


def _domain(scores: ClipScores) -> str:
    if scores.domain:
        return f"{scores.mean_domain:.2f} of 100, frames with the reference images"
    return (
        "NaN, because no reference_images are connected. Connect still images that the base model makes of the prompt, "
        "without a motion module."
    )


def _flicker(changes: Sequence[FrameChange]) -> str:
    residual, detail = fmean(each.residual for each in changes), fmean(each.detail for each in changes)
    brightness = fmean(abs(each.brightness) for each in changes)
    return (
        f"{residual:.2f} % of the brightness range changes a frame without moving; "
        f"{brightness:.2f} % as the whole picture's brightness, {detail:.2f} % in fine detail"
    )


def _seams(measures: AnimationMeasures) -> str:
    seams = measures.seams
    if seams is None:
        return measures.seams_reason
    places = "1 place" if len(seams.pairs) == 1 else f"{len(seams.pairs)} places"
    return (
        f"{seams.mean.residual:.2f} times the usual residual and {seams.mean.motion:.2f} times the usual motion at "
        f"{places} where windows begin or end (1: nothing shows); most, {seams.worst_residual:.2f}, between frames "
        f"{seams.worst} and {seams.worst + 1}"
    )


def _loop(measures: AnimationMeasures) -> str:
    if measures.loop is None:
        return "not measured; set closed_loop for a clip whose last frame meets its first"
    return (
        f"from the last frame to the first {measures.loop.residual:.2f} times the usual residual and "
        f"{measures.loop.motion:.2f} times the usual motion (1: it closes), CLIP {measures.scores.loop:.2f} of 100"
    )
