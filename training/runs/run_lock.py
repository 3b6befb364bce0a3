"""One process for each run. The system lets go of a lock when its process ends, however it ends."""

import errno
import logging
import os
import sys
from pathlib import Path

from ...core.errors import RunError
from .disk_space import write_errors_in_words

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

log = logging.getLogger(__name__)

LOCK = "run.lock"
_TAKEN = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_BEYOND_THE_TEXT = 1 << 30
"""The locked byte: on Windows a locked one cannot be read, and others should read who holds the lock."""


class RunLock:
    """Held from its making until `close`, or until the process ends. The file says which process holds it.

    Raises: RunError if another holds it.
    """

    def __init__(self, folder: Path):
        self.path = folder / LOCK
        with write_errors_in_words("The lock of a run", folder):
            self._file = self.path.open("a+b", buffering=0)
        try:
            self.is_held = self._lock()
            with write_errors_in_words("The lock of a run", folder):
                self._file.truncate(0)
                self._file.write(f"{os.getpid()}\n".encode())
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Let go of the run."""
        if not self._file.closed:
            try:
                self._file.truncate(0)
            finally:
                self._file.close()

    def _lock(self) -> bool:
        try:
            _lock_file(self._file.fileno())
        except OSError as error:
            if error.errno in _TAKEN:
                raise self._is_taken() from error
            log.warning("%s cannot be locked (%s); make sure that no other process uses this run.", self.path, error)
            return False
        return True

    def _is_taken(self) -> RunError:
        holder = self.path.read_text(encoding="utf-8").strip()
        process = f"process {holder}" if holder else "another process"
        here = ", which is this one" if holder == str(os.getpid()) else ""
        return RunError(
            f"The run {self.path.parent} is in use by {process}{here}. "
            "Wait until it has ended, end it, or start a run of another name."
        )


def _lock_file(handle: int) -> None:
    if sys.platform == "win32":
        os.lseek(handle, _BEYOND_THE_TEXT, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
