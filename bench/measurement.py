"""One measurement from beginning to end. Imports ComfyUI: open it first."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from comfyui_version import __version__ as comfyui_version
from torch.utils.flop_counter import FlopCounterMode

from .machine import describe_machine, describe_versions
from .memory import PeakMemory, can_measure, measure_in_own_process
from .parts import measure_parts
from .report import Agreement, Result, VariantResult
from .settings import OURS, THEIRS, Settings
from .steps import Steps, measure_interleaved, run_step
from .variants import build_variants

MEMORY_OF = "--memory-of"
WEIGHTS = "--weights"


def measure(settings: Settings, arguments: Sequence[str], command: str, with_parts: bool, with_memory: bool) -> Result:
    """Time, memory and agreement of all variants. `arguments` make the same settings in another process."""
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        own = {name: _own_process(name, folder, arguments) if with_memory else {} for name in settings.variants}
        steps = measure_interleaved(build_variants(settings.variants, settings, Path(folder)), settings)
    return Result(
        command,
        f"{settings.base}, {settings.width} wide, {settings.frames} frames of {settings.size}×{settings.size} pixels",
        machine,
        describe_versions(comfyui_version, settings.ade),
        {name: VariantResult(steps[name].seconds, **own[name]) for name in settings.variants},
        _agreements(steps),
        measure_parts(settings) if with_parts else [],
    )


def measure_memory(name: str, settings: Settings, weights: Path) -> dict[str, float]:
    """Peak memory and arithmetic of a step of one variant, in this process. Units: bytes, floating point operations."""
    model = build_variants([name], settings, weights)[name]
    with FlopCounterMode(display=False) as counter:
        run_step(model, settings)
    peak = PeakMemory()
    run_step(model, settings)
    return {"peak_bytes": peak.growth(), "flops": counter.get_total_flops()}


def _own_process(name: str, folder: str, arguments: Sequence[str]) -> dict[str, float]:
    return measure_in_own_process([*arguments, MEMORY_OF, name, WEIGHTS, folder]) if can_measure() else {}


def _agreements(steps: Mapping[str, Steps]) -> list[Agreement]:
    """Each of our variants beside AnimateDiff-Evolved's with the same motion weights."""
    pairs = [(name, name.replace(OURS, THEIRS)) for name in steps if name.startswith(OURS)]
    return [_agreement(pair, steps) for pair in pairs if pair[1] in steps]


def _agreement(pair: tuple[str, str], steps: Mapping[str, Steps]) -> Agreement:
    ours, theirs = (steps[name].denoised for name in pair)
    assert ours is not None
    assert theirs is not None
    return Agreement(pair, float(torch.dist(ours, theirs, p=float("inf"))), float(theirs.abs().max()))
