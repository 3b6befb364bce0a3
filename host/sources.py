"""A LoRA comes from a file or from the graph: exactly one of the two is given."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..core.errors import SettingsError
from ..core.tensor_files import TensorFile, read_tensor_file
from ..lora.motion_lora import MotionLoRA, read_motion_lora
from .folders import LORAS, MOTION_LORAS, NONE, find_file

TRAINED = Path("the LoRA connected to `lora`")
"""Stands for a file name in messages about a LoRA that was trained in the graph."""


def motion_lora_from(file: str, trained: MotionLoRA | None) -> MotionLoRA:
    """The MotionLoRA of the file list or of the socket. Raises: SettingsError unless exactly one is given."""
    _check_one("motion_lora", file, trained)
    return trained or read_motion_lora(read_tensor_file(find_file(MOTION_LORAS, file)))


def domain_adapter_from(file: str, trained: Mapping[str, Tensor] | None) -> TensorFile:
    """The domain adapter of the file list or of the socket. Raises: SettingsError unless exactly one is given."""
    _check_one("domain_adapter", file, trained)
    if trained is None:
        return read_tensor_file(find_file(LORAS, file))
    return TensorFile(TRAINED, trained, getattr(trained, "metadata", {}))  # other nodes give plain dictionaries


def _check_one(widget: str, file: str, trained: object) -> None:
    if file == NONE and trained is None:
        raise SettingsError(
            f"nothing to apply: {widget} is none and nothing is connected to `lora`. "
            "Choose a file, or connect a trained LoRA."
        )
    if file != NONE and trained is not None:
        raise SettingsError(
            f"two LoRAs given: {widget} is {file} and one is connected to `lora`. "
            f"Set {widget} to none, or disconnect `lora`."
        )
