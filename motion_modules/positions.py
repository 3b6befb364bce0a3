"""The position of a frame in its clip, as a vector that is added before temporal attention."""

import math

import torch
from torch import Tensor


def sinusoidal_positions(num_positions: int, channels: int) -> Tensor:
    """The fixed table that modules are trained with; files store it, and it can be made again where one does not.

    Shapes: -> `1 num_positions channels`
    Source: arXiv 1706.03762 section 3.5, as laid out in guoyww/AnimateDiff motion_module.py `PositionalEncoding`.
    """
    position = torch.arange(num_positions, dtype=torch.float32).unsqueeze(1)
    frequency = torch.exp(torch.arange(0, channels, 2, dtype=torch.float32) * (-math.log(10_000.0) / channels))
    table = torch.empty(1, num_positions, channels)
    table[0, :, 0::2] = torch.sin(position * frequency)
    table[0, :, 1::2] = torch.cos(position * frequency)
    return table


def rows_for(table: Tensor, num_frames: int) -> Tensor:
    """The rows of a position table for a call of so many frames.

    A host may put one more frame in front of a full window and drop it afterwards. Where the table has no row left
    for it, it shares the first row, so that the frames of the window keep theirs.

    Shapes: table `1 positions c` -> `frames c`
    """
    if num_frames > table.shape[1]:
        return torch.cat([table[0, :1], table[0, : num_frames - 1]])
    return table[0, :num_frames]
