"""MotionLoRAs whose strength depends on the step: they run beside the layers that they change, and patch nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor, nn

from ..core.errors import IncompatibleModelError
from ..core.protocols import LinearRunner, run_plainly
from ..lora.low_rank import LowRank
from ..sampling.percent_schedule import PercentSchedule
from .motion_modules import LoadedMotionModule, ScheduledLoRA, patcher_around


class ScheduledChange(nn.Module):
    """The two thin layers of one change, where it starts in the layer's output, and how strong it is."""

    def __init__(self, change: LowRank, strength: float, schedule: PercentSchedule):
        super().__init__()
        self.layer = change.target.removesuffix(".weight")
        self.first = change.first_row or 0
        self.schedule = schedule
        self.strength = strength * change.scale
        operations: Any = comfy.ops.manual_cast
        self.down = operations.Linear(change.down.shape[1], change.rank, bias=False, dtype=change.down.dtype)
        self.up = operations.Linear(change.rank, change.num_rows, bias=False, dtype=change.up.dtype)
        self.load_state_dict({"down.weight": change.down, "up.weight": change.up})

    def add_to(self, output: Tensor, x: Tensor, factor: float) -> None:
        """Add the change at a factor to what the layer gave. Shapes: output `… o`, x `… i`"""
        rows = output[..., self.first : self.first + self.up.out_features]
        rows.add_(self.up(self.down(x)), alpha=self.strength * factor)


@dataclass(frozen=True)
class ScheduledRunner:
    """Runs the linear layers of a motion module with the changes of one step added."""

    changes: dict[int, list[tuple[ScheduledChange, float]]]
    """By the identity of the layer that they are of, each with its factor at this step."""

    def __call__(self, layer: nn.Module, x: Tensor, /) -> Tensor:
        """What the layer gives, changed. Shapes: `… i` -> `… o`"""
        output = layer(x)
        for change, factor in self.changes.get(id(layer), ()):
            change.add_to(output, x, factor)
        return output


def scheduled_patchers(motion: LoadedMotionModule) -> list[comfy.model_patcher.ModelPatcher]:
    """The scheduled changes of a motion module as a model that ComfyUI loads and offloads; none if there are none."""
    return [create_patcher(motion.scheduled)] if motion.scheduled else []


def create_patcher(
    scheduled: tuple[ScheduledLoRA, ...], disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """A fresh patcher around scheduled changes; ComfyUI calls this again for copies on other devices."""
    with torch.inference_mode(False):
        changes = nn.ModuleList(each for lora in scheduled for each in _changes(lora))
    patcher = patcher_around(changes, disable_dynamic)
    patcher.cached_patcher_init = (create_patcher, (scheduled,))
    return patcher


def scheduled_runner(module: nn.Module, changes: Any, percent: float) -> LinearRunner:
    """How the module's layers run at a share of the sampling; plainly where every change is at zero."""
    found: dict[int, list[tuple[ScheduledChange, float]]] = {}
    for change in changes:
        factor = change.schedule.at(percent)
        if factor * change.strength:
            found.setdefault(id(module.get_submodule(change.layer)), []).append((change, factor))
    return ScheduledRunner(found) if found else run_plainly


def check_no_schedule(motion: LoadedMotionModule) -> None:
    """Raises: IncompatibleModelError if a change is scheduled, and so cannot become part of the weights."""
    if motion.scheduled:
        raise IncompatibleModelError(
            f"{motion.scheduled[0].name} has a schedule, and weights are the same at every step. "
            "Leave its schedule empty here, or take it out."
        )


def _changes(lora: ScheduledLoRA) -> Iterator[ScheduledChange]:
    return (ScheduledChange(change, strength, lora.schedule) for change, strength in lora.changes)
