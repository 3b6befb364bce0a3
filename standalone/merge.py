"""The command `merge`: one motion module out of several."""

import argparse
from pathlib import Path

from ..core.errors import SettingsError
from ..core.tensor_files import read_tensor_file
from ..motion_modules.load import build, read_motion_file, saved_form
from ..motion_modules.merging import merge
from ..motion_modules.written_layouts import DTYPES
from .animate import file_and_strength
from .given_files import check_given
from .written_files import check_target, write_weights

MERGED = "merged"
"""The entry of our metadata that lists the modules in the weights, each with its share."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `merge`."""
    parser.add_argument(
        "modules", nargs="+", metavar="FILE:WEIGHT", help="two or more motion modules, such as v3.ckpt:0.7"
    )
    parser.add_argument("--out", type=Path, required=True, help="a new .safetensors file")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp16")


def main(options: argparse.Namespace) -> int:
    """Write the merged module and print its path. Raises: MotionError for what cannot be read, merged or written."""
    given = [_file_and_weight(text) for text in options.modules]
    if len(given) < 2:
        raise SettingsError("merge takes two or more motion modules, found one. Give each as FILE:WEIGHT.")
    check_target(options.out)
    for path, _ in given:
        check_given(path, "merge")
    merged = merge([(read_motion_file(read_tensor_file(path)), weight) for path, weight in given])
    tensors, metadata = saved_form(build(merged.spec, merged.tensors, options.out.name))
    shares = [{"module": path.name, "weight": weight} for path, weight in given]
    metadata |= {"base": merged.spec.base, MERGED: shares}
    write_weights(options.out, tensors, metadata, DTYPES[options.dtype])
    print(options.out)  # noqa: T201 - the command's answer
    return 0


def _file_and_weight(text: str) -> tuple[Path, float]:
    """Without a weight of its own, each module would count whole, and the sum be no module."""
    path, weight = file_and_strength(text)
    if path == Path(text):
        raise SettingsError(f"merge takes each module with its weight, found {text!r}. Write, for example, {text}:0.5.")
    return path, weight
