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

    Shapes: three `c c` -> one `(3 c) c`
    """
    fused = {name: tensor for name, tensor in tensors.items() if not _PART.search(name)}
    for name in tensors:
        part = _PART.search(name)
        stem = name[: part.start()] if part else ""
        names = [f"{stem}.to_{each}.weight" for each in PARTS]
        if part and part[1] == "q" and all(each in tensors for each in names):
            fused[stem + _FUSED] = torch.cat([tensors[each] for each in names])
    return fused | {name: tensor for name, tensor in tensors.items() if _is_alone(name, tensors)}


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


def _is_alone(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether this is a q, k or v without its two partners; the loader then names it as unmatched."""
    part = _PART.search(name)
    return bool(part) and not all(f"{name[: part.start()]}.to_{each}.weight" in tensors for each in PARTS)
