"""The options of `python bench training`."""

import argparse
import json
import shlex
import sys
from pathlib import Path

import torch

from ...core.errors import MotionError
from ..comfyui import open_comfyui
from ..settings import PLAIN, WIDTH, Settings
from .packages import import_packages
from .settings import CHECKPOINTING, PRECISIONS, SIDES, STAGES, TrainingCostSettings, numbers_in

SIZE = 256
"""Source: guoyww/AnimateDiff configs/training/v1/training.yaml, `sample_size`."""


def main(arguments: list[str]) -> int:
    """The exit status of one measurement; its page goes to the standard output."""
    try:
        _run(_parser().parse_args(arguments), arguments)
    except MotionError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _run(options: argparse.Namespace, arguments: list[str]) -> None:
    settings = settings_from(options)
    import_packages(settings.stages)
    open_comfyui(pytorch_attention=False)
    # What imports ComfyUI can only be imported now.
    from .measurement import measure, measure_memory
    from .report import as_markdown

    if options.memory_of:
        print(json.dumps(measure_memory(options.memory_of, settings)))  # noqa: T201 - read by the parent
        return
    result = measure(settings, arguments, _shown(arguments), not options.no_memory)
    if options.out:
        result.write(options.out)
    print(as_markdown(result))  # noqa: T201 - a command's answer


def settings_from(options: argparse.Namespace) -> TrainingCostSettings:
    """The checked settings. Raises: SettingsError in the words of the command line."""
    return TrainingCostSettings(
        Settings((PLAIN,), options.size, width=options.width, frames=options.frames, repeats=options.repeats),
        STAGES[options.stage],
        numbers_in(options.batch),
        CHECKPOINTING[options.checkpointing],
        options.precision,
    )


def _shown(arguments: list[str]) -> str:
    """The command line as a reader of the results can repeat it."""
    return shlex.join(["python", "bench", "training", *arguments]).replace(str(Path.home()), "~")


def _parser() -> argparse.ArgumentParser:
    precision = "bf16" if torch.cuda.is_available() else "fp32"
    parser = argparse.ArgumentParser(
        prog="python bench training", description="What a training step costs, beside a plain loop on diffusers."
    )
    add = parser.add_argument
    add("--stage", choices=STAGES, default="both", help="2: motion module, 3: MotionLoRA of rank 64 (%(default)s)")
    add("--width", type=int, default=WIDTH, help="channels of the first level; fewer for quick runs (%(default)s)")
    add("--frames", type=int, default=16, help="frames of a clip (%(default)s)")
    add("--size", type=int, default=SIZE, help="pixels of a frame's sides (%(default)s)")
    add("--batch", default="1,4", help="clips in a step, with commas between (%(default)s)")
    add("--checkpointing", choices=CHECKPOINTING, default="off", help="recompute activations (%(default)s)")
    add("--precision", choices=PRECISIONS, default=precision, help="fp32; bf16 on a GPU (%(default)s)")
    add("--repeats", type=int, default=5, help="measured steps of each case and side (%(default)s)")
    add("--no-memory", action="store_true", help="leave out peak memory")
    add("--out", type=Path, metavar="PATH", help="write PATH.json and PATH.md")
    add("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    return parser
