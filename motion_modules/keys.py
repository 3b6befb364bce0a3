"""Names of motion tensors: what published files put around them, and how q, k and v share one matrix in memory."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

PREFIXES = ("module.", "unet.", "motion_module.")
"""What trainers and converters put in front of every name.

Source: `module.` is DistributedDataParallel's, guoyww/AnimateDiff train.py.
"""

ADDRESS = re.compile(r"^(?:(down_blocks|up_blocks)\.(\d+)|mid_block)\.motion_modules\.(\d+)\.temporal_transformer\.")
POSITION_TABLE = ".pos_encoder.pe"
PARTS = ("q", "k", "v")
_PART = re.compile(r"\.to_([qkv])\.weight$")
_FUSED = ".to_qkv.weight"


def strip_prefixes(name: str) -> str:
    """The name without what a trainer put in front of it."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            if name.startswith(prefix):
                name, stripped = name[len(prefix) :], True
    return name


def fuse_qkv(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with each attention's q, k and v matrices as one, in this order of rows. `split_qkv` undoes it.

    A q, k or v without its partners, or of another shape, keeps its name, for the loader to name it as left over.
    Shapes: three `c c` -> one `(3 c) c`
    """
    fused = dict(tensors)
    for stem in {name[: part.start()] for name in tensors if (part := _PART.search(name))}:
        names = [f"{stem}.to_{part}.weight" for part in PARTS]
        matrices = [tensors[name] for name in names if name in tensors]
        if len(matrices) == len(PARTS) and len({(matrix.shape, matrix.dtype) for matrix in matrices}) == 1:
            fused[stem + _FUSED] = torch.cat(matrices)
            for name in names:
                del fused[name]
    return fused


def split_qkv(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under their published names, with q, k and v apart. Inverse of `fuse_qkv`.

    Shapes: `(3 c) c` -> three `c c`
    """
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(_FUSED):
            stem = name[: -len(_FUSED)]
            split |= {f"{stem}.to_{part}.weight": rows for part, rows in zip(PARTS, tensor.chunk(3), strict=True)}
        else:
            split[name] = tensor
    return split
