"""A change of one weight matrix, kept as two thin factors."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """The change `up @ down * alpha / rank` of one weight, or of some of its rows.

    Shapes: up `out r`, down `r in`
    Source: arXiv 2106.09685 section 4.1; a file without alpha means alpha = rank.
    """

    target: str
    """Name of the weight that changes."""
    up: Tensor
    down: Tensor
    alpha: float | None = None
    first_row: int | None = None
    """Where the change starts in a fused weight; None if it covers the whole weight."""

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def num_rows(self) -> int:
        return self.up.shape[0]


def merged(weight: Tensor, changes: Iterable[tuple[LowRank, float]]) -> Tensor:
    """A copy of a weight with changes added at their strengths, computed in float64.

    Shapes: weight `out in` -> the same, float64
    """
    result = weight.to(torch.float64, copy=True)
    for change, strength in changes:
        first = change.first_row or 0
        rows = result[first : first + change.num_rows]
        rows += strength * change.scale * (change.up.double() @ change.down.double())
    return result
