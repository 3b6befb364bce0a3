"""The three stages on ComfyUI's UNet: a trainee in its place, and the denoiser around it."""

from typing import Any

import torch
from torch import Tensor, nn

from ..motion_modules.module import MotionModule
from ..training import stages
from ..training.trainee import Trainee
from .attention_layers import attention_weights_of_base
from .denoiser import ComfyDenoiser
from .noise_schedule import sampling_on
from .training_base import TrainingBase
from .unet import base_name

Prepared = tuple[Trainee, ComfyDenoiser]


def shape_of(base: TrainingBase) -> stages.BaseShape:
    """What a stage must know of the base."""
    unet = base.unet
    return stages.BaseShape(
        base_name(base.patcher), tuple(unet.model_channels * factor for factor in unet.channel_mult)
    )


def prepare_domain_adapter(base: TrainingBase, precision: torch.dtype, rank: int, seed: int) -> Prepared:
    """Stage 1 in a base on its device."""
    denoiser = ComfyDenoiser(base, precision)
    layers = {stem: _layer(base.unet, weight) for stem, weight in attention_weights_of_base(base.patcher).items()}
    trainee = stages.domain_adapter_trainee(shape_of(base), denoiser.base_alphas, layers, rank, seed)
    trainee.module.to(denoiser.device)
    return trainee, denoiser


def prepare_motion_module(base: TrainingBase, precision: torch.dtype, module: MotionModule, name: str) -> Prepared:
    """Stage 2 in a base on its device."""
    module.to(base.patcher.load_device)
    trainee = stages.motion_module_trainee(shape_of(base), module, _shares(base, module))
    return trainee, ComfyDenoiser(base, precision, module, name)


def prepare_motion_lora(
    base: TrainingBase, precision: torch.dtype, module: MotionModule, name: str, rank: int, seed: int
) -> Prepared:
    """Stage 3 in a base on its device."""
    trainee = stages.motion_lora_trainee(shape_of(base), module, rank, seed, _shares(base, module))
    for part in (module, trainee.module):
        part.to(base.patcher.load_device)
    return trainee, ComfyDenoiser(base, precision, module, name)


def _shares(base: TrainingBase, module: MotionModule) -> Tensor | None:
    """ᾱ as InflateModel will sample it on a base with zero terminal SNR; None for any other base."""
    if not getattr(base.sampling, "zsnr", False):
        return None
    schedule = stages.schedule_of(module.spec)
    return 1 / (1 + sampling_on(base.patcher, base.sampling, schedule).sigmas.cpu().double() ** 2)


def _layer(unet: Any, weight: str) -> nn.Module:
    return unet.get_submodule(weight.removesuffix(".weight"))
