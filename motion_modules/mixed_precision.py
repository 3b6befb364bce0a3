"""A motion module in float32 among features of another type, as mixed precision wants it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .adjustments import PLAIN, Adjustments
from .module import MotionModule
from .spec import Address

HALF_TYPES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class CastMotion:
    """Runs a motion module under autocast, where features are of a half type."""

    module: MotionModule

    def __call__(self, x: Tensor, address: Address, num_frames: int, adjust: Adjustments = PLAIN) -> Tensor:
        """Shapes: `(b f) c h w` -> the same, in the type of x"""
        # Contiguous: on a CPU, the backward pass of a norm whose input is channels-last and needs no gradient crashes
        # (torch 2.11), and so may be the first site behind a frozen base.
        x = x.contiguous()
        with torch.autocast(x.device.type, x.dtype, enabled=x.dtype in HALF_TYPES):
            return self.module(x, address, num_frames, adjust).to(x.dtype)
