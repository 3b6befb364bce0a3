"""The named tensors in a file of `torch.save`, read without running what else is in it."""

import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import torch
from torch import Tensor

from .errors import CheckpointError, some

MAX_CONTAINERS = 4
"""How deep containers may lie in each other; a file can hold itself."""
CONTAINERS = ("state_dict", "module", "model", "controlnet")
"""Outer dictionaries that published files wrap their tensors in.

Source: `state_dict` guoyww/AnimateDiff train.py, `controlnet` its scripts/animate.py; `module`
Kosinkadink/ComfyUI-AnimateDiff-Evolved, motion_module_ad.py.
"""
MAX_SHARED = 4
"""How many times the size of a file its tensors may have together, since names may share one tensor's memory."""
_MAX_PICKLES = 5
"""Pickles in a file of the older format, in front of the weights. Source: torch/serialization.py, `_legacy_save`."""
_PICKLE = "data.pkl"
_DATA = re.compile(r"(?:torch[\w.]* |collections |_codecs encode$|(?:builtins|__builtin__) set$)")
"""What pickled weights name, as module and name."""
_MEMORY_OF_ANY_SIZE = {"builtins bytearray", "__builtin__ bytearray"}
"""What PyTorch's reader allows, though a few bytes of it fill gigabytes."""


def read_pickled_tensors(path: Path) -> dict[str, Tensor]:
    """All named tensors, on the CPU; code is refused, never run.

    Raises: CheckpointError if the file is truncated, of another format, or holds more than plain tensors.
    """
    try:
        _check_size(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except CheckpointError:
        raise
    except Exception as error:
        unsafe = isinstance(error, pickle.UnpicklingError) and any(not _DATA.match(name) for name in _named(path))
        raise (_unsafe(path) if unsafe else _damaged(path)) from error
    tensors = _tensors_of(path, content)
    _check_plain(path, tensors)
    return {name: torch.detach(tensor) for name, tensor in tensors.items()}


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _check_size(path: Path) -> None:
    """Raises: CheckpointError if a small file can grow large while it is read."""
    if _is_zip(path):
        with zipfile.ZipFile(path) as archive:
            packed = [record.filename for record in archive.infolist() if record.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise CheckpointError(
                f"{path.name}: expected records as torch.save stores them, found {len(packed)} that are compressed "
                f"({some(packed[:2])}). The file was packed anew; get the original."
            )
    if not _MEMORY_OF_ANY_SIZE.isdisjoint(_named(path)):
        raise _unsafe(path)


def _named(path: Path) -> Iterator[str]:
    """The functions and classes that a file asks for, as module and name, told by its opcodes without running them."""
    if not _is_zip(path):
        with path.open("rb") as file:
            for _ in range(_MAX_PICKLES):
                yield from _named_in(file)
        return
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(_PICKLE):
                with archive.open(name) as record:
                    yield from _named_in(record)


def _named_in(file: IO[bytes]) -> Iterator[str]:
    """Up to the end of one pickle, or to where it can be read no further."""
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
                yield str(argument)  # None where the names lie on the stack, as in no file of torch.save
    except (ValueError, OverflowError, MemoryError):
        return


def _unsafe(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path.name}: refused, because besides weights it holds code that would run on loading; nothing was run. "
        "Get the file as .safetensors, or from a source you trust with weights alone."
    )


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path.name}: expected a whole PyTorch file, found {path.stat().st_size:,} bytes that cannot be read as one. "
        "The download may be incomplete or the file renamed; download it again."
    )


def _tensors_of(path: Path, content: object) -> dict[str, Tensor]:
    """The named tensors at the outermost level that has any, inside the containers that published files use."""
    for _ in range(MAX_CONTAINERS):
        named = cast(dict[object, object], content) if isinstance(content, dict) else {}
        tensors = {name: value for name, value in named.items() if isinstance(name, str) and isinstance(value, Tensor)}
        if tensors:
            return tensors
        content = next((named[name] for name in CONTAINERS if isinstance(named.get(name), dict)), None)
    raise CheckpointError(
        f"{path.name}: expected named tensors, found none. The file holds something else; choose a motion file."
    )


def _check_plain(path: Path, tensors: dict[str, Tensor]) -> None:
    """Raises: CheckpointError unless all tensors have their values in the file, one by one."""
    odd = [
        name
        for name, tensor in tensors.items()
        if tensor.is_meta or tensor.is_quantized or tensor.is_nested or tensor.layout is not torch.strided
    ]
    if odd:
        raise CheckpointError(
            f"{path.name}: expected plain tensors, found {len(odd)} of {len(tensors)} that are quantised, sparse or "
            f"without values ({some(odd[:2])}). Get the file in fp16 or fp32."
        )
    claimed, size = sum(tensor.nbytes for tensor in tensors.values()), path.stat().st_size
    if claimed > MAX_SHARED * size:
        raise CheckpointError(
            f"{path.name}: expected a file as large as its tensors, found {size:,} bytes for tensors of {claimed:,}. "
            "The file is damaged or made to fill the memory; get it from another source."
        )
