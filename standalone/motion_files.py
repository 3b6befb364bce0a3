"""Motion modules and low-rank changes from files into plain modules, without a host's patches."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.errors import CheckpointError, IncompatibleModelError, some
from ..core.tensor_files import read_tensor_file
from ..lora.domain_adapter import read_domain_adapter
from ..lora.low_rank import LowRank
from ..lora.motion_lora import MotionLoRA, fit, read_motion_lora
from ..motion_modules.keys import strip_prefixes
from ..motion_modules.load import build, motion_tensors
from ..motion_modules.module import MotionModule
from ..motion_modules.spec_reader import read_spec
from .diffusers_base import DiffusersBase, own_unet
from .diffusers_stages import attention_layers

DOWN, UP = "_lora.down.weight", "_lora.up.weight"


def load_motion_module(path: Path) -> MotionModule:
    """The motion module of a file, in float32 on the CPU, frozen.

    Raises: CheckpointError if the file is not a whole, sound motion module.
    """
    file = read_tensor_file(path)
    tensors = motion_tensors(file)
    spec = read_spec(tensors, file.metadata, file.name)
    return build(spec, tensors, file.name, dtype=torch.float32).requires_grad_(False).eval()


def load_motion_lora(path: Path) -> MotionLoRA:
    """The MotionLoRA of a file. Raises: CheckpointError if it holds something else."""
    return read_motion_lora(read_tensor_file(path))


def load_domain_adapter(path: Path) -> dict[str, Tensor]:
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

    Raises: IncompatibleModelError if the adapter is in another layout than AnimateDiff's, or for another base.
    Source: arXiv 2307.04725 section 4.1.
    """
    unet = own_unet(base.unet)
    layers = attention_layers(unet)
    for stem, change in _adapter_changes(adapter, name).items():
        layer = layers.get(stem)
        shape = (change.num_rows, change.down.shape[1])
        if not isinstance(layer, nn.Linear) or tuple(layer.weight.shape) != shape:
            found = "nothing" if not isinstance(layer, nn.Linear) else "×".join(map(str, layer.weight.shape))
            raise IncompatibleModelError(
                f"{name} changes {'×'.join(map(str, shape))} weights of {stem}, this base model has {found} there. "
                f"Choose a domain adapter made for {base.shape.family}, and for this base model's size."
            )
        merged = layer.weight.float() + strength * dense(change).to(layer.weight.device)
        layer.weight = nn.Parameter(merged.to(layer.weight.dtype), requires_grad=False)
    return replace(base, unet=unet)


def dense(change: LowRank) -> Tensor:
    """The whole change as one matrix in float32. Shapes: -> `out in`"""
    scale = 1.0 if change.alpha is None else change.alpha / change.rank
    return scale * change.up.float() @ change.down.float()


def _adapter_changes(adapter: Mapping[str, Tensor], name: str) -> dict[str, LowRank]:
    """The changes of a domain adapter by published stem."""
    named = {strip_prefixes(key): tensor for key, tensor in adapter.items()}
    stems = {key.removesuffix(suffix) for key in named for suffix in (DOWN, UP) if key.endswith(suffix)}
    foreign = [key for key in named if not key.endswith((DOWN, UP))]
    if foreign or not stems:
        raise IncompatibleModelError(
            f"{name}: expected AnimateDiff's own layout (….attn1.processor.to_q_lora.down.weight), found "
            f"{some(foreign[:2]) or 'nothing'}. Without ComfyUI, MotionGraft reads this layout alone; choose a domain "
            "adapter in it."
        )
    unpaired = [stem for stem in stems if not {f"{stem}{DOWN}", f"{stem}{UP}"} <= named.keys()]
    if unpaired:
        raise CheckpointError(f"{name}: {some(unpaired[:2])} has one of its two matrices alone. Get the file again.")
    return {stem: LowRank(stem, named[f"{stem}{UP}"], named[f"{stem}{DOWN}"]) for stem in sorted(stems)}
