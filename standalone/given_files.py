"""Files that a command line names."""

from pathlib import Path

from ..core.errors import CheckpointError


def check_given(path: Path, option: str) -> None:
    """Raises: CheckpointError if there is nothing at the path that an option names."""
    if not path.exists():
        raise CheckpointError(f"expected a file at {path}, found nothing. Give {option} the path of one that is there.")
