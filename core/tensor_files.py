"""Reads weight files without running what is in them, and writes safetensors whole or not at all."""

import json
import pickle
import pickletools
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors_torch
from torch import Tensor

from .errors import CheckpointError

PICKLE_SUFFIXES = {".ckpt", ".pt", ".pth", ".bin"}
SAFETENSORS = ".safetensors"
WEIGHT_SUFFIXES = {SAFETENSORS, *PICKLE_SUFFIXES}
DIFFUSERS_STEM, CONFIG = "diffusion_pytorch_model", "config.json"
"""Source: huggingface/diffusers utils/constants.py."""
MAX_CONTAINERS = 4
"""How deep containers may lie in each other; a file can hold itself."""
METADATA_KEY = "motiongraft"
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_CODE_OPCODES = {"GLOBAL", "STACK_GLOBAL", "INST", "REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX"}
CONTAINERS = ("state_dict", "module", "model")
"""Outer dictionaries that published files wrap their tensors in.

Source: `state_dict` guoyww/AnimateDiff train.py; `module` Kosinkadink/ComfyUI-AnimateDiff-Evolved, motion_module_ad.py.
"""


@dataclass(frozen=True)
class TensorFile:
    """The tensors of one file, by name, and what the file says about itself."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = field(default_factory=lambda: {})
    """What MotionGraft wrote into it about itself."""
    header: Mapping[str, str] = field(default_factory=lambda: {})
    """All metadata of a safetensors file, as other programs write it."""
    config: Mapping[str, Any] = field(default_factory=lambda: {})
    """The `config.json` beside a file of diffusers."""

    @property
    def name(self) -> str:
        """What to call it in a message: with its folder, where the file has the name that all of diffusers' have."""
        return f"{self.path.parent.name}/{self.path.name}" if _is_of_diffusers(self.path) else self.path.name


def read_tensor_file(path: Path) -> TensorFile:
    """All tensors of a safetensors or PyTorch file, on the CPU; pickled code is refused, never run.

    A folder stands for the one weight file of diffusers in it.
    Raises: CheckpointError if the file is missing, truncated, of another format, or holds more than data.
    """
    path = _weights_in(path) if path.is_dir() else path
    if not path.is_file():
        raise CheckpointError(
            f"{path.name}: the file is no longer at {path}. Restore it, or refresh the node and choose another file."
        )
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return TensorFile(path, _read_pickle(path), config=_config_beside(path))
    return _read_safetensors(path)


def _is_of_diffusers(path: Path) -> bool:
    return path.stem.startswith(DIFFUSERS_STEM)


def _weights_in(folder: Path) -> Path:
    """The weights of a diffusers folder. Raises: CheckpointError unless it has one file of them."""
    found = sorted(path for path in folder.iterdir() if _is_of_diffusers(path) and path.suffix in WEIGHT_SUFFIXES)
    safe = [path for path in found if path.suffix == SAFETENSORS]
    if not found:
        raise CheckpointError(
            f"{folder.name}: expected a folder of diffusers with {DIFFUSERS_STEM}{SAFETENSORS}, found none in it. "
            "Choose the weight file itself."
        )
    return min(safe or found, key=lambda path: len(path.name))  # longer names are variants, such as .fp16


def _config_beside(path: Path) -> dict[str, Any]:
    """diffusers' description of a weight file that it wrote; empty for all other files."""
    config = path.with_name(CONFIG)
    if not (_is_of_diffusers(path) and config.is_file()):
        return {}
    try:
        parsed = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path.parent.name}/{CONFIG} cannot be read ({error}). Get it again; it says how many heads the weights "
            "beside it have."
        ) from error
    return cast(dict[str, Any], parsed) if isinstance(parsed, dict) else {}


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
    except (SafetensorError, OSError) as error:
        raise _not_safetensors(path, error) from error
    return TensorFile(path, tensors, _metadata(path, header), header, _config_beside(path))


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
    return CheckpointError(
        f"{path.name}: expected a whole safetensors file, found {path.stat().st_size:,} bytes that are not one "
        f"({error}). The download may be incomplete or the file renamed; download it again."
    )


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:
        unsafe = isinstance(error, pickle.UnpicklingError) and _names_code(path)
        raise (_unsafe_pickle(path) if unsafe else _damaged_pickle(path)) from error
    return _tensors_of(path, content)


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _unsafe_pickle(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path.name}: refused, because besides weights it holds code that would run on loading; nothing was run. "
        "Get the file as .safetensors, or from a source you trust with weights alone."
    )


def _damaged_pickle(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path.name}: expected a whole PyTorch file, found {path.stat().st_size:,} bytes that cannot be read as one. "
        "The download may be incomplete or the file renamed; download it again."
    )


def _names_code(path: Path) -> bool:
    """Whether a pickle asks for functions or classes, told by its opcodes without running them."""
    if _is_zip(path):
        return True  # PyTorch found the pickle inside whole, and refused what it names
    with path.open("rb") as file:
        try:
            return any(opcode.name in _CODE_OPCODES for opcode, _, _ in pickletools.genops(file))
        except ValueError:
            return False


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
