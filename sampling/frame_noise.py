"""The noise that a clip starts from: it belongs to frames, not to clips."""

import torch
from torch import Tensor


def frame_noise(seed: int, num_frames: int, channels: int, height: int, width: int) -> Tensor:
    """Noise drawn frame by frame: frame 7 of a seed gets the same in a clip of any length, and in ComfyUI.

    Shapes: -> `f c h w`, float32 on the CPU. Units: height and width in latent pixels
    Source: ComfyUI sample.py, `prepare_noise` with `noise_inds`; its generator is the CPU's, on every machine.
    """
    generator = torch.Generator().manual_seed(seed)
    frames = [torch.randn(1, channels, height, width, generator=generator) for _ in range(num_frames)]
    return torch.cat(frames)
