"""A low-rank change out of two weights: the closest one of its rank."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from .low_rank import LowRank


@dataclass(frozen=True)
class Extracted:
    """A low-rank change, and the squared norms of what it was to be and of what it leaves out."""

    change: LowRank
    whole: float
    left_out: float


def extract(target: str, difference: Tensor, rank: int, first_row: int | None = None) -> Extracted:
    """The change of the given rank that is closest to a difference of weights, its singular values shared evenly.

    Shapes: difference `out in`
    Source: Eckart and Young 1936: the largest singular values give the closest matrix of a rank.
    """
    u, s, vh = cast(
        "tuple[Tensor, Tensor, Tensor]", cast(Any, torch.linalg).svd(difference.double(), full_matrices=False)
    )
    root = s[:rank].sqrt()
    change = LowRank(target, (u[:, :rank] * root).float(), (root[:, None] * vh[:rank]).float(), first_row=first_row)
    return Extracted(change, float((s**2).sum()), float((s[rank:] ** 2).sum()))
