"""Random weights of TAESD, the small autoencoder that ComfyUI takes in a checkpoint's `first_stage_model.`.

Source of the names: madebyollin/taesd, as comfy/taesd/taesd.py reads them.
"""

import torch

from .random_weights import RandomWeights

WIDTH = 64
LATENT_CHANNELS = 4
RELU_GAIN = 2**0.5
RESIDUAL_GAIN = 0.3
ENCODER_LEVELS = ((1,), (3, 4, 5), (7, 8, 9), (11, 12, 13))
DECODER_LEVELS = ((3, 4, 5), (8, 9, 10), (13, 14, 15), (18,))


def add_autoencoder(weights: RandomWeights, prefix: str, latent_scale: float) -> None:
    """An autoencoder whose random images are neither flat nor clipped, for latents of this published scale."""
    encoder, decoder = f"{prefix}taesd_encoder", f"{prefix}taesd_decoder"
    weights.conv(f"{encoder}.0", 3, WIDTH)
    weights.conv(f"{encoder}.14", WIDTH, LATENT_CHANNELS)
    weights.conv(f"{decoder}.1", LATENT_CHANNELS, WIDTH, gain=RELU_GAIN)
    weights.conv(f"{decoder}.19", WIDTH, 3, gain=0.5)
    weights.tensors[f"{decoder}.19.bias"] += 0.5
    for index in (2, 6, 10):
        weights.conv(f"{encoder}.{index}", WIDTH, WIDTH, bias=False)
    for index in (7, 12, 17):
        weights.conv(f"{decoder}.{index}", WIDTH, WIDTH, bias=False)
    for model, levels in ((encoder, ENCODER_LEVELS), (decoder, DECODER_LEVELS)):
        for index in (block for level in levels for block in level):
            _add_block(weights, f"{model}.{index}.conv")
    weights.tensors[f"{prefix}vae_scale"] = torch.tensor(latent_scale)
    weights.tensors[f"{prefix}vae_shift"] = torch.tensor(0.0)


def _add_block(weights: RandomWeights, name: str) -> None:
    weights.conv(f"{name}.0", WIDTH, WIDTH, gain=RELU_GAIN)
    weights.conv(f"{name}.2", WIDTH, WIDTH, gain=RELU_GAIN)
    weights.conv(f"{name}.4", WIDTH, WIDTH, gain=RESIDUAL_GAIN)
