"""One process for each cache that is being written."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ...core.errors import RunError
from ..runs.run_lock import RunLock


class CacheLock(RunLock):
    """Held from its making until `close`, or until the process ends, however it ends.

    Raises: RunError if another process, or another thread, writes this cache.
    """

    def _is_taken(self) -> RunError:
        holder = self.path.read_text(encoding="utf-8").strip()
        return RunError(
            f"the cache {self.path.parent} is being written by process {holder or 'unknown'}. Nothing was changed. "
            "Wait until it has finished, end it, or choose another cache_name."
        )


@contextmanager
def locked(folder: Path) -> Generator[None, None, None]:
    """Inside, no other process writes this cache."""
    lock = CacheLock(folder)
    try:
        yield
    finally:
        lock.close()
