"""The demo from beginning to end: train, animate, measure, write the page."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import torch

from ...training.runs.durable_files import write_text
from .exhibition import Curator
from .page import Circumstances, page
from .plan import DemoPlan
from .school import Graduates, School
from .terminal import Terminal, say
from .verdicts import adapter_verdict, base_verdict, lora_verdict, module_verdict

PAGE = "demo.html"
THREADS = 2
"""A quarter less time than one takes; toy tensors gain nothing from more."""
PACKAGES = ("torch", "diffusers", "numpy", "pillow")


def make_page(folder: Path, plan: DemoPlan, seed: int) -> Path:
    """Train what is not trained yet in the folder, and write the page there; its path.

    Raises: MotionError if the folder cannot be used. Whatever stops it, the next call goes on from there.
    """
    terminal = Terminal()
    torch.set_num_threads(min(THREADS, os.cpu_count() or 1))
    graduates = School(folder, plan, seed, terminal).teach()
    with terminal.part("Animating and measuring"):
        shown = Curator(graduates, plan, seed).exhibit()
    for verdict in (base_verdict(shown.base), adapter_verdict(shown), module_verdict(shown), lora_verdict(shown)):
        say(f"  {verdict.grade}: {verdict.words}")
    about = Circumstances(terminal.time_spent, _versions(), seed, _command(), _news(graduates))
    path = folder / PAGE
    write_text(path, page(graduates, shown, about))
    return path


def _news(graduates: Graduates) -> tuple[str, ...]:
    runs = (graduates.base, graduates.adapter, graduates.module, graduates.motion_lora)
    return tuple(text for run in runs for text in run.news)


def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    cores = f"{os.cpu_count()}, threads of torch: {torch.get_num_threads()}"
    return {"Python": platform.python_version(), **packages, "system": platform.platform(), "cores": cores}


def _command() -> str:
    return " ".join(["python", *sys.argv])
