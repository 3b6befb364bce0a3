"""A change of one weight matrix, kept as two thin factors."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

_BLOCK = re.compile(r"^(?:down_blocks|mid_block|up_blocks)\.")
_FOURTH_LEVEL = re.compile(r"^(?:down|up)_blocks\.3\.")


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
    is_convolution: bool = False
    """The weight is a convolution of one pixel, `out in 1 1`, and so are the factors in a file."""

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def num_rows(self) -> int:
        return self.up.shape[0]

    @property
    def scale(self) -> float:
        """What `up @ down` is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


def base_of(layers: Iterable[str]) -> str | None:
    """The family of base models whose UNet has layers of these names: only SD 1.5's has a fourth level.

    None if a name is of something else than blocks of such a UNet.
    """
    layers = list(layers)
    if not layers or not all(_BLOCK.match(layer) for layer in layers):
        return None
    return "SD 1.5" if any(_FOURTH_LEVEL.match(layer) for layer in layers) else "SDXL"
