"""Steps of clips of several lengths, in context windows and in views. Imports ComfyUI: open it first."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from comfy.model_patcher import ModelPatcher
from torch.utils.flop_counter import FlopCounterMode

from ..host.inflate import inflate_model
from ..host.motion_modules import load_motion_module
from ..host.view_windows import set_view_window
from ..host.windows import set_context_window
from ..sampling.context_windows import ContextWindowSettings
from ..sampling.motion_control import MotionControl
from .long_clips import OVERLAP, VIEWS, WINDOW, WINDOWS, ClipCost
from .memory import PeakMemory, can_measure, measure_in_own_process
from .random_models import random_base, write_motion_module
from .settings import Settings
from .steps import run_step

NEUTRAL_TURNS = 4
"""Times as many turns for the control, whose cost is small."""


class Clips:
    """One random model with motion, and the steps that are measured on it."""

    def __init__(self, settings: Settings):
        self._settings = settings
        base = random_base(settings)
        with tempfile.TemporaryDirectory() as folder:
            motion = load_motion_module(write_motion_module(Path(folder), "v3", settings))
        self._plain, self._controlled = (inflate_model(base, motion, "auto", each) for each in (None, MotionControl()))
        windows = ContextWindowSettings(WINDOW, OVERLAP, schedule="static")
        self._models = {
            WINDOWS: set_context_window(self._plain, windows),
            VIEWS: set_view_window(self._plain, windows),
        }

    def costs(self, modes: Sequence[str], lengths: Sequence[int], arguments: Sequence[str]) -> list[ClipCost]:
        """Every mode at every length, in turn. `arguments` make the same command; none: no peak memory."""
        kinds = [(mode, frames) for frames in lengths for mode in modes]
        flops = [self._flops(*kind) for kind in kinds]  # the first round, which does not count as time
        seconds = _in_turn([self._step(*kind) for kind in kinds], self._settings.repeats)
        return [
            ClipCost(
                mode,
                frames,
                taken,
                arithmetic,
                _peak(mode, frames, arguments if frames in (lengths[0], lengths[-1]) else ()),
            )
            for (mode, frames), taken, arithmetic in zip(kinds, seconds, flops, strict=True)
        ]

    def neutral_control(self) -> dict[str, list[float]]:
        """Steps without and with a neutral MotionControl, in turn. Units: seconds."""
        steps = [_step(model, self._settings) for model in (self._plain, self._controlled)]
        without, neutral = _in_turn(steps, NEUTRAL_TURNS * self._settings.repeats)  # both are warm by now
        return {"without": without, "neutral": neutral}

    def growth(self, mode: str, frames: int) -> int:
        """The growth of memory during a step. Units: bytes."""
        step = self._step(mode, frames)
        step()
        peak = PeakMemory()
        step()
        return peak.growth()

    def _flops(self, mode: str, frames: int) -> float:
        with FlopCounterMode(display=False) as counter:
            self._step(mode, frames)()
        return counter.get_total_flops()

    def _step(self, mode: str, frames: int) -> Callable[[], float]:
        return _step(self._models[mode], replace(self._settings, frames=frames))


def _step(model: ModelPatcher, settings: Settings) -> Callable[[], float]:
    """One step, which gives its seconds: of the GPU's wall clock, else of all processors."""

    def run() -> float:
        start = time.process_time()
        seconds, _ = run_step(model, settings)
        return seconds if torch.cuda.is_available() else time.process_time() - start

    return run


def _in_turn(steps: Sequence[Callable[[], float]], repeats: int) -> list[list[float]]:
    """What each step took, all in turn."""
    rounds = [[step() for step in steps] for _ in range(repeats)]
    return [list(taken) for taken in zip(*rounds, strict=True)]


def _peak(mode: str, frames: int, arguments: Sequence[str]) -> float | None:
    if not arguments or not can_measure():
        return None
    return measure_in_own_process([*arguments, "--memory-of", f"{mode}:{frames}"])["peak_bytes"]
