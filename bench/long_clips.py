"""`python bench long-clips`: how a sampling step grows with the frames of a clip, in context windows and in views.

And what a neutral MotionControl adds to a step, which should be nothing.
"""

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..core.errors import MotionError
from .comfyui import open_comfyui
from .machine import describe_machine, describe_versions
from .pages import megabytes, table, write_results
from .settings import OURS, PLAIN, WIDTH, Settings

LENGTHS = (16, 32, 64, 128)
WINDOW, OVERLAP = 16, 4
WINDOWS, VIEWS = "windows", "views"
MODES = (WINDOWS, VIEWS)
LEGEND = (
    "One sampling step of a clip, both prompts, by the processors' or the GPU's time; medians of steps in turn. "
    f"Windows: ContextWindow, static, {WINDOW} frames with {OVERLAP} shared. Views: ViewWindow, the same windows "
    "inside the motion modules. Arithmetic: floating point operations of convolutions and matrix products, views ÷ "
    "windows. Memory: growth during a step, in a process of its own, for the shortest and the longest clip."
)


@dataclass(frozen=True)
class ClipCost:
    """What a step of a clip of one length cost in one mode."""

    mode: str
    frames: int
    seconds: list[float]
    """Every measured step, in order."""
    flops: float
    peak_bytes: float | None
    """None where the system does not tell, or was not asked."""

    @property
    def median(self) -> float:
        """Units: seconds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class LongClips:
    """Everything a result file holds."""

    command: str
    clip: str
    machine: dict[str, str]
    costs: list[ClipCost]
    neutral: dict[str, list[float]]
    """Steps without and with a neutral MotionControl, in turn. Units: seconds."""

    def of(self, mode: str) -> list[ClipCost]:
        """The costs of one mode, by length."""
        return sorted((cost for cost in self.costs if cost.mode == mode), key=lambda cost: cost.frames)

    @property
    def slope(self) -> float:
        """Time that a new frame takes in windows, as a share of what a window takes for each frame that it adds.

        1 is linear growth: the fit over all lengths, beside the step of a single window.
        """
        costs = self.of(WINDOWS)
        frames, seconds = [cost.frames for cost in costs], [cost.median for cost in costs]
        one_window = next(cost.median for cost in costs if cost.frames == WINDOW)
        return statistics.linear_regression(frames, seconds).slope * (WINDOW - OVERLAP) / one_window


def main(arguments: Sequence[str]) -> int:
    """The exit status of the measurement; its page goes to the standard output."""
    options = _parser().parse_args(arguments)
    try:
        open_comfyui(pytorch_attention=False)
        result = _measure(options, arguments)
    except MotionError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    if result is None:
        return 0
    page = as_markdown(result)
    if options.out:
        write_results(options.out, asdict(result), page)
    print(page)  # noqa: T201 - a command's answer
    return 0


def _measure(options: argparse.Namespace, arguments: Sequence[str]) -> LongClips | None:
    """The result; None where this process only answers how much memory one step takes."""
    from comfyui_version import __version__ as comfyui_version

    from .long_clip_steps import Clips  # imports ComfyUI, which is open only now

    variants = (PLAIN, f"{OURS}-v3")
    clips = Clips(Settings(variants, options.size, width=options.width, frames=WINDOW, repeats=options.repeats))
    if options.memory_of:
        mode, frames = options.memory_of.split(":")
        print(json.dumps({"peak_bytes": clips.growth(mode, int(frames))}))  # noqa: T201 - read by the parent
        return None
    costs = clips.costs(MODES, LENGTHS, [] if options.no_memory else ["long-clips", *arguments])
    return LongClips(
        shlex.join(["python", "bench", "long-clips", *arguments]),
        f"sd15, {options.width} wide, frames of {options.size}×{options.size} pixels",
        describe_machine() | describe_versions(comfyui_version, None),
        costs,
        clips.neutral_control(),
    )


def as_markdown(result: LongClips) -> str:
    """The page: ratios first."""
    windows, views = result.of(WINDOWS), result.of(VIEWS)
    rows = [_row(window, view, windows[0]) for window, view in zip(windows, views, strict=True)]
    head = ["frames", "windows ÷ 16 frames", "views ÷ windows", "arithmetic", "memory, windows", "memory, views"]
    sections = [
        f"# Long clips: {result.clip}",
        table([*head, "seconds, windows", "seconds, views"], rows),
        f"Growth: a new frame takes {result.slope:.2f} of what a window takes for each frame that it adds.",
        _neutral(result.neutral),
        LEGEND,
        table(["machine", ""], [[name, value] for name, value in result.machine.items()]),
        f"`{result.command}`",
    ]
    return "\n\n".join(sections) + "\n"


def _row(window: ClipCost, view: ClipCost, shortest: ClipCost) -> list[str]:
    return [
        str(window.frames),
        f"**{window.median / shortest.median:.2f}**",
        f"**{view.median / window.median:.2f}**",
        f"{view.flops / window.flops:.3f}",
        *(megabytes(cost.peak_bytes) for cost in (window, view)),
        *(f"{cost.median:.2f} ({min(cost.seconds):.2f} to {max(cost.seconds):.2f})" for cost in (window, view)),
    ]


def _neutral(seconds: Mapping[str, Sequence[float]]) -> str:
    without, neutral = seconds.values()
    by_turn = sorted(mine / base for mine, base in zip(neutral, without, strict=True))
    return (
        f"A neutral MotionControl: {statistics.median(neutral) / statistics.median(without):.3f} of a step without, "
        f"{by_turn[0]:.2f} to {by_turn[-1]:.2f} by turn."
    )


def _parser() -> argparse.ArgumentParser:
    size = 512 if torch.cuda.is_available() else 64
    parser = argparse.ArgumentParser(prog="python bench long-clips", description="What a step of a long clip takes.")
    parser.add_argument("--width", type=int, default=WIDTH, help="channels of the first level (%(default)s)")
    parser.add_argument("--size", type=int, default=size, help="pixels of a frame's sides (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="measured steps of each kind (%(default)s)")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    parser.add_argument("--out", type=Path, help="write FILE.json and FILE.md")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser
