"""What can be wrong inside a file of torch.save, and what does not belong there."""

import argparse
import builtins
import io
import os
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .byte_changes import BYTES
from .case import Case
from .tensor_changes import Content

GIGABYTE = 10**9
Edit = Callable[[Any, Path], Any]
"""Takes what is pickled, and where code would leave a trace if it were run."""


@dataclass(frozen=True)
class Calls:
    """Pickled as a call."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


def pickled(content: Content, case: Case, canary: Path) -> bytes:
    """The content as torch.save writes it, in the form of the case."""
    whole: Any = content
    for change in case.of("pickle"):
        whole = PICKLES[change.what](whole, canary)
    stored = saved(whole, is_zip=case.form == "zip")
    for change in case.of("opcodes") if case.form == "zip" else ():
        stored = with_edited_pickle(stored, lambda body, edit=change: BYTES[edit.what](body, edit.where))
    return stored


def saved(content: object, is_zip: bool = True) -> bytes:
    """What torch.save makes of anything, in its present format or in the one before."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about quantised and sparse tensors
        torch.save(content, file, _use_new_zipfile_serialization=is_zip)
    return file.getvalue()


def with_edited_pickle(stored: bytes, edit: Callable[[bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A file of torch.save with another pickle inside, sound as an archive."""
    edited = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(stored)) as source, zipfile.ZipFile(edited, "w") as target:
        for name in source.namelist():
            if name.endswith("data.pkl"):
                target.writestr(name, edit(source.read(name)), compression)
            else:
                target.writestr(name, source.read(name))
    return edited.getvalue()


def _tensors(content: Any) -> dict[str, Tensor]:
    named = content.items() if isinstance(content, dict) else ()
    return {name: value for name, value in named if isinstance(name, str) and isinstance(value, Tensor)}


def _with(value: Edit, name: str) -> Edit:
    return lambda content, canary: {**_tensors(content), name: value(content, canary)}


def _each(edit: Callable[[Tensor], Any]) -> Edit:
    return lambda content, canary: {name: edit(tensor) for name, tensor in _tensors(content).items()}


def _nested(content: Any, canary: Path) -> Any:
    for _ in range(8):
        content = {"state_dict": content}
    return content


def _itself(content: Any, canary: Path) -> Any:
    outer: dict[str, Any] = {"epoch": 3}
    outer["state_dict"] = outer["module"] = outer
    return outer


def _with_attributes(content: Any, canary: Path) -> Any:
    """A tensor whose methods are hidden behind attributes of its own."""
    module: Any = torch
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.zeros(4).untyped_storage(), dtype=torch.float32, _internal=True
    )
    hidden = dict.fromkeys(("is_floating_point", "numel", "element_size", "sum", "detach", "to"), 3)
    arguments = (storage, 0, (4,), (1,), False, OrderedDict())
    return Calls(module._tensor._rebuild_from_type_v2, (module._utils._rebuild_tensor_v2, Tensor, arguments, hidden))


PICKLES: Mapping[str, Edit] = {
    "state_dict": lambda content, canary: {"epoch": 1, "state_dict": content},
    "module": lambda content, canary: {"module": content},
    "nested": _nested,
    "itself": _itself,
    "list": lambda content, canary: [content],
    "tensor": lambda content, canary: torch.zeros(4),
    "numbers": _each(lambda tensor: 1.0),
    "ordered": lambda content, canary: OrderedDict(_tensors(content)),
    "counter": lambda content, canary: Counter("abc"),
    "numbered": lambda content, canary: dict(enumerate(_tensors(content).values())),
    "odd keys": lambda content, canary: {**_tensors(content), b"x": torch.ones(1), 3: 4, (1, 2): None, None: []},
    "values": _with(lambda content, canary: {"a": [1, {2}, b"3", None, 1 + 2j]}, "more"),
    "class": _with(lambda content, canary: argparse.Namespace(width=3), "more"),
    "gradient": _each(lambda tensor: torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor),
    "sparse": _with(lambda content, canary: torch.eye(4).to_sparse(), "x.weight"),
    "meta": _with(lambda content, canary: torch.zeros(10**6, 10**6, device="meta"), "x.weight"),
    "all meta": _each(lambda tensor: tensor.to("meta")),
    "quantised": _with(lambda content, canary: torch.quantize_per_tensor(torch.ones(4), 1.0, 0, torch.qint8), "x"),
    "expanded": _each(lambda tensor: torch.ones(1).expand(10**5, 10**5) if tensor.ndim == 2 else tensor),
    "lazy": _with(lambda content, canary: Calls(torch.FloatTensor, (GIGABYTE,)), "x.weight"),
    "attributes": _with(_with_attributes, "x.weight"),
    "bytearray": _with(lambda content, canary: Calls(bytearray, (GIGABYTE,)), "more"),
    "os.system": _with(lambda content, canary: Calls(os.system, (f"touch {canary}",)), "more"),
    "exec": _with(lambda content, canary: Calls(builtins.exec, (f"open({str(canary)!r}, 'w')",)), "more"),
    "eval": _with(lambda content, canary: [Calls(builtins.eval, (f"open({str(canary)!r}, 'w')",))], "more"),
    "open": lambda content, canary: Calls(builtins.open, (str(canary), "w")),
}
CODE = ("os.system", "exec", "eval", "open", "class", "bytearray")
"""Those that name what must never be called."""
