"""Reads weight files without running what is in them, and writes safetensors whole or not at all."""

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors_torch
from torch import Tensor

from .diffusers_folders import PICKLE_SUFFIXES, config_beside, has_common_name, header_beside, weights_in
from .errors import CheckpointError, shown
from .pickled_tensors import read_pickled_tensors

METADATA_KEY = "motiongraft"
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


@dataclass(frozen=True)
class TensorFile:
    """The tensors of one file, by name, and what the file says about itself."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = field(default_factory=lambda: {})
    """What MotionGraft wrote into it about itself."""
    header: Mapping[str, str] = field(default_factory=lambda: {})
    """All metadata of a safetensors file, as other programs write it, and what PEFT wrote beside it."""
    config: Mapping[str, Any] = field(default_factory=lambda: {})
    """The `config.json` beside a file of diffusers."""

    @property
    def name(self) -> str:
        """What to call it in a message: with its folder, where it has the name that all of its kind have."""
        return f"{self.path.parent.name}/{self.path.name}" if has_common_name(self.path) else self.path.name


def read_tensor_file(path: Path) -> TensorFile:
    """All tensors of a safetensors or PyTorch file, on the CPU; pickled code is refused, never run.

    A folder stands for the one weight file of diffusers in it.
    Raises: CheckpointError if the file is missing, truncated, of another format, or holds more than data.
    """
    path = weights_in(path) if path.is_dir() else path
    if not path.is_file():
        raise CheckpointError(
            f"{path.name}: the file is no longer at {path}. Restore it, or refresh the node and choose another file."
        )
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return TensorFile(path, read_pickled_tensors(path), header=header_beside(path), config=config_beside(path))
    return _read_safetensors(path)


def write_tensor_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write safetensors with our metadata; readers see the old file or the whole new one, never a part.

    Raises: OSError if the disk is full or does not take the file.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.touch()
        usual_mode = temporary.stat().st_mode  # safetensors lets nobody but the writing user read
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        cast(Any, safetensors_torch).save_file(
            contiguous, temporary, {"format": "pt", METADATA_KEY: json.dumps(dict(metadata))}
        )
        temporary.chmod(usual_mode)
        temporary.replace(path)
    except SafetensorError as error:
        raise _as_os_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def _as_os_error(error: SafetensorError, path: Path) -> OSError:
    """The system's own error, which safetensors keeps in the text of its message."""
    found = _OS_ERROR.search(str(error))
    code = int(found[1]) if found else 0
    return OSError(code, str(error), str(path), code)  # the last is read on Windows alone, and sets errno there


def _open(path: Path) -> Any:
    return cast(Any, safe_open)(path, framework="pt")


def _read_safetensors(path: Path) -> TensorFile:
    try:
        with _open(path) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            header: dict[str, str] = file.metadata() or {}
    except Exception as error:  # torch has errors of its own for a shape or type that no tensor can have
        raise _not_safetensors(path, error) from error
    return TensorFile(path, tensors, _metadata(path, header), {**header_beside(path), **header}, config_beside(path))


def _metadata(path: Path, header: Mapping[str, str]) -> dict[str, Any]:
    text = header.get(METADATA_KEY, "{}")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise CheckpointError(
            f"{path.name}: its `{METADATA_KEY}` metadata should be a JSON object and is not. Save the file again."
        )
    return cast(dict[str, Any], parsed)


def _not_safetensors(path: Path, error: Exception) -> CheckpointError:
    reason = shown(str(error).partition("\n")[0])
    return CheckpointError(
        f"{path.name}: expected a whole safetensors file, found {path.stat().st_size:,} bytes that are not one "
        f"({reason}). The download may be incomplete or the file renamed; download it again."
    )
