"""What can be measured of a toy clip in closed form: which way it goes, how fast, how steadily, and how it looks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .video_domain import SCAN_LINES
from .waves import CYCLES_PER_FRAME, HEADINGS, LENGTHS, SIDE, Waves

STEADY = 0.8
"""Steadiness from which a clip counts as moving: seven steps drawn at random reach it once in a hundred clips."""

NAMES = (
    "axis_is_right",
    "heading_is_right",
    "goes_as_told",
    "moves_as_told",
    "speed",
    "steadiness",
    "darkest",
    "scan_lines",
    "change",
)


@dataclass(frozen=True)
class ClipMeasures:
    """One clip."""

    axis_is_right: bool
    """The strongest of all waves in it lies along the caption's way and has its length."""
    heading_is_right: bool
    """The steep sides face the caption's way, told from single frames."""
    speed: float
    """Along the caption's way, in units of the law's speed: 1 is right, 0 stands still, -1 goes backwards."""
    steadiness: float
    """From 0, frames that have nothing to do with each other, to 1, the same step from each frame to the next."""
    darkest: float
    """Level of the darkest tenth of the pixels."""
    scan_lines: float
    """How strong they are: 1 as in the video domain."""
    change: float
    """Mean absolute difference between neighbouring frames."""

    @property
    def goes_as_told(self) -> bool:
        """The right way, within half of the right speed: one in eight of clips whose steps are drawn at random."""
        return self.axis_is_right and 0.5 <= self.speed <= 1.5

    @property
    def moves_as_told(self) -> bool:
        """The same, and steadily."""
        return self.goes_as_told and self.steadiness >= STEADY


def measure(levels: Tensor, told: Waves) -> ClipMeasures:
    """A clip by what its caption says. Shapes: levels `f h w`, in -1..1"""
    spectrum = torch.fft.fft2(levels.double())
    step = HEADINGS[told.heading]
    fundamental = _bin(spectrum, told.heading, told.length)
    advance, steadiness = _advance(fundamental)
    cycles = SIDE // LENGTHS[told.length]
    second = spectrum[:, 2 * cycles * step[1], 2 * cycles * step[0]]
    skew = (fundamental**2 * second.conj()).sum().imag
    darkest = levels.flatten().sort().values[: levels.numel() // 10].mean()
    return ClipMeasures(
        axis_is_right=_strongest(spectrum) == (told.length, abs(step[0])),
        heading_is_right=bool(skew < 0),
        speed=-advance / CYCLES_PER_FRAME,
        steadiness=steadiness,
        darkest=float(darkest),
        scan_lines=_share_of(SCAN_LINES, levels),
        change=float(levels.diff(dim=0).abs().mean()) if len(levels) > 1 else 0.0,
    )


def mean_measures(clips: Sequence[ClipMeasures]) -> dict[str, float]:
    """Means over clips; of what is true or false, the share for which it is true."""
    return {name: sum(float(getattr(clip, name)) for clip in clips) / len(clips) for name in NAMES}


def _bin(spectrum: Tensor, heading: str, length: str) -> Tensor:
    """The wave along a heading, frame by frame. Shapes: `f h w` -> `f`, complex"""
    step, cycles = HEADINGS[heading], SIDE // LENGTHS[length]
    return spectrum[:, cycles * step[1], cycles * step[0]]


def _advance(wave: Tensor) -> tuple[float, float]:
    """Cycles from each frame to the next, and how well the steps agree. Shapes: `f`, complex"""
    if len(wave) < 2:
        return 0.0, 0.0
    steps = wave[1:] * wave[:-1].conj()
    total = steps.sum()
    return float(total.angle()) / (2 * math.pi), float(total.abs() / steps.abs().sum().clamp(min=1e-12))


def _strongest(spectrum: Tensor) -> tuple[str, int]:
    """Length and axis (1: to the sides, 0: up and down) of the strongest wave."""
    power = {
        (length, abs(HEADINGS[heading][0])): float(_bin(spectrum, heading, length).abs().square().sum())
        for length in LENGTHS
        for heading in ("right", "down")
    }
    return max(power, key=lambda kind: power[kind])


def _share_of(template: Tensor, levels: Tensor) -> float:
    """Least squares: how many times a template is in the mean frame. Shapes: template `h w`, levels `f h w`"""
    plain = template - template.mean()
    return float((levels.mean(0) * plain).sum() / plain.square().sum())
