"""The files that the demo's runs end with, put into models: the way back from every published layout."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ...core.tensor_files import read_tensor_file
from ...lora.domain_adapter import read_domain_adapter
from ...lora.motion_lora import fit, read_motion_lora
from ...motion_modules.load import build, motion_tensors
from ...motion_modules.module import MotionModule
from ...motion_modules.spec import MotionModuleSpec
from ..diffusers_base import DiffusersBase, own_unet
from ..diffusers_stages import attention_layers


@torch.no_grad()
def with_domain_adapter(base: DiffusersBase, path: Path, strength: float = 1.0) -> DiffusersBase:
    """The base with a domain adapter added to weights of its own."""
    adapter = read_domain_adapter(read_tensor_file(path))
    unet = own_unet(base.unet)
    for stem, layer in attention_layers(unet).items():
        down, up = (adapter[f"{stem}_lora.{factor}.weight"] for factor in ("down", "up"))
        assert isinstance(layer.weight, Tensor)
        layer.weight = nn.Parameter(layer.weight + strength * up @ down, requires_grad=False)
    return replace(base, unet=unet)


def motion_module_from(path: Path, spec: MotionModuleSpec) -> MotionModule:
    """The motion module in a file, in float32."""
    file = read_tensor_file(path)
    return build(spec, motion_tensors(file), file.name, dtype=torch.float32).requires_grad_(False)


@torch.no_grad()
def add_motion_lora(module: MotionModule, path: Path, strength: float = 1.0) -> None:
    """Add a MotionLoRA to the weights of a module of one's own."""
    weights: Mapping[str, Tensor] = dict(module.named_parameters())
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    lora = read_motion_lora(read_tensor_file(path))
    for change in fit(lora, shapes, "the demo's motion module")[0]:
        first = change.first_row or 0
        weights[change.target][first : first + change.num_rows] += strength * change.up @ change.down
