"""The demo: in a headless ComfyUI where there is one, else with everything learned on this machine in some minutes."""

import argparse
import os
import shutil
import sys
from pathlib import Path

from ..client.errors import ClientError
from ..core.errors import HostError, MotionError
from .host_installation import find_or_install_host
from .host_location import CHECKOUT, ENVIRONMENT_VARIABLE, find_host
from .stop_signals import Stopped, stop_signals_raise

FOLDER = CHECKOUT / ".demo"
TOY_FOLDER = "toy"
"""In the folder of the demo; a second demo goes on with what is in it."""
AUTO, WITH, WITHOUT = "auto", "with", "without"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the demo."""
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--with-comfyui",
        dest="comfyui",
        action="store_const",
        const=WITH,
        help="animate in a headless ComfyUI; installs one where there is none",
    )
    kinds.add_argument(
        "--without-comfyui",
        dest="comfyui",
        action="store_const",
        const=WITHOUT,
        help="train a toy base and all three stages here, and write a page about it",
    )
    parser.set_defaults(comfyui=AUTO)
    parser.add_argument("--seed", type=int, default=0, help="without ComfyUI: other numbers train otherwise")
    parser.add_argument("--new", action="store_true", help="without ComfyUI: train anew what an earlier demo trained")


def main(options: argparse.Namespace) -> int:
    """Print the path of what was made as the last line; 1 with the reason on stderr if there is nothing."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # toy tensors lose time to threads; ComfyUI inherits this
    try:
        with stop_signals_raise():
            print(_make(options))  # noqa: T201 - the command's answer
    except Stopped as stop:
        sys.stderr.write(f"\nstopped by {stop}; start it again to go on\n")
        return stop.exit_status
    except (MotionError, ClientError) as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    return 0


def host_for_demo(choice: str) -> Path | None:
    """The ComfyUI that the demo runs in; None for the demo without. Says which on stderr.

    Raises: HostError if the environment names a ComfyUI that is none, or one cannot be installed.
    """
    if choice == WITHOUT:
        _say("The demo without ComfyUI.")
        return None
    try:
        host = find_or_install_host() if choice == WITH else find_host()
    except HostError:
        if choice == WITH or os.environ.get(ENVIRONMENT_VARIABLE):
            raise  # somebody chose a ComfyUI: nothing else is done instead
        _say("No ComfyUI on this machine, so this is the demo without it. `--with-comfyui` would install one.")
        return None
    _say(f"The demo in the ComfyUI of {host}. `--without-comfyui` would train everything here instead.")
    return host


def _make(options: argparse.Namespace) -> Path:
    """The path of the animation, or of the page."""
    host = host_for_demo(options.comfyui)
    if host is not None:
        from .comfyui_demo import animate

        return animate(host, FOLDER)
    from .toy_demo.command import make_page
    from .toy_demo.plan import demo_plan

    folder = FOLDER / TOY_FOLDER
    if options.new:
        shutil.rmtree(folder, ignore_errors=True)
    return make_page(folder, demo_plan(options.seed), options.seed)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
