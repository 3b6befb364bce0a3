"""Ctrl-C, SIGTERM and a closed terminal, all as KeyboardInterrupt, and never in the middle of a delicate step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
STOP_SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """Somebody asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_status = 128 + number


@contextmanager
def stop_signals_raise() -> Iterator[None]:
    """Inside, every stop signal raises Stopped, so that `with` and `finally` blocks run to their ends."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handlers(stop):
        yield


@contextmanager
def stop_signals_wait() -> Iterator[None]:
    """Inside, stop signals are kept; the first of them is delivered at the end."""
    received: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        received.append(number)

    with _handlers(keep):
        yield
    if received:
        signal.raise_signal(received[0])


class NotedSignal:
    """The first stop signal that came, for work that asks for it where it can stop."""

    number: int | None = None

    def check(self) -> None:
        """Raises: Stopped if a signal came."""
        if self.number is not None:
            raise Stopped(self.number)


@contextmanager
def stop_signals_noted() -> Iterator[NotedSignal]:
    """Inside, a stop signal is noted and nothing more; only a second Ctrl-C raises Stopped at once."""
    noted = NotedSignal()

    def note(number: int, frame: FrameType | None) -> None:
        if noted.number is not None and number == signal.SIGINT:
            raise Stopped(number)
        noted.number = noted.number or number

    with _handlers(note):
        yield noted


@contextmanager
def _handlers(handler: "signal._HANDLER") -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # Python delivers signals to the main thread alone
        yield
        return
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
