"""The command line: `python bench`, or with a name of `OTHERS` behind it. Options: `--help`."""

import importlib
import importlib.util
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = "motiongraft"
OTHERS = {
    "training": "training.command",
    "large-set": "large_sets",
    "files": "files",
    "long-clips": "long_clips",
}
"""What is measured instead of sampling steps where the first argument asks for it, by module."""


def main() -> int:
    """The exit status of a measurement."""
    # Python put bench/ in front of the path, where its modules would hide others of the same name.
    sys.path[:] = [path for path in sys.path if Path(path).resolve() not in (CHECKOUT, CHECKOUT / "bench")]
    spec = importlib.util.spec_from_file_location(
        PACKAGE, CHECKOUT / "__init__.py", submodule_search_locations=[str(CHECKOUT)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[PACKAGE] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    other = OTHERS.get("".join(sys.argv[1:2]))
    command = importlib.import_module(f"{PACKAGE}.bench.{other or 'command'}")
    return int(command.main(sys.argv[2:] if other else sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
