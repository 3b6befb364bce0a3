"""How much arithmetic a step is, and how fast this machine multiplies matrices."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from ..clock import Work

CPU_SIDE = 2048
GPU_SIDE = 8192
Shape = tuple[int, ...]


def count_flops(work: Work) -> int:
    """Floating point operations of convolutions, matrix products and attention, forward and backward."""
    with FlopCounterMode(display=False, custom_mapping=_attention_on_cpu()) as counter:
        work()
    return counter.get_total_flops()


def square_product(device: torch.device, precision: torch.dtype) -> tuple[Work, int]:
    """A large square product as training could do at best, and its floating point operations."""
    side = GPU_SIDE if device.type == "cuda" else CPU_SIDE
    a, b = (torch.randn(side, side, device=device, dtype=precision) for _ in range(2))
    return lambda: a @ b, 2 * side**3


def _attention_on_cpu() -> dict[Any, Any]:
    """PyTorch's counter knows attention on GPUs alone (torch 2.11), and counts nothing for what it does not know."""
    operations = torch.ops.aten
    return {
        operations._scaled_dot_product_flash_attention_for_cpu: _forward,
        operations._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
    }


def _forward(q: Shape, k: Shape, v: Shape, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _backward(gradient: Shape, q: Shape, k: Shape, v: Shape, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, q, k, v)
