"""How one call runs a motion module that others share: what it adds to layers, and how much of motion it takes."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..core.protocols import LinearRunner, run_plainly


@dataclass(frozen=True, eq=False)
class View:
    """Frames of a clip that see each other alone, and what each takes from what it sees here.

    Of all views of a clip, the shares add up to one at every frame. Shapes: frames `w` (integers), shares `w`
    """

    frames: Tensor
    shares: Tensor


@dataclass(frozen=True)
class Adjustments:
    """What a call asks of one temporal transformer. At its defaults the transformer runs as if there were none."""

    run: LinearRunner = run_plainly
    """Runs each linear layer."""
    strength: Tensor | float = 1.0
    """How much of what the transformer gives is added to the features. Shapes: `(b f) 1 h w`, or one number"""
    attention_scale: Tensor | float = 1.0
    """Factor of what frames mean to each other before the softmax: above 1 attention is sharper, below 1 more even.

    Shapes: `(b f) 1 h w`, or one number
    """
    views: Sequence[View] = ()
    """Windows in which frames see each other, all of one length; without any, all frames of a clip do."""

    @property
    def adds_nothing(self) -> bool:
        """Whether the features stay as they are."""
        return not isinstance(self.strength, Tensor) and self.strength == 0

    def share_of(self, motion: Tensor) -> Tensor:
        """As much of the motion as is to be added; at strength 1 all of it. Shapes: `(b f) c h w` -> the same"""
        if isinstance(self.strength, Tensor):
            return self.strength.to(motion.dtype) * motion
        return motion if self.strength == 1 else self.strength * motion


PLAIN = Adjustments()
