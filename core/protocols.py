"""What a lower floor asks of whoever stands above it."""

from typing import Any, Protocol


class Operations(Protocol):
    """The namespace that layers are built from: `torch.nn`, or a host's own casting layers."""

    Linear: Any
    LayerNorm: Any
    GroupNorm: Any
