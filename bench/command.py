"""The options of `python bench`."""

import argparse
import json
import shlex
import sys
from pathlib import Path

import torch

from ..core.errors import MotionError
from .comfyui import open_comfyui
from .settings import GENERATIONS, WIDTH, Settings, default_variants

CPU_SIZE = 128
GPU_SIZE = 512


def main(arguments: list[str] | None = None) -> int:
    """The exit status of one measurement; its page goes to the standard output."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _run(_parser().parse_args(arguments), arguments)
    except MotionError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _run(options: argparse.Namespace, arguments: list[str]) -> None:
    settings = _settings(options)
    open_comfyui(options.pytorch_attention)
    # What imports ComfyUI can only be imported now.
    from .measurement import measure, measure_memory
    from .report import as_markdown

    if options.memory_of:
        print(json.dumps(measure_memory(options.memory_of, settings, options.weights)))  # noqa: T201 - read by the parent
        return
    result = measure(settings, arguments, _shown(arguments), options.parts, not options.no_memory)
    if options.out:
        result.write(options.out)
    print(as_markdown(result))  # noqa: T201 - a command's answer


def _settings(options: argparse.Namespace) -> Settings:
    named = tuple(options.variants.split(",")) if options.variants else ()
    return Settings(
        named or default_variants(options.base, options.ade is not None),
        options.size,
        options.base,
        options.width,
        options.frames,
        options.repeats,
        options.ade,
    )


def _shown(arguments: list[str]) -> str:
    """The command line as a reader of the results can repeat it."""
    return shlex.join(["python", "bench", *arguments]).replace(str(Path.home()), "~")


def _parser() -> argparse.ArgumentParser:
    size = GPU_SIZE if torch.cuda.is_available() else CPU_SIZE
    parser = argparse.ArgumentParser(prog="python bench", description="What motion costs in a sampling step.")
    add = parser.add_argument
    add("--variants", help="plain, motiongraft-v3, ade-v3, ... with commas between; plain must be among them")
    add("--ade", type=Path, metavar="PATH", help="a checkout of AnimateDiff-Evolved, to measure beside")
    add("--base", choices=GENERATIONS, default="sd15", help="the base model's topology (default: %(default)s)")
    add("--width", type=int, default=WIDTH, help="channels of the first level; fewer for quick runs (%(default)s)")
    add("--frames", type=int, default=16, help="frames of the clip (%(default)s)")
    add("--size", type=int, default=size, help=f"pixels of a frame's sides ({CPU_SIZE}; {GPU_SIZE} on a GPU)")
    add("--repeats", type=int, default=5, help="measured steps of each variant (%(default)s)")
    add("--pytorch-attention", action="store_true", help="as ComfyUI's --use-pytorch-cross-attention")
    add("--parts", action="store_true", help="also time the parts of a temporal transformer")
    add("--no-memory", action="store_true", help="leave out peak memory and arithmetic")
    add("--out", type=Path, metavar="PATH", help="write PATH.json and PATH.md")
    add("--memory-of", help=argparse.SUPPRESS)
    add("--weights", type=Path, help=argparse.SUPPRESS)
    return parser
