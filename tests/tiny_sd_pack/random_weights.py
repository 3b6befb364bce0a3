"""Seeded random weights under given names, scaled so that a forward pass neither explodes nor dies out."""

import torch
from torch import Tensor

NORM_SPREAD = 0.1
"""Norms and biases deviate this far from neutral, so that a test notices when one of them is skipped."""


class RandomWeights:
    """Draws layers one after another; the same seed and the same calls give the same tensors."""

    def __init__(self, seed: int) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._generator = torch.Generator().manual_seed(seed)

    def linear(self, name: str, inputs: int, outputs: int, *, bias: bool = True, gain: float = 1.0) -> None:
        """A matrix that keeps the variance of its input at gain 1."""
        self.normal(f"{name}.weight", (outputs, inputs), gain * inputs**-0.5)
        if bias:
            self.normal(f"{name}.bias", (outputs,), gain * NORM_SPREAD)

    def conv(
        self, name: str, inputs: int, outputs: int, *, kernel: int = 3, bias: bool = True, gain: float = 1.0
    ) -> None:
        """A square convolution that keeps the variance of its input at gain 1."""
        self.normal(f"{name}.weight", (outputs, inputs, kernel, kernel), gain * (inputs * kernel**2) ** -0.5)
        if bias:
            self.normal(f"{name}.bias", (outputs,), gain * NORM_SPREAD)

    def norm(self, name: str, channels: int) -> None:
        """The scale and shift of a GroupNorm or LayerNorm, close to neutral."""
        self.normal(f"{name}.weight", (channels,), NORM_SPREAD)
        self.tensors[f"{name}.weight"] += 1.0
        self.normal(f"{name}.bias", (channels,), NORM_SPREAD)

    def normal(self, name: str, shape: tuple[int, ...], deviation: float) -> None:
        """One tensor of normal numbers around zero."""
        self.tensors[name] = torch.randn(shape, generator=self._generator) * deviation
