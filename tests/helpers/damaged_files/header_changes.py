"""What can be wrong with the header of a safetensors file, with what programs write there, and with a `config.json`."""

import json
import re
import struct
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors.torch import save

from motiongraft.core.diffusers_folders import PEFT_HEADER
from motiongraft.core.tensor_files import METADATA_KEY
from motiongraft.motion_modules.spec import MotionModuleSpec

from .case import Case, Change
from .small_files import small_config, small_metadata
from .tensor_changes import Content

_PLAIN_SPEC = MotionModuleSpec("v3", (32,), (32,), None, 32)
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Raw:
    """JSON as it stands, for what Python does not write."""

    text: str


DEEP, BOTTOMLESS = Raw("[" * 900 + "]" * 900), Raw("[" * 100_000)
HUGE_NUMBER, LONG_NUMBER, INFINITE = Raw("9" * 400), Raw("9" * 5000), Raw("1e999")


def safetensors(content: Content, case: Case) -> bytes:
    """The content as a safetensors file: eight bytes of length, a header in JSON, the tensors."""
    whole = save({name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in content.items()})
    start = _LENGTH.size + _LENGTH.unpack_from(whole)[0]
    entries: list[tuple[str, Any]] = list(json.loads(whole[_LENGTH.size : start]).items())
    for change in case.of("header") if entries else ():
        _edit(entries, change)
    entries.append(("__metadata__", _header_metadata(case)))
    header = ("{" + ", ".join(f"{dumps(name)}: {dumps(entry)}" for name, entry in entries) + "}").encode()
    length = next((change.what for change in case.of("length")), len(header))
    return _LENGTH.pack(length) + header + whole[start:]


def config_text(case: Case) -> str:
    """The description beside a case: of diffusers and of PEFT in one."""
    config: Any = small_config()
    for change in case.of("config"):
        key, value = change.what
        config = value if key == "config" or not isinstance(config, dict) else config | {key: value}
    return dumps(config)


def dumps(value: Any) -> str:
    """JSON, with NaN, and with each `Raw` as it stands."""
    raws: list[str] = []

    def mark(raw: Raw) -> str:
        raws.append(raw.text)
        return f"\0{len(raws) - 1}\0"

    return re.sub(r'"\\u0000(\d+)\\u0000"', lambda found: raws[int(found[1])], json.dumps(value, default=mark))


def _edit(entries: list[tuple[str, Any]], change: Change) -> None:
    """Set a field of an entry; `entry` is the whole of it, `twice` puts it into the header again."""
    field, value = change.what
    index = change.where % len(entries)
    name, entry = entries[index]
    if field == "twice":
        entries.append((name, entry))
    else:
        is_whole = field == "entry" or not isinstance(entry, dict)
        entries[index] = (name, value if is_whole else entry | {field: value})


def _header_metadata(case: Case) -> Any:
    """The `__metadata__` of a case: our own, diffusers' or any."""
    header: dict[str, Any] = {"format": "pt"}
    ours = dict(small_metadata(case.base)) if case.ours else {}
    peft: dict[str, Any] = {}
    for change in case.of("ours", "spec", "peft"):
        key, value = change.what
        if change.target == "spec":
            spec = ours.get("spec")
            ours["spec"] = {**asdict(_PLAIN_SPEC), **(spec if isinstance(spec, dict) else {}), key: value}
        else:
            (ours if change.target == "ours" else peft)[key] = value
    header |= {METADATA_KEY: dumps(ours)} if ours else {}
    header |= {PEFT_HEADER: dumps(peft)} if peft else {}
    for change in case.of("metadata"):
        key, value = change.what
        if key == "__metadata__":
            return value
        header[key] = value
    return header
