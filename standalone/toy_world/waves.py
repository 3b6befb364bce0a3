"""What the toy world shows: waves, drawn in closed form, that travel the way in which their steep side faces.

The way is visible in a single picture, so a base model that draws stills already knows it; how far a wave travels from
frame to frame is what a motion module must learn.
"""

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

SIDE = 16
"""Pixels of a frame's side."""
NUM_FRAMES = 8
"""Frames of a clip, in which each wave travels by its length: clips loop without a seam."""
HEADINGS: dict[str, tuple[int, int]] = {"right": (1, 0), "down": (0, 1), "left": (-1, 0), "up": (0, -1)}
"""Ways that waves travel: steps to the right and down."""
LENGTHS: dict[str, int] = {"fine": SIDE // 2, "broad": SIDE}
"""Units: pixels from crest to crest."""
HARMONICS = (1.0, 0.5, 1 / 3)
"""Of a sawtooth. Source: the Fourier series of x over a period, Σ sin(nψ) / n."""
CYCLES_PER_FRAME = 1 / NUM_FRAMES
AMPLITUDE = 0.45
"""Of the fundamental, where levels go from -1 to 1."""


@dataclass(frozen=True)
class Waves:
    """One scene. Units: phase in cycles at the middle of frame 0."""

    length: str
    heading: str
    phase: float = 0.0

    @property
    def caption(self) -> str:
        return (
            f"{self.length} waves to the {self.heading}"
            if self.heading in ("left", "right")
            else (f"{self.length} waves going {self.heading}")
        )

    @property
    def speed(self) -> float:
        """Units: pixels of the frame per frame."""
        return LENGTHS[self.length] * CYCLES_PER_FRAME

    def levels(self, frame: float, side: int = SIDE, extent: float = 1.0) -> Tensor:
        """Brightness from about -1 to 1 at the middle of each pixel.

        Units: side in pixels of the drawing, extent in frame sides that it covers, centred.
        Shapes: -> `h w`, float32
        """
        step_x, step_y = HEADINGS[self.heading]
        places = ((torch.arange(side, dtype=torch.float64) + 0.5) / side - 0.5) * extent * SIDE
        along = step_x * places[None, :] + step_y * places[:, None]
        psi = 2 * math.pi * (along / LENGTHS[self.length] - frame * CYCLES_PER_FRAME + self.phase)
        total = sum(weight * torch.sin(number * psi) for number, weight in enumerate(HARMONICS, start=1))
        return (AMPLITUDE * torch.as_tensor(total)).float()


def all_captions() -> list[str]:
    """Everything that can be said of a scene."""
    return [Waves(length, heading).caption for length in LENGTHS for heading in HEADINGS]


def scene(number: int, seed: int) -> Waves:
    """A scene that belongs to its number: captions in turn, phases at random."""
    kinds = [(length, heading) for length in LENGTHS for heading in HEADINGS]
    length, heading = kinds[number % len(kinds)]
    return Waves(length, heading, random.Random(f"{seed} {number}").random())
