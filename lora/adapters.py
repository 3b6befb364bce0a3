"""A low-rank change that can be trained: it listens to a linear layer and adds to what the layer gives."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import IncompatibleModelError
from .low_rank import LowRank


class LowRankAdapter(nn.Module):
    """The trainable change of one weight, or one for each of the equal parts that a fused weight is made of.

    Shapes: down `p r i`, up `p o r`, for p parts
    Source: arXiv 2106.09685 section 4.1: `up` starts at zero, so that training starts from the unchanged model. The
    published files have no alpha, so none is trained with.
    """

    def __init__(self, num_parts: int, in_features: int, out_features: int, rank: int, generator: torch.Generator):
        super().__init__()
        bound = in_features**-0.5  # what torch.nn.Linear starts from
        down = (torch.rand(num_parts, rank, in_features, generator=generator) * 2 - 1) * bound
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(torch.zeros(num_parts, out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output. Shapes: `… i` -> `… (p o)`"""
        parts = len(self.down)
        low = F.linear(x, self.down.flatten(0, 1).to(x.dtype))
        if parts == 1:
            return F.linear(low, self.up[0].to(x.dtype))
        lows = low.chunk(parts, dim=-1)
        return torch.cat([F.linear(each, up.to(x.dtype)) for each, up in zip(lows, self.up, strict=True)], dim=-1)

    def attach(self, layer: nn.Module) -> None:
        """Change what a layer gives from now on. The layer must be the caller's own."""

        def add(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            return output + self(inputs[0].to(output.dtype))

        layer.register_forward_hook(add)


class LowRankAdapters(nn.Module):
    """Adapters of many weights, by the names of the weights."""

    def __init__(self, targets: Mapping[str, nn.Module], num_parts: Mapping[str, int], rank: int, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.targets = list(targets)
        self.adapters = nn.ModuleList()
        for name, layer in targets.items():
            parts = num_parts.get(name, 1)
            out_features, in_features = _shape(name, layer)
            adapter = LowRankAdapter(parts, in_features, out_features // parts, rank, generator)
            adapter.attach(layer)
            self.adapters.append(adapter)


def low_rank_changes(targets: list[str], weights: Mapping[str, Tensor]) -> list[LowRank]:
    """The changes that the weights of `LowRankAdapters` amount to; a fused weight has one for each part."""
    changes: list[LowRank] = []
    for index, name in enumerate(targets):
        down, up = weights[f"adapters.{index}.down"], weights[f"adapters.{index}.up"]
        rows = up.shape[1]
        for part in range(up.shape[0]):
            first = part * rows if up.shape[0] > 1 else None
            changes.append(LowRank(name, up[part], down[part], first_row=first))
    return changes


def _shape(name: str, layer: nn.Module) -> tuple[int, int]:
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise IncompatibleModelError(
            f"{name} is not a plain linear layer ({type(layer).__name__}), so that no LoRA can be trained on it. "
            "Load the base model in fp16 or fp32, without quantisation."
        )
    return weight.shape[0], weight.shape[1]
