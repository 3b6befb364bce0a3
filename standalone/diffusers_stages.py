"""The three stages on a UNet of diffusers: a trainee in its place, and the denoiser around it."""

import re
from typing import Any

import torch
from torch import nn

from ..core.errors import IncompatibleModelError
from ..motion_modules.module import MotionModule
from ..training import stages
from ..training.trainee import Trainee
from .diffusers_base import DiffusersBase
from .diffusers_denoiser import DiffusersDenoiser

Prepared = tuple[Trainee, DiffusersDenoiser]

_PROJECTION = re.compile(
    r"^(?P<attention>(?:(?:down|up)_blocks\.\d+|mid_block)\.attentions\.\d+\.transformer_blocks\.\d+\.attn[12])"
    r"\.to_(?P<part>q|k|v|out)(?P<first>\.0)?$"
)


def attention_layers(unet: nn.Module) -> dict[str, nn.Module]:
    """The projections of a UNet's spatial attentions, by the stems that published domain adapters have for them.

    `down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out` has the layer `….attn1.to_out.0`.
    Raises: IncompatibleModelError if the UNet has no spatial transformers.
    """
    named: Any = unet.named_modules()
    matches = [(_PROJECTION.match(name), layer) for name, layer in named]
    found = {
        f"{match['attention']}.processor.to_{match['part']}": layer
        for match, layer in matches
        if match and (match["part"] == "out") == (match["first"] is not None)
    }
    if not found:
        raise IncompatibleModelError(
            "a domain adapter changes the spatial attention of SD 1.5 or SDXL models, and this UNet has none. "
            "Choose an SD 1.5 or SDXL checkpoint."
        )
    return dict(sorted(found.items()))


def prepare_domain_adapter(
    base: DiffusersBase, device: torch.device, precision: torch.dtype, rank: int, seed: int
) -> Prepared:
    """Stage 1 in a UNet of the run's own."""
    denoiser = DiffusersDenoiser(base, device, precision)
    layers = attention_layers(denoiser.unet)
    trainee = stages.domain_adapter_trainee(base.shape, denoiser.base_alphas, layers, rank, seed)
    trainee.module.to(device)
    return trainee, denoiser


def prepare_motion_module(
    base: DiffusersBase, device: torch.device, precision: torch.dtype, module: MotionModule, name: str = ""
) -> Prepared:
    """Stage 2 in a UNet of the run's own."""
    module.to(device)
    trainee = stages.motion_module_trainee(base.shape, module, base.on(stages.motion_shares(module.spec)))
    return trainee, DiffusersDenoiser(base, device, precision, module, name)


def prepare_motion_lora(
    base: DiffusersBase,
    device: torch.device,
    precision: torch.dtype,
    module: MotionModule,
    name: str,
    rank: int,
    seed: int,
) -> Prepared:
    """Stage 3 in a UNet of the run's own."""
    shares = base.on(stages.motion_shares(module.spec))
    trainee = stages.motion_lora_trainee(base.shape, module, rank, seed, shares)
    for part in (module, trainee.module):
        part.to(device)
    return trainee, DiffusersDenoiser(base, device, precision, module, name)
