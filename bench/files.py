"""`python bench files`: what it takes to load a motion module of full size, and to apply a MotionLoRA to it.

Beside it stands what every loader must do at least: the library's `load_file`, with each tensor copied out of the file.
"""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..core.errors import MotionError
from ..core.tensor_files import read_tensor_file
from ..lora.motion_lora import read_motion_lora
from ..motion_modules.load import build, read_motion_file
from ..tests.helpers.published_files import random_tensors, read_published
from .clock import time_each_in_turn
from .comfyui import open_comfyui
from .machine import CHECKOUT, describe_machine, git_commit
from .memory import PeakMemory, can_measure, measure_in_own_process

MODULE, LORA = "mm_sd_v15_v2", "v2_lora_ZoomIn"
MEGA = 1e6
LEGEND = (
    "From the page cache. `load_file`: safetensors' own, every tensor cloned. MotionGraft: names, detection, shapes, "
    "the check for NaN, q, k and v in one matrix, and the module around them, in the file's type. Apply: reading a "
    "MotionLoRA of rank 64 and adding it to a module as ComfyUI's patches. Peaks are growth over what was there "
    "before, each in a process of its own."
)


@dataclass(frozen=True)
class FileCosts:
    """Units: bytes, seconds."""

    module_bytes: int
    lora_bytes: int
    load_file_seconds: list[float]
    load_seconds: list[float]
    load_file_peak: float
    load_peak: float
    apply_peak: float

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return (
            sorted(self.load_seconds)[len(self.load_seconds) // 2]
            / sorted(self.load_file_seconds)[len(self.load_file_seconds) // 2]
        )


def main(arguments: Sequence[str]) -> int:
    """The exit status of the measurement; its page goes to the standard output."""
    options = _parser().parse_args(arguments)
    try:
        if options.memory_of:
            print(json.dumps({"growth": _growth(options.memory_of, options.folder)}))  # noqa: T201 - read by the parent
            return 0
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            costs = _costs(Path(folder), options.repeats)
    except MotionError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    page = as_markdown(costs, f"python bench files {shlex.join(arguments)}".strip(), _machine())
    if options.out:
        options.out.with_suffix(".json").write_text(
            json.dumps({"machine": _machine(), **asdict(costs)}, indent=2) + "\n"
        )
        options.out.with_suffix(".md").write_text(page)
    print(page)  # noqa: T201 - a command's answer
    return 0


def as_markdown(costs: FileCosts, command: str, machine: dict[str, str]) -> str:
    """The page of a measurement: ratios first."""
    rows = [
        ("load a v2 module, time ÷ `load_file`", f"{costs.ratio:.2f}"),
        ("its peak memory ÷ the file", f"{costs.load_peak / costs.module_bytes:.2f}"),
        ("`load_file`'s peak ÷ the file", f"{costs.load_file_peak / costs.module_bytes:.2f}"),
        ("apply a MotionLoRA, peak memory ÷ the file", f"{costs.apply_peak / costs.lora_bytes:.2f}"),
        ("the module's file", f"{costs.module_bytes / MEGA:,.0f} MB"),
        ("the MotionLoRA's file", f"{costs.lora_bytes / MEGA:,.0f} MB"),
        ("seconds of `load_file`", _seconds(costs.load_file_seconds)),
        ("seconds of MotionGraft", _seconds(costs.load_seconds)),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    made = "\n".join(f"| {name} | {value} |" for name, value in machine.items())
    return (
        f"# Loading files\n\n`{command}`\n\n{LEGEND}\n\n| | |\n|---|---|\n{table}\n\n| machine | |\n|---|---|\n{made}\n"
    )


def _costs(folder: Path, repeats: int) -> FileCosts:
    module, lora = _write(folder, MODULE, torch.float16), _write(folder, LORA, torch.float32)
    work: dict[str, Callable[[], Any]] = {"load_file": lambda: _cloned(module), "ours": lambda: _loaded(module)}
    seconds = time_each_in_turn(work, repeats)
    peaks = {name: _peak(name, folder) for name in ("load_file", "load", "apply")}
    return FileCosts(
        module.stat().st_size,
        lora.stat().st_size,
        seconds["load_file"],
        seconds["ours"],
        peaks["load_file"],
        peaks["load"],
        peaks["apply"],
    )


def _write(folder: Path, name: str, dtype: torch.dtype) -> Path:
    """A random file with the names and shapes of a published one."""
    tensors = {key: tensor.to(dtype) for key, tensor in random_tensors(read_published(name)).items()}
    save_file(tensors, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def _cloned(path: Path) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def _loaded(path: Path) -> torch.nn.Module:
    motion = read_motion_file(read_tensor_file(path))
    return build(motion.spec, motion.tensors, motion.name)


def _peak(what: str, folder: Path) -> float:
    if not can_measure():
        return float("nan")
    return measure_in_own_process(["files", "--memory-of", what, "--folder", str(folder)])["growth"]


def _growth(what: str, folder: Path) -> int:
    """The growth of memory to its peak, with the result still held."""
    module, lora = folder / f"{MODULE}.safetensors", folder / f"{LORA}.safetensors"
    if what == "apply":
        return _growth_of_apply(module, lora)
    peak = PeakMemory()
    held = _cloned(module) if what == "load_file" else _loaded(module)
    growth = peak.growth()
    del held
    return growth


def _growth_of_apply(module: Path, lora: Path) -> int:
    open_comfyui(pytorch_attention=False)
    from ..host.loras import apply_motion_lora  # ComfyUI can be imported only now
    from ..host.motion_modules import load_motion_module

    motion = load_motion_module(module)
    peak = PeakMemory()
    applied = apply_motion_lora(motion, read_motion_lora(read_tensor_file(lora)), 1.0)
    growth = peak.growth()
    del applied
    return growth


def _seconds(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]:.2f} ({ordered[0]:.2f} to {ordered[-1]:.2f})"


def _machine() -> dict[str, str]:
    return {**describe_machine(), "torch": torch.__version__, "MotionGraft": git_commit(CHECKOUT) or "no commit"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python bench files", description="Load a motion module, apply a MotionLoRA.")
    parser.add_argument("--repeats", type=int, default=5, help="measured loads of each kind (%(default)s)")
    parser.add_argument("--scratch", type=Path, help="where the files are written; 1 GB")
    parser.add_argument("--out", type=Path, help="write FILE.json and FILE.md")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser
