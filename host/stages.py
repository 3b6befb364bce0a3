"""The three stages: which weights each one trains, where they sit in ComfyUI's UNet, and what is published of them."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from ..core import file_kinds
from ..lora.adapters import LowRankAdapters, low_rank_changes
from ..lora.motion_lora import MotionLoRA
from ..lora.saved_forms import domain_adapter_tensors, motion_lora_tensors
from ..motion_modules.keys import split_qkv
from ..motion_modules.module import MotionModule
from ..motion_modules.spec import MotionModuleSpec
from ..sampling.beta_schedules import BETA_SCHEDULES
from ..training.denoiser import Denoiser
from ..training.noise_schedule import signal_shares
from ..training.trainee import DOMAIN_ADAPTER, MOTION_LORA, MOTION_MODULE, Trainee
from .attention_layers import attention_weights_of_base
from .training_base import TrainingBase
from .unet import base_name

LAYOUTS = ("v3", "v2")
NUM_POSITIONS = 32
"""Source: guoyww/AnimateDiff configs/inference/inference-v2.yaml, `temporal_position_encoding_max_len`."""


def new_motion_module(base: TrainingBase, layout: str, trained_frames: int, seed: int) -> MotionModule:
    """A motion module for a base that adds nothing yet. SDXL's takes its own norm over all frames, as published.

    Source: arXiv 2307.04725 section 4.2 (zero output); guoyww/AnimateDiff, branch `sdxl`, for SDXL's norm and schedule.
    """
    unet = base.unet
    channels = tuple(unet.model_channels * factor for factor in unet.channel_mult)
    is_sdxl = base_name(base.patcher) == "SDXL"
    spec = MotionModuleSpec(
        generation="sdxl-beta" if is_sdxl else layout,
        down_channels=channels,
        up_channels=channels[::-1],
        middle_channels=channels[-1] if layout == "v2" else None,
        num_positions=max(NUM_POSITIONS, trained_frames),
        trained_frames=trained_frames,
        beta_schedule="sdxl-beta" if is_sdxl else "animatediff",
        motion_norm_over_frames=is_sdxl,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = MotionModule(spec)
    module.zero_outputs()
    return module


def domain_adapter_trainee(base: TrainingBase, denoiser: Denoiser, rank: int, seed: int) -> Trainee:
    """Stage 1: low-rank changes of every self- and cross-attention of the base, on the base's own noise schedule.

    Source: arXiv 2307.04725 section 4.1.
    """
    names = attention_weights_of_base(base.patcher)
    layers = {weight: _layer(base.unet, weight) for weight in names.values()}
    adapters = LowRankAdapters(layers, {}, rank, seed).to(denoiser.device)
    return Trainee(
        DOMAIN_ADAPTER,
        adapters,
        denoiser.base_alphas,
        lambda weights: domain_adapter_tensors(low_rank_changes(adapters.targets, weights), names),
        {"kind": file_kinds.DOMAIN_ADAPTER.name, "base": base_name(base.patcher), "rank": rank},
        single_frames=True,
    )


def motion_module_trainee(base: TrainingBase, module: MotionModule) -> Trainee:
    """Stage 2: all weights of the motion module, on the motion schedule. Source: arXiv 2307.04725 section 4.2."""
    module.to(base.patcher.load_device).requires_grad_(True)
    positions = {name: table.cpu() for name, table in module.named_buffers()}
    return Trainee(
        MOTION_MODULE,
        module,
        signal_shares(BETA_SCHEDULES[module.spec.beta_schedule]),
        lambda weights: split_qkv({**positions, **weights}),
        {"kind": file_kinds.MOTION_MODULE.name, "base": base_name(base.patcher), "spec": asdict(module.spec)},
    )


def motion_lora_trainee(base: TrainingBase, module: MotionModule, rank: int, seed: int) -> Trainee:
    """Stage 3: low-rank changes of the motion module's attentions, the module itself frozen.

    Source: arXiv 2307.04725 section 4.3.
    """
    module.to(base.patcher.load_device).requires_grad_(False)
    layers = {f"{name}.weight": layer for name, layer in module.named_modules() if _is_attention(name)}
    parts = {name: 3 for name in layers if name.endswith(".to_qkv.weight")}
    adapters = LowRankAdapters(layers, parts, rank, seed).to(base.patcher.load_device)

    def publish(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return motion_lora_tensors(MotionLoRA("trained", tuple(low_rank_changes(adapters.targets, weights))))

    metadata = {"kind": file_kinds.MOTION_LORA.name, "base": base_name(base.patcher), "rank": rank}
    shares = signal_shares(BETA_SCHEDULES[module.spec.beta_schedule])
    return Trainee(MOTION_LORA, adapters, shares, publish, metadata)


def _is_attention(name: str) -> bool:
    return ".attention_blocks." in name and name.endswith((".to_qkv", ".to_out.0"))


def _layer(unet: Any, weight: str) -> nn.Module:
    return unet.get_submodule(weight.removesuffix(".weight"))
