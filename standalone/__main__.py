"""The command line: `python standalone demo`, `python standalone find-host`, from a checkout of any name."""

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = "motiongraft"


def main(arguments: list[str] | None = None) -> int:
    """The exit status of one command."""
    parser = argparse.ArgumentParser(prog="python standalone", description="MotionGraft without the editor.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="animate toy weights in a headless ComfyUI and print the WEBP's path")
    commands.add_parser("find-host", help="print the ComfyUI that the demo and the tests use")
    command: str = parser.parse_args(arguments).command
    try:
        return int(import_from_checkout({"demo": "demo", "find-host": "host_location"}[command]).main())
    except KeyboardInterrupt:
        return 130


def import_from_checkout(name: str) -> ModuleType:
    """A module of standalone/, inside a package that is called motiongraft whatever the folder is called."""
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
