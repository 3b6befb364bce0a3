"""What patched weights must be: changes added to a weight, in float64."""

from collections.abc import Iterable

import torch
from torch import Tensor

from motiongraft.lora.low_rank import LowRank


def merged(weight: Tensor, changes: Iterable[tuple[LowRank, float]]) -> Tensor:
    """A copy of a weight with changes added at their strengths.

    Shapes: weight `out in` -> the same, float64
    """
    result = weight.to(torch.float64, copy=True)
    for change, strength in changes:
        first = change.first_row or 0
        scale = 1.0 if change.alpha is None else change.alpha / change.rank
        result[first : first + change.num_rows] += strength * scale * (change.up.double() @ change.down.double())
    return result
