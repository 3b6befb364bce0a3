"""The command `extract`: a MotionLoRA out of the difference between two motion modules."""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from ..core.errors import IncompatibleModelError, SettingsError
from ..core.tensor_files import read_tensor_file
from ..lora.extraction import Extracted, extract
from ..lora.motion_lora import MotionLoRA
from ..lora.saved_forms import motion_lora_form
from ..motion_modules.load import MotionFile, read_motion_file
from ..motion_modules.merging import check_alike
from ..motion_modules.written_layouts import DTYPES
from .given_files import check_given
from .written_files import check_target, write_weights

ATTENTIONS = (".to_qkv.weight", ".to_out.0.weight")
"""The weights that a MotionLoRA changes, as they are in memory."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `extract`."""
    parser.add_argument("base", type=Path, metavar="BASE", help="the motion module that the MotionLoRA is for")
    parser.add_argument("tuned", type=Path, metavar="TUNED", help="the same module, trained further")
    parser.add_argument("--out", type=Path, required=True, help="a new .safetensors file")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp16")


def main(options: argparse.Namespace) -> int:
    """Write the MotionLoRA, say what it leaves out, and print its path. Raises: MotionError for what cannot be done."""
    if options.rank < 1:
        raise SettingsError(f"--rank should be 1 or more, found {options.rank}. 64 is that of the published files.")
    check_target(options.out)
    for path in (options.base, options.tuned):
        check_given(path, "extract")
    base, tuned = (read_motion_file(read_tensor_file(path)) for path in (options.base, options.tuned))
    found = extract_motion_lora(base, tuned, options.rank)
    lora = MotionLoRA(options.out.stem, tuple(each.change for each in found))
    tensors, metadata = motion_lora_form(lora)
    sys.stderr.write(f"{error_report(base, tuned, found)}\n")
    write_weights(options.out, tensors, metadata, DTYPES[options.dtype])
    print(options.out)  # noqa: T201 - the command's answer
    return 0


def extract_motion_lora(base: MotionFile, tuned: MotionFile, rank: int) -> list[Extracted]:
    """The closest change of a rank for q, k, v and out of every temporal attention. Shows progress on stderr.

    Raises: IncompatibleModelError if the modules are of different shapes, or do not differ in their attentions.
    """
    check_alike(base, tuned, "compared")
    found: list[Extracted] = []
    parts = list(_differences(base.tensors, tuned.tensors))
    for done, (name, difference, first_row) in enumerate(parts, 1):
        found.append(extract(name, difference, rank, first_row))
        sys.stderr.write(f"\r{done} of {len(parts)} matrices{chr(10) if done == len(parts) else ''}")
    if not any(each.whole for each in found):
        raise IncompatibleModelError(
            f"{base.name} and {tuned.name} have the same attentions, so that there is nothing to extract. "
            "Choose two modules that differ."
        )
    return found


def error_report(base: MotionFile, tuned: MotionFile, found: list[Extracted]) -> str:
    """How much of the difference the MotionLoRA holds, in squared norms."""
    attentions = sum(each.whole for each in found)
    left_out = sum(each.left_out for each in found)
    elsewhere = sum(
        float((tuned.tensors[name].double() - tensor.double()).square().sum())
        for name, tensor in base.tensors.items()
        if not name.endswith((*ATTENTIONS, ".pe"))
    )
    return (
        f"the MotionLoRA holds {1 - left_out / attentions:.2%} of what the attentions differ by, relative error "
        f"{(left_out / attentions) ** 0.5:.2e}; {elsewhere / (elsewhere + attentions):.2%} of the whole difference "
        "lies in other layers, which no MotionLoRA of AnimateDiff's layout changes"
    )


def _differences(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, int | None]]:
    """The difference of each matrix of the files, q, k and v apart, with its first row in the weight in memory."""
    for name, weight in base.items():
        if not name.endswith(ATTENTIONS):
            continue
        difference = tuned[name].float() - weight.float()
        if name.endswith(ATTENTIONS[1]):
            yield name, difference, None
        else:
            rows = len(difference) // 3
            yield from ((name, part, index * rows) for index, part in enumerate(difference.split(rows)))
