"""The command `inspect`: what a file or folder of weights is, in words."""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.file_kinds import CHECKPOINT, DOMAIN_ADAPTER, MOTION_LORA, MOTION_MODULE, UNET, FileKind, classify
from ..core.tensor_files import TensorFile, read_tensor_file
from ..lora.domain_adapter import read_domain_adapter
from ..lora.motion_lora import read_motion_lora
from ..lora.saved_forms import TRAINING
from ..motion_modules.load import check_tensors, motion_tensors
from ..motion_modules.spec_reader import read_spec
from .given_files import check_given

MEBIBYTE = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `inspect`."""
    parser.add_argument("file", type=Path, help="a weight file, or a diffusers folder")


def main(options: argparse.Namespace) -> int:
    """Print what a file is. Raises: MotionError if it is damaged, or not whole."""
    check_given(options.file, "inspect")
    for line in described(options.file):
        print(line)  # noqa: T201 - the command's answer
    return 0


def described(path: Path) -> Iterator[str]:
    """What there is to say about a file, line by line."""
    if path.is_dir():
        yield f"{path.name}: a diffusers folder"
        yield from _of_base(path)
        return
    file = read_tensor_file(path)
    kind = classify(file.tensors)
    yield f"{file.name}: {kind.description}"
    yield f"  {len(file.tensors)} tensors, {_types(file.tensors)}, {path.stat().st_size / MEBIBYTE:,.1f} MiB"
    yield from _of_kind(kind, file)
    if TRAINING in file.metadata:
        yield from _of_training(file.metadata[TRAINING])


def _of_kind(kind: FileKind, file: TensorFile) -> Iterator[str]:
    if kind is MOTION_MODULE:
        return _of_motion_module(file)
    if kind is MOTION_LORA:
        return _of_motion_lora(file)
    if kind is DOMAIN_ADAPTER:
        return _of_domain_adapter(file)
    return _of_base(file.path) if kind in (CHECKPOINT, UNET) else iter(())


def _of_motion_module(file: TensorFile) -> Iterator[str]:
    tensors = motion_tensors(file)
    spec = read_spec(tensors, file.metadata, file.name)
    check_tensors(spec, tensors, file.name)
    widths = ", ".join(map(str, spec.down_channels))
    middle = "a middle block" if spec.middle_channels else "no middle block"
    yield f"  generation {spec.generation}, for {spec.base}: widths {widths}, {middle}"
    yield f"  up to {spec.num_positions} frames at once, trained on {spec.trained_frames}"
    yield f"  noise schedule {spec.beta_schedule}"
    base = "all frames of a clip" if spec.base_norms_over_frames else "each frame"
    own = "all frames of a clip" if spec.motion_norm_over_frames else "each frame"
    yield f"  norms: the base's over {base}, its own over {own}"


def _of_motion_lora(file: TensorFile) -> Iterator[str]:
    lora = read_motion_lora(file)
    middle = any(change.target.startswith("mid_block.") for change in lora.changes)
    yield f"  rank {_ranks(change.rank for change in lora.changes)}, {len(lora.changes)} changes of temporal attention"
    yield f"  {'with' if middle else 'without'} a middle block"


def _of_domain_adapter(file: TensorFile) -> Iterator[str]:
    adapter = read_domain_adapter(file)
    ranks = [tensor.shape[0] for name, tensor in adapter.items() if name.endswith(".down.weight")]
    if ranks:
        yield f"  rank {_ranks(ranks)}, {len(ranks)} changes of the base model's attention"


def _of_base(path: Path) -> Iterator[str]:
    from .diffusers_base import load_base  # loading diffusers takes seconds, and other files do not need it

    base = load_base(path)
    widths = ", ".join(map(str, base.shape.channels))
    yield f"  a base model of {base.shape.family}: widths {widths}, text {base.text_width} wide"
    yield f"  predicts {base.predicts}, latents times {base.latent_scale}"


def _of_training(said: Any) -> Iterator[str]:
    """What a file's metadata says of the run that made it."""
    if isinstance(said, Mapping):
        shown = [f"{key} {value}" for key, value in said.items() if isinstance(value, str | int | float)]
        yield f"  trained by MotionGraft: {', '.join(shown) or 'the run is not described'}"


def _types(tensors: Mapping[str, Tensor]) -> str:
    counts = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    return " and ".join(f"{name}" for name, _ in counts.most_common())


def _ranks(ranks: Any) -> str:
    return ", ".join(map(str, sorted(set(ranks))))
