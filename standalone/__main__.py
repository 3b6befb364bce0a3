"""The command line: `python standalone animate --help` and so on, from a checkout of any name."""

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = "motiongraft"
INSTALLABLE = ("torch", "safetensors", "numpy", "PIL", "av", "diffusers", "transformers", "accelerate")
REQUIREMENTS = "requirements-standalone.txt"


@dataclass(frozen=True)
class Command:
    """A module of standalone/ with `main`, and the words for it. One with `add_arguments` gets its options."""

    module: str
    help: str


COMMANDS = {
    "animate": Command("animate", "make a clip from a checkpoint, a motion module and a prompt, without ComfyUI"),
    "train": Command("train", "carry out a training job, on one GPU or many"),
    "inspect": Command("file_report", "say what a file or folder of weights is"),
    "convert": Command("convert", "write a motion module, MotionLoRA or domain adapter anew, in a layout of choice"),
    "merge": Command("merge", "write the weighted sum of motion modules"),
    "extract": Command("extract", "write the difference between two motion modules as a MotionLoRA"),
    "demo": Command(
        "demo", "animate toy weights in ComfyUI where there is one, else train them first, and print where"
    ),
    "find-host": Command("host_location", "print the ComfyUI that the demo and the tests use"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status of one command."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # `python standalone` puts this folder first, where its modules would hide others of the same names.
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != CHECKOUT / "standalone"]
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in INSTALLABLE:
            raise
        say(
            f"expected the Python package {missing}, and it is not installed. "
            f"Run: {sys.executable} -m pip install -r {CHECKOUT / REQUIREMENTS}"
        )
        return 1


def _run(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python standalone", description="MotionGraft without the editor.")
    parsers = parser.add_subparsers(dest="command", required=True)
    chosen = next((word for word in arguments if not word.startswith("-")), "")
    module: ModuleType | None = None
    for name, command in COMMANDS.items():
        own = parsers.add_parser(name, help=command.help, description=command.help)
        if name == chosen:  # the others' modules may need packages that are not installed
            module = import_from_checkout(command.module)
            if hasattr(module, "add_arguments"):
                module.add_arguments(own)
    options = parser.parse_args(arguments)
    assert module is not None
    return _status_of(module, options)


def _status_of(module: ModuleType, options: argparse.Namespace) -> int:
    """What a command ends with; what it refuses is one sentence."""
    refusals = importlib.import_module(f"{PACKAGE}.core.errors").MotionError
    try:
        return int(module.main(options) if hasattr(module, "add_arguments") else module.main())
    except refusals as error:
        say(str(error))
        return 1


def say(text: str) -> None:
    """A line for the user; a command's answer alone goes to the standard output."""
    if os.environ.get("RANK", "0") == "0":  # of several processes that torchrun started, one speaks
        sys.stderr.write(f"\n{text}\n")


def import_from_checkout(name: str) -> ModuleType:
    """A module of standalone/, inside a package that is called motiongraft whatever the folder is called."""
    if PACKAGE not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACKAGE, CHECKOUT / "__init__.py", submodule_search_locations=[str(CHECKOUT)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[PACKAGE] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    return importlib.import_module(f"{PACKAGE}.standalone.{name}")


if __name__ == "__main__":
    sys.exit(main())
