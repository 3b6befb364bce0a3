"""Motion modules and low-rank changes from files into plain modules, without a host's patches."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.errors import IncompatibleModelError
from ..core.tensor_files import read_tensor_file
from ..lora.domain_adapter import DomainAdapter, read_adapter_changes, read_domain_adapter
from ..lora.low_rank import LowRank
from ..lora.motion_lora import MotionLoRA, fit, read_motion_lora
from ..motion_modules.generations import AUTO
from ..motion_modules.load import build, log_identity, read_motion_file
from ..motion_modules.module import MotionModule
from .diffusers_base import DiffusersBase, own_unet


def load_motion_module(path: Path, generation: str = AUTO) -> MotionModule:
    """The motion module of a file, in float32 on the CPU, frozen. `generation` overrules what the file shows.

    Raises: CheckpointError if the file is not a whole, sound motion module.
    """
    motion = read_motion_file(read_tensor_file(path), generation)
    log_identity(motion)
    return build(motion.spec, motion.tensors, motion.name, dtype=torch.float32).requires_grad_(False).eval()


def load_motion_lora(path: Path) -> MotionLoRA:
    """The MotionLoRA of a file. Raises: CheckpointError if it holds something else."""
    return read_motion_lora(read_tensor_file(path))


def load_domain_adapter(path: Path) -> DomainAdapter:
    """The domain adapter of a file, by the names of the file. Raises: CheckpointError if it holds something else."""
    return read_domain_adapter(read_tensor_file(path))


@torch.no_grad()
def add_motion_lora(module: MotionModule, lora: MotionLoRA, strength: float, name: str = "the motion module") -> None:
    """Add a MotionLoRA to the weights of a motion module of the caller's own, for good.

    Raises: IncompatibleModelError if it does not fit the module.
    """
    weights = dict(module.named_parameters())
    changes, _ = fit(lora, {key: tuple(weight.shape) for key, weight in weights.items()}, name)
    for change in changes:
        weight = weights[change.target]
        first = change.first_row or 0
        weight[first : first + change.num_rows] += strength * dense(change).to(weight)


def with_domain_adapter(
    base: DiffusersBase, adapter: Mapping[str, Tensor], strength: float = 1.0, name: str = "the domain adapter"
) -> DiffusersBase:
    """The base with a domain adapter added at the paper's α; it shares all weights that the adapter does not change.

    Raises: IncompatibleModelError if the adapter does not fit.
    Source: arXiv 2307.04725 section 4.1.
    """
    unet = own_unet(base.unet)
    layers = dict(unet.named_modules())
    for name_of_layer, change in read_adapter_changes(adapter, name).changes.items():
        layer = layers.get(name_of_layer)
        shape = (change.num_rows, change.down.shape[1])
        kind = nn.Conv2d if change.is_convolution else nn.Linear
        if not isinstance(layer, kind) or tuple(layer.weight.shape[:2]) != shape:
            found = "×".join(map(str, layer.weight.shape)) if isinstance(layer, nn.Linear | nn.Conv2d) else "nothing"
            raise IncompatibleModelError(
                f"{name} changes {'×'.join(map(str, shape))} weights of {name_of_layer}, this base model has {found} "
                f"there. Choose a domain adapter made for {base.shape.family}, and for this base model's size."
            )
        merged = layer.weight.float() + strength * dense(change).to(layer.weight.device).view_as(layer.weight)
        layer.weight = nn.Parameter(merged.to(layer.weight.dtype), requires_grad=False)
    return replace(base, unet=unet)


def dense(change: LowRank) -> Tensor:
    """The whole change as one matrix in float32. Shapes: -> `out in`"""
    return change.scale * change.up.float() @ change.down.float()
