"""Whether weights hold numbers."""

from collections.abc import Mapping

import torch
from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite. One pass without a copy, unless the sum leaves a doubt.

    A tensor on the meta device has no values, and so none that are not finite.
    """
    if not tensor.is_floating_point() or tensor.is_meta:
        return True
    if tensor.element_size() == 1:
        tensor = tensor.to(torch.float16)  # 8-bit floats cannot be summed, and fit without loss
    return bool(torch.isfinite(tensor.sum(dtype=torch.float32))) or bool(torch.isfinite(tensor).all())


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold NaN or infinity."""
    return [name for name, tensor in tensors.items() if not is_finite(tensor)]
