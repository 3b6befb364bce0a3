"""Damage that knows nothing of what it damages. Positions count from the end where they are negative."""

from collections.abc import Callable, Mapping


def _place(stored: bytes, where: int) -> int:
    return where % len(stored) if stored else 0


def _spliced(stored: bytes, where: int, removed: int, inserted: bytes) -> bytes:
    start = _place(stored, where)
    return stored[:start] + inserted + stored[start + removed :]


def _flipped(stored: bytes, where: int) -> bytes:
    if not stored:
        return stored
    return _spliced(stored, where, 1, bytes([stored[_place(stored, where)] ^ 1 << where % 8]))


BYTES: Mapping[str, Callable[[bytes, int], bytes]] = {
    "flip a bit": _flipped,
    "zero": lambda stored, where: _spliced(stored, where, 1, b"\0"),
    "huge": lambda stored, where: _spliced(stored, where, 4, b"\xff\xff\xff\x7f"),
    "insert": lambda stored, where: _spliced(stored, where, 0, b"9"),
    "delete": lambda stored, where: _spliced(stored, where, 1, b""),
    "delete much": lambda stored, where: _spliced(stored, where, 100, b""),
    "cut": lambda stored, where: stored[: _place(stored, where)],
    "repeat": lambda stored, where: stored + stored[_place(stored, where) :],
    "no UTF-8": lambda stored, where: _spliced(stored, where, 1, b"\xed\xa0\x80"),
}
