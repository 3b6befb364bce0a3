"""The demo's base model: a UNet of Stable Diffusion's design, small enough to train from nothing in a minute."""

from collections.abc import Mapping, Sequence

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from ...training.denoiser import VELOCITY
from ...training.trainee import Trainee
from ..diffusers_base import DiffusersBase, base_of
from ..diffusers_denoiser import DiffusersDenoiser
from ..toy_world.picture_codec import CHANNELS, DOWNSCALE
from ..toy_world.waves import SIDE
from ..toy_world.word_vectors import WIDTH

BASE = "toy base"
CPU = torch.device("cpu")
NUM_HEADS = 4
NUM_GROUPS = 8
"""Of norms: with the usual 32, each channel of a narrow level would be alone, and lose what a caption sets in it."""
LATENT_SCALE = 1.0
"""Latents of the toy codec spread by about one as they are."""
Prepared = tuple[Trainee, DiffusersDenoiser]


def new_unet(widths: Sequence[int], seed: int) -> UNet2DConditionModel:
    """A UNet with the levels, layers and spatial transformers of SD 1.5, of these widths, and random weights."""
    attention, plain = "CrossAttn{}Block2D", "{}Block2D"
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=SIDE // DOWNSCALE,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            block_out_channels=tuple(widths),
            down_block_types=tuple(kind.format("Down") for kind in (*[attention] * 3, plain)),
            up_block_types=tuple(kind.format("Up") for kind in (plain, *[attention] * 3)),
            layers_per_block=2,
            norm_num_groups=NUM_GROUPS,
            cross_attention_dim=WIDTH,
            attention_head_dim=NUM_HEADS,  # diffusers' name for the number of heads
        )


def toy_base(unet: UNet2DConditionModel) -> DiffusersBase:
    """A base around the UNet. It predicts v: so short a training leaves errors in ε that v does not magnify."""
    return base_of(unet, predicts=VELOCITY, latent_scale=LATENT_SCALE)


def toy_base_from(tensors: Mapping[str, Tensor], widths: Sequence[int]) -> DiffusersBase:
    """The base whose weights a run ended with."""
    unet = new_unet(widths, 0)
    unet.load_state_dict(dict(tensors))
    return toy_base(unet)


def prepare_base(widths: Sequence[int], seed: int) -> Prepared:
    """The whole UNet as a trainee, on single frames."""
    base = toy_base(new_unet(widths, seed))
    denoiser = DiffusersDenoiser(base, CPU, torch.float32)
    denoiser.unet.requires_grad_(True)
    trainee = Trainee(
        BASE, denoiser.unet, base.alphas, dict, {"kind": BASE, "widths": list(widths)}, single_frames=True
    )
    return trainee, denoiser
