"""What a file in one of the three model folders is, in words, and which installed files fit with it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import folder_paths

from ..core.errors import CheckpointError, MotionError, some
from ..core.file_kinds import DOMAIN_ADAPTER, LORA, MOTION_LORA, MOTION_MODULE, FileKind, classify
from ..core.tensor_files import TensorFile, read_tensor_file
from ..core.training_record import describe_training
from ..lora.domain_adapter import read_adapter_changes
from ..lora.low_rank import base_of
from ..lora.motion_lora import MotionLoRA, fit, read_motion_lora
from ..lora.report import describe_domain_adapter, describe_motion_lora
from ..motion_modules.load import MotionFile, read_motion_file
from ..motion_modules.report import describe_motion_module
from .editor import show_text
from .folders import LORAS, MOTION_LORAS, MOTION_MODULES, file_stamp, find_file

FOLDERS = (MOTION_MODULES, MOTION_LORAS, LORAS)
ADAPTERS = (DOMAIN_ADAPTER, LORA)
Found = TypeVar("Found")
_DESCRIPTIONS: Mapping[FileKind, Callable[[TensorFile], Iterator[str]]] = MappingProxyType(
    {
        MOTION_MODULE: describe_motion_module,
        MOTION_LORA: describe_motion_lora,
        DOMAIN_ADAPTER: describe_domain_adapter,
        LORA: describe_domain_adapter,
    }
)


def list_motion_files() -> list[str]:
    """Every file of the three folders, each behind the name of its folder."""
    files = [f"{folder}/{name}" for folder in FOLDERS for name in folder_paths.get_filename_list(folder)]
    return files or [f"(no files: put them into models/{MOTION_MODULES}, models/{MOTION_LORAS} or models/{LORAS})"]


def motion_file_stamp(listed: str) -> str:
    """A text that changes when the file does, or when files come and go, so that no old report is shown."""
    folder, _, name = listed.partition("/")
    return f"{file_stamp(folder, name) if folder in FOLDERS else listed} {hash(tuple(list_motion_files()))}"


def inspect_motion_file(listed: str, node_id: str | None = None) -> str:
    """What a listed file is, a fact a line; in the editor the node shows it.

    Raises: CheckpointError if the file is gone, damaged, or not in one of the folders.
    """
    folder, _, name = listed.partition("/")
    if folder not in FOLDERS:
        raise CheckpointError(f"{listed!r} is in none of the folders {', '.join(FOLDERS)}. Choose one from the list.")
    file = read_tensor_file(find_file(folder, name))
    kind = classify(file.tensors)
    facts = [
        f"{file.name}: {kind.description}",
        *_DESCRIPTIONS.get(kind, _nothing)(file),
        *describe_training(file.metadata),
        kind.remedy,
        *_fitting(kind, _without_values(file)),
    ]
    report = "\n".join(facts)
    show_text(node_id, report)
    return report


def _nothing(_: TensorFile) -> Iterator[str]:
    return iter(())


def _fitting(kind: FileKind, file: TensorFile) -> Iterator[str]:
    """Lines on the installed files that go with a file, by kind."""
    if kind is MOTION_MODULE:
        motion = read_motion_file(file)
        yield _line("MotionLoRAs", [name for name, lora in _installed(MOTION_LORAS, _lora) if _fits(lora, motion)])
        yield _line("domain adapters", [name for name, base in _installed(LORAS, _base) if base == motion.spec.base])
    elif kind is MOTION_LORA:
        lora = read_motion_lora(file)
        yield _line(
            "motion modules", [name for name, motion in _installed(MOTION_MODULES, _module) if _fits(lora, motion)]
        )
    elif kind in ADAPTERS:
        own = _base_of_adapter(file)
        if own is None:
            return
        yield _line(
            "motion modules", [name for name, motion in _installed(MOTION_MODULES, _module) if motion.spec.base == own]
        )


def _line(what: str, names: list[str]) -> str:
    return f"installed {what} that fit: {some(names) if names else 'none'}"


def _installed(folder: str, read: Callable[[Path, str], Found | None]) -> Iterator[tuple[str, Found]]:
    """What the files of a folder are, without those that are something else or damaged."""
    for name in folder_paths.get_filename_list(folder):
        try:
            found = read(find_file(folder, name), file_stamp(folder, name))
        except MotionError:
            continue
        if found is not None:
            yield name, found


@lru_cache(maxsize=512)
def _module(path: Path, stamp: str) -> MotionFile | None:
    file = _without_values(read_tensor_file(path))
    return read_motion_file(file) if classify(file.tensors) is MOTION_MODULE else None


@lru_cache(maxsize=512)
def _lora(path: Path, stamp: str) -> MotionLoRA | None:
    file = _without_values(read_tensor_file(path))
    return read_motion_lora(file) if classify(file.tensors) is MOTION_LORA else None


@lru_cache(maxsize=512)
def _base(path: Path, stamp: str) -> str | None:
    """The base of a file with a domain adapter's names; other LoRAs of a base model are not listed."""
    file = _without_values(read_tensor_file(path))
    return _base_of_adapter(file) if classify(file.tensors) is DOMAIN_ADAPTER else None


def _base_of_adapter(file: TensorFile) -> str | None:
    try:
        return base_of(read_adapter_changes(file.tensors, file.name).changes)
    except CheckpointError:
        return None  # a layout that ComfyUI reads and we do not


def _without_values(file: TensorFile) -> TensorFile:
    """The same names, shapes and types without a value: reading them takes no memory."""
    return replace(file, tensors={name: tensor.to("meta") for name, tensor in file.tensors.items()})


def _fits(lora: MotionLoRA, motion: MotionFile) -> bool:
    try:
        fit(lora, {name: tuple(tensor.shape) for name, tensor in motion.tensors.items()}, motion.name)
    except MotionError:
        return False
    return True
