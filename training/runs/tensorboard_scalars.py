"""The numbers of a run for TensorBoard, where its package is installed; nothing here can stop a run."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

log = logging.getLogger(__name__)

FLUSH_SECONDS = 10


class TensorBoardScalars:
    """Curves named `kind/value` in a folder for TensorBoard; without its package, nothing."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._first_step: int | None = None
        self._writer: Any = None
        self._is_off = False

    def add(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Add every number among the values to its curve."""
        if self._is_off:
            return
        try:
            self._writer = self._writer or self._open()
            for name, number in _numbers(kind, values):
                self._writer.add_scalar(name, number, step)
        except ImportError:
            self._is_off = True
            log.info("TensorBoard is not installed; the metrics are in metrics.jsonl alone.")
        except Exception:
            self._is_off = True
            log.warning("TensorBoard failed and is left out; metrics.jsonl has every step.", exc_info=True)

    def restart_after(self, step: int) -> None:
        """Let TensorBoard hide what an earlier process wrote beyond this step."""
        self.close()
        self._first_step = step + 1

    def close(self) -> None:
        """Write what is still waiting."""
        writer, self._writer = self._writer, None
        try:
            if writer:
                writer.close()
        except Exception:
            log.warning("TensorBoard's last numbers could not be written.", exc_info=True)

    def _open(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.utils import tensorboard

            return cast(Any, tensorboard).SummaryWriter(
                str(self.folder), purge_step=self._first_step, flush_secs=FLUSH_SECONDS
            )


def _numbers(name: str, value: object) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, entry in cast(Mapping[object, object], value).items():
            yield from _numbers(f"{name}/{key}", entry)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value
