"""Modules with random weights, at toy width."""

from typing import TypeVar

import torch
from torch import nn

from motiongraft.motion_modules.module import MotionModule
from motiongraft.motion_modules.spec import MotionModuleSpec

TOY_CHANNELS = (32, 64, 128, 128)
TOY_SDXL_CHANNELS = (32, 64, 128)
AnyModule = TypeVar("AnyModule", bound=nn.Module)


def toy_spec(generation: str = "v3", **changes: object) -> MotionModuleSpec:
    """A spec of one of the published generations, at toy width."""
    channels = TOY_SDXL_CHANNELS if generation == "sdxl-beta" else TOY_CHANNELS
    published = {
        "v1": {"num_positions": 24, "base_norms_over_frames": True},
        "v2": {"num_positions": 32, "middle_channels": channels[-1]},
        "v3": {"num_positions": 32},
        "sdxl-beta": {"num_positions": 32, "motion_norm_over_frames": True, "beta_schedule": "sdxl-beta"},
    }
    fields = {"middle_channels": None, **published[generation], **changes}
    return MotionModuleSpec(generation=generation, down_channels=channels, up_channels=channels[::-1], **fields)


def random_module(spec: MotionModuleSpec, seed: int = 0) -> MotionModule:
    """A motion module whose every weight is random; the norms stay near one and the output is visible."""
    generator = torch.Generator().manual_seed(seed)
    module = MotionModule(spec).requires_grad_(False).eval()
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_norm = "norm" in name and name.endswith("weight")
        parameter.copy_(
            1 + 0.1 * noise if is_norm else noise * (parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1)
        )
    return module


def randomise(module: AnyModule, seed: int = 0) -> AnyModule:
    """A module of anybody's, its every weight random and of a size that keeps features as large as they come."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(1 + 0.1 * noise if parameter.ndim == 1 else noise * parameter[0].numel() ** -0.5)
    return module.eval().requires_grad_(False)
