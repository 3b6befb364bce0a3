"""Runs every loader on a file, and holds them to what a file may cost."""

import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from motiongraft.core.errors import MotionError
from motiongraft.core.file_kinds import classify
from motiongraft.core.pickled_tensors import MAX_SHARED
from motiongraft.core.tensor_files import TensorFile, read_tensor_file
from motiongraft.core.training_record import describe_training
from motiongraft.lora.domain_adapter import in_kohya_layout, read_adapter_changes, read_domain_adapter
from motiongraft.lora.motion_lora import fit, read_motion_lora
from motiongraft.lora.report import describe_domain_adapter, describe_motion_lora
from motiongraft.motion_modules.load import build, read_motion_file
from motiongraft.motion_modules.report import describe_motion_module
from motiongraft.motion_modules.sparse_control import read_sparse_control

from .small_files import small_tensors
from .written import CANARY

SECONDS = 1.0
"""Of the processor, for all loaders together."""
MEMORY, MEMORY_OF_A_BYTE = 64 * 2**20, 100
"""For all loaders together, and for each byte of the file: a list in Python takes 64 bytes, its pickle one."""
MAX_MESSAGE = 2000
MODULE = "mm_sd_v15_v2"
"""What a MotionLoRA is fitted to."""


def _loaded_module(file: TensorFile) -> object:
    motion = read_motion_file(file)
    return build(motion.spec, motion.tensors, motion.name)


def _fitted_lora(file: TensorFile) -> object:
    return fit(read_motion_lora(file), _shapes_of_module(), MODULE)


def _adapter_changes(file: TensorFile) -> object:
    return read_adapter_changes(read_domain_adapter(file), file.name)


def _sparse_control(file: TensorFile) -> object:
    sparse = read_sparse_control(file)
    return build(sparse.spec, sparse.motion, sparse.name)


LOADERS: dict[str, Callable[[TensorFile], object]] = {
    "motion module": _loaded_module,
    "report of a motion module": lambda file: list(describe_motion_module(file)),
    "motion LoRA": _fitted_lora,
    "report of a motion LoRA": lambda file: list(describe_motion_lora(file)),
    "domain adapter": _adapter_changes,
    "report of a domain adapter": lambda file: list(describe_domain_adapter(file)),
    "domain adapter for the host": lambda file: in_kohya_layout(read_domain_adapter(file), file.name),
    "SparseCtrl": _sparse_control,
    "report of a training run": lambda file: list(describe_training(file.metadata)),
    "kind": lambda file: classify(file.tensors),
}


@cache
def _shapes_of_module() -> dict[str, tuple[int, ...]]:
    motion = read_motion_file(TensorFile(Path(MODULE), small_tensors(MODULE)))
    return {name: tuple(tensor.shape) for name, tensor in motion.tensors.items()}


def outcomes(path: Path) -> dict[str, object]:
    """What each loader makes of a file: a result, or the MotionError that it raises. All else is raised."""
    try:
        file = read_tensor_file(path)
    except MotionError as error:
        return {"file": error}
    assert sum(tensor.nbytes for tensor in file.tensors.values()) <= MAX_SHARED * file.path.stat().st_size
    return {name: _outcome(loader, file) for name, loader in LOADERS.items()}


def _outcome(loader: Callable[[TensorFile], object], file: TensorFile) -> object:
    try:
        return loader(file)
    except MotionError as error:
        return error


def errors_of(found: dict[str, object]) -> dict[str, str]:
    """The messages of those loaders that refused the file."""
    return {name: str(result) for name, result in found.items() if isinstance(result, MotionError)}


@contextmanager
def bounded(folder: Path) -> Iterator[None]:
    """Fails unless what is done with the files in a folder takes little time and memory, and leaves nothing behind."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    before, start = _peak_from_now(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own about sparse and quantised tensors: no reason to refuse a file
        yield
    assert time.process_time() - start < SECONDS
    assert _peak() - before <= MEMORY + MEMORY_OF_A_BYTE * size
    assert not (folder / CANARY).exists()


def _peak_from_now() -> int:
    """The memory in use, from which Linux now counts its peak anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return _peak()


def _peak() -> int:
    """The most memory that was in use, 0 where the system cannot say since when. Source: man 5 proc, VmHWM."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def check(folder: Path, write: Callable[[Path], Path]) -> dict[str, object]:
    """What the loaders make of a file that is written into an empty folder. Fails where a bound does not hold."""
    place = folder / "case"
    place.mkdir()
    try:
        path = write(place)
        with bounded(place):
            found = outcomes(path)
    finally:
        shutil.rmtree(place)
    assert all(len(message) < MAX_MESSAGE for message in errors_of(found).values())
    return found
