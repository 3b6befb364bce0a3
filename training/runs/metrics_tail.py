"""New lines of a metrics file that another process writes."""

import json
from pathlib import Path
from typing import Any, cast


class MetricsTail:
    """Follows a file of metrics from one step on, also when it is cut and replaced; nothing is said twice."""

    def __init__(self, path: Path, after: int):
        self.path = path
        self._said = {"step": after, "validation": after}
        self._inode, self._offset = 0, 0

    def new(self) -> list[dict[str, Any]]:
        """Whole lines that came since the last call, of steps beyond those that were told already."""
        try:
            with self.path.open("rb") as file:
                stat = file_stat(self.path)
                if stat[0] != self._inode or stat[1] < self._offset:
                    self._inode, self._offset = stat[0], 0
                file.seek(self._offset)
                content = file.read()
        except OSError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [record for line in whole.splitlines() if (record := _record(line)) and self._is_new(record)]

    def _is_new(self, record: dict[str, Any]) -> bool:
        kind, step = record.get("kind"), record.get("step")
        if not isinstance(kind, str) or not isinstance(step, int) or step <= self._said.get(kind, step):
            return False
        self._said[kind] = step
        return True


def file_stat(path: Path) -> tuple[int, int]:
    """Which file this is, and its size in bytes."""
    stat = path.stat()
    return stat.st_ino, stat.st_size


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return cast(dict[str, Any], value) if isinstance(value, dict) else None
