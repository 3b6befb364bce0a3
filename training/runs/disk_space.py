"""Room on the disk, the right to write there, and words for what the system says when either is missing."""

import errno
import logging
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ...core.errors import RunError

log = logging.getLogger(__name__)

_FREE_SPACE = "Free some space there, or use another disk"
_REASONS = {
    errno.ENOSPC: ("the disk is full", _FREE_SPACE),
    getattr(errno, "EDQUOT", errno.ENOSPC): ("the quota is used up", "Free some of it, or use another disk"),
    errno.EFBIG: ("the file would be larger than is allowed there", "Use another disk"),
    errno.EROFS: ("the file system is read-only", "Use a folder that can be written to"),
    errno.EACCES: ("writing is not permitted", "Allow the user who runs this to write there"),
    errno.EPERM: ("writing is not permitted", "Allow the user who runs this to write there"),
}


def check_free_space(folder: Path, needed_bytes: int, what: str, remedy: str = _FREE_SPACE) -> None:
    """Refuse to start what the disk has no room for; the folder need not exist yet.

    Raises: RunError with both numbers.
    """
    free = free_space(folder)
    if free is None:
        log.warning("How much space is free at %s is not known; %s needs about %s.", folder, what, size(needed_bytes))
    elif free < needed_bytes:
        raise RunError(f"{what} needs about {size(needed_bytes)}, {size(free)} are free at {folder}. {remedy}.")


def free_space(folder: Path) -> int | None:
    """Bytes free where the folder is or would be; None where the system does not know."""
    try:
        usage = shutil.disk_usage(_existing(folder))
    except OSError:
        return None
    return usage.free if usage.total else None  # some network file systems report zeros


def check_writable(folder: Path) -> None:
    """Make sure that the folder exists and takes files.

    Raises: RunError saying what stands against it.
    """
    with write_errors_in_words("A file", folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"probe")


@contextmanager
def write_errors_in_words(what: str, folder: Path) -> Generator[None, None, None]:
    """Inside, an error of the system becomes a RunError: what could not be written, where, why, what to do."""
    try:
        yield
    except OSError as error:
        reason, remedy = _REASONS.get(error.errno or 0, (str(error), "Check the disk, or use another folder"))
        free = free_space(folder)
        room = "free space unknown" if free is None else f"{size(free)} free"
        raise RunError(
            f"{what} could not be written to {folder} ({room}): {reason}. {remedy}. "
            "What was written before is untouched."
        ) from error


def size(num_bytes: int) -> str:
    """A number of bytes for reading: `5.4 GiB`, `12.0 MiB`, `800 bytes`."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:,.1f} {name}"
    return f"{num_bytes} bytes"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
