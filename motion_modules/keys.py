"""Canonical names of motion tensors: the published ones, but for what is kept in another form in memory.

q, k and v share one matrix; the input convolution of PIA is split into what is the base's and what sees the image.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..core.dialects import NUMBER
from ..core.dialects import POSITION_TABLE as POSITION_TABLE

ADDRESS = re.compile(
    rf"^(?:(down_blocks|up_blocks)\.({NUMBER})|mid_block)\.motion_modules\.({NUMBER})\.temporal_transformer\."
)
PARTS = ("q", "k", "v")
_PART = re.compile(r"\.to_([qkv])\.weight$")
_FUSED = ".to_qkv.weight"

LATENT_CHANNELS, IMAGE_CHANNELS = 4, 5
"""Of PIA's input: the noisy latent; affinity and the latent of the image."""
INPUT_WEIGHT, INPUT_BIAS = "conv_in.weight", "conv_in.bias"
"""The input convolution of PIA: latent, mask and image latent in this order. Source: open-mmlab/PIA i2v_pipeline.py."""
IMAGE_WEIGHT, BASE_WEIGHT, BASE_BIAS = "image_input.image.weight", "image_input.base_weight", "image_input.base_bias"
"""Its parts in memory: the channels of the image, and what an animated base has its own of."""


def is_image_input(name: str) -> bool:
    """Whether a tensor in memory is a part of PIA's input convolution."""
    return name.startswith("image_input.")


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


def canonical(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors in the form that they have in memory. `published` undoes it."""
    fused = fuse_qkv(tensors)
    if INPUT_WEIGHT not in fused:
        return fused
    weight = fused.pop(INPUT_WEIGHT)
    fused |= {IMAGE_WEIGHT: weight[:, LATENT_CHANNELS:].contiguous(), BASE_WEIGHT: weight[:, :LATENT_CHANNELS].clone()}
    if INPUT_BIAS in fused:
        fused[BASE_BIAS] = fused.pop(INPUT_BIAS)
    return fused


def published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in memory under their published names. Inverse of `canonical`."""
    split = split_qkv(tensors)
    if IMAGE_WEIGHT not in split:
        return split
    base, image, bias = (split.pop(name) for name in (BASE_WEIGHT, IMAGE_WEIGHT, BASE_BIAS))
    return {**split, INPUT_WEIGHT: torch.cat([base, image.to(base.dtype)], 1), INPUT_BIAS: bias}
