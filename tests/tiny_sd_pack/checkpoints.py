"""Writes toy weight files: the layouts of the published ones at a tenth of the width, random and seeded.

Needs torch and safetensors alone. ComfyUI loads the base models once `tiny_sd_pack` is among its custom nodes.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from . import text_weights, unet_weights
from .autoencoder_weights import add_autoencoder
from .motion_weights import add_domain_adapter, add_motion_lora, add_motion_modules
from .random_weights import RandomWeights
from .sparse_weights import add_sparse_control
from .text_weights import add_open_clip, add_text_encoder
from .unet_weights import add_controlnet, add_unet

LATENT_SCALE_SD15 = 0.18215
LATENT_SCALE_SDXL = 0.13025
"""Source: comfy/latent_formats.py, scale_factor of SD15 and SDXL."""
SD15_CHANNELS = unet_weights.SD15.channels
SDXL_CHANNELS = unet_weights.SDXL.channels


def write_tiny_sd15(path: Path, seed: int = 0) -> Path:
    """A checkpoint that CheckpointLoaderSimple takes for SD 1.5: UNet, text encoder and autoencoder; about 25 MB."""
    weights = RandomWeights(seed)
    add_unet(weights, "model.diffusion_model.", unet_weights.SD15)
    add_text_encoder(weights, "cond_stage_model.transformer.text_model.", text_weights.CLIP_L_SD15)
    add_autoencoder(weights, "first_stage_model.", LATENT_SCALE_SD15)
    return _write(path, _halved(weights.tensors))


def write_tiny_sdxl(path: Path, seed: int = 0) -> Path:
    """A checkpoint that CheckpointLoaderSimple takes for SDXL: UNet, two text encoders, autoencoder."""
    weights = RandomWeights(seed)
    add_unet(weights, "model.diffusion_model.", unet_weights.SDXL)
    add_text_encoder(weights, "conditioner.embedders.0.transformer.text_model.", text_weights.CLIP_L_SDXL)
    add_open_clip(weights, "conditioner.embedders.1.model.", text_weights.CLIP_G_SDXL)
    add_autoencoder(weights, "first_stage_model.", LATENT_SCALE_SDXL)
    return _write(path, _halved(weights.tensors))


def write_motion_module(
    path: Path,
    channels: tuple[int, ...] = SD15_CHANNELS,
    seed: int = 0,
    positions: int = 32,
    middle: bool = False,
) -> Path:
    """A motion module in float32 and the published layout: v3 as it stands, v2 with `middle`, v1 with 24 positions."""
    weights = RandomWeights(seed)
    add_motion_modules(weights, channels, positions, middle)
    return _write(path, weights.tensors)


def write_motion_lora(
    path: Path,
    channels: tuple[int, ...] = SD15_CHANNELS,
    rank: int = 4,
    seed: int = 0,
    middle: bool = False,
) -> Path:
    """A MotionLoRA for a motion module of these channels; the published ones have the middle block."""
    weights = RandomWeights(seed)
    add_motion_lora(weights, channels, rank, middle)
    return _write(path, weights.tensors)


def write_domain_adapter(path: Path, rank: int = 4, seed: int = 0) -> Path:
    """A domain adapter for the tiny SD 1.5 UNet."""
    weights = RandomWeights(seed)
    add_domain_adapter(weights, SD15_CHANNELS, unet_weights.SD15.context_width, rank)
    return _write(path, weights.tensors)


def write_controlnet(path: Path, seed: int = 0, size: unet_weights.UnetSize = unet_weights.SD15) -> Path:
    """A ControlNet for a tiny UNet that ControlNetLoader takes."""
    weights = RandomWeights(seed)
    add_controlnet(weights, "control_model.", size)
    return _write(path, _halved(weights.tensors))


def write_sparse_control(path: Path, seed: int = 0, rgb: bool = True, positions: int = 32) -> Path:
    """A SparseCtrl encoder for the tiny SD 1.5 UNet in float32 and the published layout: rgb, or scribble."""
    weights = RandomWeights(seed)
    add_sparse_control(weights, unet_weights.SD15, rgb, positions)
    return _write(path, weights.tensors)


def _halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(torch.float16) for name, tensor in tensors.items()}


def _write(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), path, {"format": "pt"})
    return path
