"""One measurement from beginning to end. Imports ComfyUI: open it first."""

import gc
import importlib.metadata
from collections.abc import Mapping, Sequence

from comfyui_version import __version__ as comfyui_version

from ...host.training import TYPES
from ...host.training_base import TrainingBase
from ..clock import ProcessorClock, time_each_in_turn
from ..machine import describe_machine, describe_versions
from ..memory import PeakMemory, can_measure, measure_in_own_process
from .arithmetic import count_flops, square_product
from .clips import random_batch
from .ours import OurTrainer
from .report import Agreement, CaseResult, SideResult, TrainingResult
from .settings import OURS, SIDES, THEIRS, Case, TrainingCostSettings
from .theirs import DiffusersTrainer
from .weights import device_of, frozen_base

MEMORY_OF = "--memory-of"
PRODUCT = "square product"
Trainer = OurTrainer | DiffusersTrainer


def measure(
    settings: TrainingCostSettings, arguments: Sequence[str], command: str, with_memory: bool
) -> TrainingResult:
    """Time, memory, arithmetic and agreement of all cases. `arguments` make the same settings in another process."""
    machine = describe_machine()
    cases = list(settings.cases())
    own = {case.name: _own_processes(case, arguments) if with_memory else {} for case in cases}
    base = frozen_base(settings)
    results = [_measure_case(case, base, settings, own[case.name]) for case in cases]
    return TrainingResult(command, _clip(settings), machine, _versions(), results)


def measure_memory(side: str, settings: TrainingCostSettings) -> dict[str, float]:
    """Peak memory of the first case on one side, in this process. Units: bytes."""
    case = next(settings.cases())
    whole = PeakMemory()
    trainer = _trainer(side, case, frozen_base(settings), settings)
    trainer.step()  # the optimizer's moments exist from here on
    gc.collect()
    step = PeakMemory()
    trainer.step()
    return {"peak_bytes": whole.growth(), "step_bytes": step.growth()}


def _measure_case(
    case: Case, base: TrainingBase, settings: TrainingCostSettings, memory: Mapping[str, Mapping[str, float]]
) -> CaseResult:
    trainers = {side: _trainer(side, case, base, settings) for side in SIDES}
    agreement = _agreement(trainers, settings)
    flops = {side: count_flops(trainer.step) for side, trainer in trainers.items()}
    product, product_flops = square_product(device_of(base), TYPES[settings.precision])
    clocks = {side: ProcessorClock(trainer.step) for side, trainer in trainers.items()}
    seconds = time_each_in_turn({**clocks, PRODUCT: product}, settings.clip.repeats)
    sides = {
        side: SideResult(
            seconds[side], clocks[side].measured, _num_weights(trainer), flops[side], **memory.get(side, {})
        )
        for side, trainer in trainers.items()
    }
    return CaseResult(
        case.name, sides[OURS], sides[THEIRS], agreement, [product_flops / each for each in seconds[PRODUCT]]
    )


def _trainer(side: str, case: Case, base: TrainingBase, settings: TrainingCostSettings) -> Trainer:
    batch = random_batch(settings.clip, case.batch, device_of(base))
    make = OurTrainer if side == OURS else DiffusersTrainer
    return make(base, batch, case, settings)


def _agreement(trainers: Mapping[str, Trainer], settings: TrainingCostSettings) -> Agreement:
    (our_loss, our_gradient), (their_loss, their_gradient) = (trainers[side].loss_and_gradient() for side in SIDES)
    return Agreement((our_loss, their_loss), (our_gradient, their_gradient), settings.precision)


def _num_weights(trainer: Trainer) -> int:
    return sum(weight.numel() for weight in trainer.parameters)


def _own_processes(case: Case, arguments: Sequence[str]) -> dict[str, dict[str, float]]:
    if not can_measure():
        return {}
    same = ["training", *arguments, *case.options]
    return {side: measure_in_own_process([*same, MEMORY_OF, side]) for side in SIDES}


def _clip(settings: TrainingCostSettings) -> str:
    clip = settings.clip
    return (
        f"{clip.base}, {clip.width} wide, {clip.frames} frames of {clip.size}×{clip.size} pixels, {settings.precision}"
    )


def _versions() -> dict[str, str]:
    return {**describe_versions(comfyui_version, None), **{name: _version(name) for name in ("diffusers", "peft")}}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
