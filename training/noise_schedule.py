"""How much of a noisy latent is signal at each timestep, and how much each timestep counts."""

import torch
from torch import Tensor

from ..sampling.beta_schedules import BETAS, BetaSchedule
from .denoiser import VELOCITY
from .draws import NUM_TIMESTEPS


def signal_shares(schedule: BetaSchedule) -> Tensor:
    """ᾱ by timestep, the product of 1 - β up to it.

    Shapes: -> `t`, float64
    Source: arXiv 2006.11239 equation 4; the schedules' own sources stand in `sampling/beta_schedules.py`.
    """
    if schedule.spacing == BETAS:
        betas = torch.linspace(schedule.first, schedule.last, NUM_TIMESTEPS, dtype=torch.float64)
    else:
        betas = torch.linspace(schedule.first**0.5, schedule.last**0.5, NUM_TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def add_noise(latents: Tensor, noise: Tensor, shares: Tensor) -> Tensor:
    """Latents at a timestep: √ᾱ x₀ + √(1-ᾱ) ε.

    Shapes: latents and noise `n c h w`, shares `n` (ᾱ of each) -> `n c h w`
    Source: arXiv 2307.04725 equation 6.
    """
    signal, rest = _weights(shares, latents)
    return signal * latents + rest * noise


def noise_from(predicted: Tensor, noisy: Tensor, shares: Tensor, predicts: str) -> Tensor:
    """The noise in a prediction of either kind, ε = √ᾱ v + √(1-ᾱ) x.

    Shapes: predicted and noisy `n c h w`, shares `n` -> `n c h w`
    Source: arXiv 2202.00512 appendix D.
    """
    if predicts != VELOCITY:
        return predicted
    signal, rest = _weights(shares, noisy)
    return signal * predicted + rest * noisy


def min_snr_weights(shares: Tensor, gamma: float) -> Tensor:
    """How much each timestep counts: min(SNR, γ) / SNR with SNR = ᾱ / (1-ᾱ); all alike for γ = 0.

    Shapes: shares `b` -> `b`, float32
    Source: arXiv 2303.09556 section 3.4, for the prediction of noise.
    """
    if gamma == 0:
        return torch.ones_like(shares, dtype=torch.float32)
    ratio = (shares / (1 - shares)).clamp(min=1e-8)
    return (ratio.clamp(max=gamma) / ratio).float()


def _weights(shares: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    # In float64 on the CPU, which not every device has, and of which a few numbers are needed.
    column = shares.cpu().view(-1, *[1] * (like.ndim - 1))
    return column.sqrt().to(like.device, like.dtype), (1 - column).sqrt().to(like.device, like.dtype)
