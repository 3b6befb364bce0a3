"""What a lower floor asks of whoever stands above it."""

from typing import Any, Protocol

from torch import Tensor, nn


class Operations(Protocol):
    """The namespace that layers are built from: `torch.nn`, or a host's own casting layers."""

    Linear: Any
    LayerNorm: Any
    GroupNorm: Any
    Conv2d: Any


class LinearRunner(Protocol):
    """Runs a linear layer of a module that others share; a host may add to what the layer gives in this call."""

    def __call__(self, layer: nn.Module, x: Tensor, /) -> Tensor: ...


def run_plainly(layer: nn.Module, x: Tensor, /) -> Tensor:
    """What the layer gives, and nothing else."""
    return layer(x)
