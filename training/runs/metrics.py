"""What a run measured, step by step: one JSON object on each line of a file, and TensorBoard where it is installed."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from ...core.errors import RunError
from .disk_space import write_errors_in_words
from .durable_files import flush_file, flush_folder, temporary_name
from .tensorboard_scalars import TensorBoardScalars

log = logging.getLogger(__name__)

_NOT_IN_JSON = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MetricsLog:
    """The measurements of one run. A line that was cut off by a power loss is left out, then cut away."""

    def __init__(self, path: Path, scalars: TensorBoardScalars | None = None):
        self.path = path
        self._scalars = scalars

    def append(self, kind: str, step: int, **values: Any) -> None:
        """Add a line; it is in the file when this returns. Keys of dictionaries become texts.

        Raises: RunError if the line cannot be written, or a value is neither number, text, list nor dictionary.
        """
        record = {"kind": kind, "step": step, **values}
        line = json.dumps(_to_json(record, kind), ensure_ascii=False, allow_nan=False) + "\n"
        with write_errors_in_words("A line of metrics", self.path.parent), self.path.open("a+b") as file:
            _cut_torn_line(file)
            file.write(line.encode())
        if self._scalars:
            self._scalars.add(kind, step, values)

    def read(self) -> list[dict[str, Any]]:
        """Every whole line, oldest first, as `kind`, `step` and the values that were appended."""
        records = [_record(line) for line in self._lines()]
        unread = [number for number, record in enumerate(records, 1) if record is None]
        if unread:
            log.warning("%s: line %d cannot be read and is left out (%d in all).", self.path, unread[0], len(unread))
        return [record for record in records if record is not None]

    def cut_after(self, step: int) -> None:
        """Drop the lines of later steps, which will be measured again.

        Raises: RunError if the shorter file cannot be written.
        """
        lines = self._lines()
        kept = [line for line in lines if _is_until(line, step)]
        if len(kept) < len(lines):
            with write_errors_in_words("The shortened metrics", self.path.parent):
                self._replace(b"".join(kept))
        if self._scalars:
            self._scalars.restart_after(step)

    def close(self) -> None:
        """Finish TensorBoard's file; lines can still be appended."""
        if self._scalars:
            self._scalars.close()

    def _lines(self) -> list[bytes]:
        """The whole lines: those that end."""
        if not self.path.is_file():
            return []
        return [line for line in self.path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

    def _replace(self, content: bytes) -> None:
        temporary = self.path.with_name(temporary_name(self.path.name))
        try:
            temporary.write_bytes(content)
            flush_file(temporary)
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)
        flush_folder(self.path.parent)


def _cut_torn_line(file: BinaryIO) -> None:
    end = file.seek(0, 2)
    file.seek(max(0, end - 1))
    if end == 0 or file.read(1) == b"\n":
        return
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast(dict[str, Any], _from_json(value)) if isinstance(value, dict) else None


def _is_until(line: bytes, step: int) -> bool:
    measured = (_record(line) or {}).get("step")
    return isinstance(measured, int) and measured <= step


def _to_json(value: object, place: str) -> Any:
    """The value as any JSON reader takes it: numbers that JSON does not have become their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        entries = cast(Mapping[object, object], value).items()
        return {str(key): _to_json(entry, f"{place}.{key}") for key, entry in entries}
    if isinstance(value, list | tuple):
        return [_to_json(entry, place) for entry in cast(Sequence[object], value)]
    raise RunError(f"{place} should be a number or text, found a {type(value).__name__}. Log its value, as a number.")


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _from_json(entry) for key, entry in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [_from_json(entry) for entry in cast(list[Any], value)]
    return _NOT_IN_JSON.get(value, value) if isinstance(value, str) else value
