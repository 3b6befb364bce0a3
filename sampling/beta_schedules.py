"""The noise schedules that motion modules were trained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

AUTO = "auto"
USE_EXISTING = "use existing"


@dataclass(frozen=True)
class BetaSchedule:
    """A discrete schedule of 1,000 steps. `spacing` names what grows evenly: the betas, or their square roots."""

    spacing: str
    first: float
    last: float
    original_steps: int | None = None
    """Steps that the model was distilled to, None if it was not."""


BETAS = "betas"
SQUARE_ROOTS = "square roots"

BETA_SCHEDULES: Mapping[str, BetaSchedule] = MappingProxyType(
    {
        "animatediff": BetaSchedule(BETAS, 0.00085, 0.012),
        "sdxl-beta": BetaSchedule(SQUARE_ROOTS, 0.00085, 0.020),
        "linear": BetaSchedule(SQUARE_ROOTS, 0.00085, 0.012),
        "lcm": BetaSchedule(SQUARE_ROOTS, 0.00085, 0.012, original_steps=50),
        "animatelcm": BetaSchedule(BETAS, 0.00085, 0.012, original_steps=100),
    }
)
"""By the names of the node's widget; `linear` is Stable Diffusion's own, in ComfyUI's words.

Source: guoyww/AnimateDiff configs/inference/inference-v*.yaml and branch `sdxl`; `lcm` Kosinkadink's
ComfyUI-AnimateDiff-Evolved, utils_model.py `BetaSchedules`; `animatelcm` G-U-N/AnimateLCM configs/inference-t2v.yaml.
"""

OPTIONS = (AUTO, USE_EXISTING, *BETA_SCHEDULES)
