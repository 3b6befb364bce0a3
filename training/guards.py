"""What keeps a run from learning noise: gradients and weights must stay finite."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..core.errors import RunError, some
from .cache.cached_clips import CachedClips
from .draws import Draw

MAX_BAD_STEPS = 3
SMALLEST_SCALE = 1.0
"""Below it float16 overflows for another reason than the scale of the loss."""


@dataclass
class BadSteps:
    """Counts steps whose gradient is not finite, and stops the run at the third in a row."""

    scales_loss: bool
    """float16: the scaler tries too large a scale now and then, which is no sign of trouble."""
    total: int = 0
    in_a_row: int = 0
    disk_failed: bool = False

    def note(
        self, step: int, loss: float, norm: float, draws: Sequence[Draw], cached: CachedClips, scale: float
    ) -> bool:
        """Whether a step may be taken.

        Raises: RunError at the third bad one in a row; the weights are those of the last good step.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            self.in_a_row = 0
            return True
        self.total += 1
        if self.scales_loss and scale > SMALLEST_SCALE and math.isfinite(loss):
            return False
        self.in_a_row += 1
        if self.in_a_row == MAX_BAD_STEPS:
            clips = [f"{cached.clip(each.bucket, each.number).name} (t = {each.timestep})" for each in draws]
            raise RunError(
                f"the gradient was not finite three steps in a row, last at step {step + 1} (loss {loss:g}, gradient "
                f"norm {norm:g}) with {some(clips)}. Nothing was learned from these steps. Lower the learning rate or "
                "set precision to bf16 or fp32, and queue it again with resume `must` to go on from the last "
                "checkpoint."
            )
        return False


def check_finite(parameters: Mapping[str, nn.Parameter], stage: str) -> None:
    """Raises: RunError if a weight holds NaN or infinity: such a module would make every frame noise."""
    broken = [name for name, weight in parameters.items() if not torch.isfinite(weight).all()]
    if broken:
        raise RunError(
            f"{len(broken)} of {len(parameters)} weights of the {stage} hold NaN or infinity ({some(broken[:2])}); "
            "they are not written. Lower the learning rate and go on from an earlier checkpoint with resume `must`."
        )
