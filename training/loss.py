"""The loss of all three stages: how far the predicted noise is from the noise that was added."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .batches import Batch
from .denoiser import Denoiser
from .noise_schedule import add_noise, min_snr_weights, noise_from


@dataclass(frozen=True)
class Objective:
    """What a prediction is measured by: a noise schedule, and how much each timestep counts."""

    shares: Tensor
    """ᾱ by timestep. Shapes: `t`, float64."""
    min_snr: float = 0.0

    def losses(self, denoiser: Denoiser, batch: Batch) -> Tensor:
        """The loss of each clip, the mean over all its elements.

        Shapes: -> `b`, float32
        Source: arXiv 2307.04725 equations 2 and 7.
        """
        shares = self.shares[batch.timesteps.cpu()]
        per_frame = shares.repeat_interleave(batch.num_frames)
        noisy = add_noise(batch.latents, batch.noise, per_frame)
        predicted = denoiser.predict(noisy, batch.timesteps, batch.conditioning, batch.num_frames)
        found = noise_from(predicted, noisy, per_frame, denoiser.predicts)
        errors = torch.nn.functional.mse_loss(found, batch.noise, reduction="none")
        return errors.view(len(batch.timesteps), -1).mean(1) * min_snr_weights(shares, self.min_snr).to(errors.device)
