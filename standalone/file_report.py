"""The command `inspect`: what a file or folder of weights is, in words."""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from torch import Tensor

from ..core.diffusers_folders import CONFIG, PEFT_CONFIG
from ..core.file_kinds import CHECKPOINT, DOMAIN_ADAPTER, LORA, MOTION_LORA, MOTION_MODULE, UNET, FileKind, classify
from ..core.tensor_files import TensorFile, read_tensor_file
from ..core.training_record import describe_training
from ..lora.report import describe_domain_adapter, describe_motion_lora
from ..motion_modules.report import describe_motion_module
from .given_files import check_given

MEBIBYTE = 2**20
Description = Callable[[TensorFile], Iterator[str]]


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
    if path.is_dir() and not any((path / config).is_file() for config in (CONFIG, PEFT_CONFIG)):
        yield f"{path.name}: a diffusers folder"
        yield from _of_base(path)
        return
    file = read_tensor_file(path)
    kind = classify(file.tensors)
    yield f"{file.name}: {kind.description}"
    yield f"  {len(file.tensors)} tensors, {_types(file.tensors)}, {file.path.stat().st_size / MEBIBYTE:,.1f} MiB"
    yield from (f"  {line}" for line in _DESCRIPTIONS.get(kind, _nothing)(file))
    yield from (f"  {line}" for line in describe_training(file.metadata))


def _of_base_file(file: TensorFile) -> Iterator[str]:
    return _of_base(file.path)


def _of_base(path: Path) -> Iterator[str]:
    from .diffusers_base import load_base  # loading diffusers takes seconds, and other files do not need it

    base = load_base(path)
    widths = ", ".join(map(str, base.shape.channels))
    yield f"a base model of {base.shape.family}: widths {widths}, text {base.text_width} wide"
    yield f"predicts {base.predicts}, latents times {base.latent_scale}"


def _nothing(_: TensorFile) -> Iterator[str]:
    return iter(())


_DESCRIPTIONS: Mapping[FileKind, Description] = MappingProxyType(
    {
        MOTION_MODULE: describe_motion_module,
        MOTION_LORA: describe_motion_lora,
        DOMAIN_ADAPTER: describe_domain_adapter,
        LORA: describe_domain_adapter,
        CHECKPOINT: _of_base_file,
        UNET: _of_base_file,
    }
)


def _types(tensors: Mapping[str, Tensor]) -> str:
    counts = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    return " and ".join(f"{name}" for name, _ in counts.most_common())
