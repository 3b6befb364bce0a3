"""Single rows of large safetensors files, read without reading the rest."""

from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import CheckpointError


class ShardFile:
    """An open safetensors file whose tensors are stacked rows. Several threads may read from it at once.

    Raises: CheckpointError if the file is missing, truncated or no safetensors file.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._size = path.stat().st_size
            self._file: Any = cast(Any, safe_open)(path, framework="pt")
            self.shapes: dict[str, tuple[int, ...]] = {
                name: tuple(self._file.get_slice(name).get_shape()) for name in self._file.keys()
            }
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path.name}: expected a whole safetensors file ({error}).") from error

    def row(self, name: str, number: int) -> Tensor:
        """One row as a normal tensor of its own, whatever mode torch is in. Shapes: `n …` -> `…`

        Raises: CheckpointError if the file has no such row, is gone, or was cut since it was opened.
        """
        if number >= (*self.shapes.get(name, ()), 0)[0]:
            raise CheckpointError(f"{self.path.name}: expected row {number} of {name}, found {self.shapes}.")
        self._check_size()
        with torch.inference_mode(False):
            return self._file.get_slice(name)[number].clone()

    def _check_size(self) -> None:
        """The file is mapped into memory: to read past the end of one that was cut would end the process."""
        try:
            size = self.path.stat().st_size
        except OSError as error:
            raise CheckpointError(f"{self.path.name}: the file is no longer there ({error}).") from error
        if size != self._size:
            raise CheckpointError(f"{self.path.name}: expected {self._size:,} bytes, found {size:,}.")
