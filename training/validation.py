"""Measuring a model at fixed noise and timesteps, and making a clip with it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.seeds import derived_seed
from .batches import Batch, TrainingData, conditioning
from .denoiser import Conditioning, Denoiser
from .draws import NUM_TIMESTEPS, Draw, noise_of
from .loss import Objective
from .noise_schedule import noise_from
from .progress import ValidationReport

TIMESTEPS = (50, 200, 400, 600, 800, 950)
"""Early ones decide details, late ones the layout; the mean over random ones would hide both."""
SAMPLE_STEPS = 20
SAMPLE_GUIDANCE = 7.5
"""Source: guoyww/AnimateDiff configs/training/v1/training.yaml `validation_data.guidance_scale`."""


@dataclass(frozen=True)
class Validation:
    """The same clips, noise and timesteps at every call, whatever the run's seed."""

    data: TrainingData
    objective: Objective

    @torch.no_grad()
    def measure(self, denoiser: Denoiser, step: int) -> ValidationReport:
        """The loss at each timestep, over all validation clips."""
        unweighted = replace(self.objective, min_snr=0.0)
        found = {
            timestep: [float(unweighted.losses(denoiser, batch)) for batch in self._batches(denoiser, timestep)]
            for timestep in TIMESTEPS
        }
        means = {timestep: sum(losses) / len(losses) for timestep, losses in found.items()}
        return ValidationReport(step, sum(means.values()) / len(means), means)

    @torch.no_grad()
    def sample(self, denoiser: Denoiser, index: int = 0) -> Tensor:
        """A clip made from noise under the caption of a validation clip.

        Shapes: -> `f c h w`, as the model gives them
        Source: arXiv 2010.02502 equation 12 with σ = 0; guidance arXiv 2207.12598 equation 6.
        """
        bucket, number = self.data.validation[index % len(self.data.validation)]
        clip = self.data.cached.clip(bucket, number)
        frames = 1 if self.data.single_frames else clip.latents.shape[0]
        noise = noise_of(derived_seed("sample", index), (frames, *clip.latents.shape[1:]))
        told = conditioning([clip, clip], [clip.text, self.data.cached.empty_text])
        x = noise.to(denoiser.device)
        times = [round(NUM_TIMESTEPS * (1 - each / SAMPLE_STEPS)) - 1 for each in range(SAMPLE_STEPS)]
        for time, later in zip(times, [*times[1:], None], strict=True):
            x = self._less_noisy(denoiser, x, time, later, told)
        return x

    def _less_noisy(self, denoiser: Denoiser, x: Tensor, time: int, later: int | None, told: Conditioning) -> Tensor:
        """A clip taken from one timestep to a later one with less noise, or to none."""
        now = self.objective.shares[time].clamp(min=1e-8).to(x)
        then = torch.ones_like(now) if later is None else self.objective.shares[later].to(x)
        frames = x.shape[0]
        both = denoiser.predict(x.repeat(2, 1, 1, 1), torch.tensor([time, time], device=x.device), told, frames)
        captioned, empty = both.float().chunk(2)
        guided = empty + SAMPLE_GUIDANCE * (captioned - empty)
        noise = noise_from(guided, x, now.expand(frames), denoiser.predicts)
        clean = (x - (1 - now).sqrt() * noise) / now.sqrt()
        return then.sqrt() * clean + (1 - then).sqrt() * noise

    def _batches(self, denoiser: Denoiser, timestep: int) -> list[Batch]:
        draws = [
            Draw(bucket, number, timestep, False, True, 0.5, derived_seed("validation", bucket, number, timestep))
            for bucket, number in self.data.validation
        ]
        return [self.data.batch([each], denoiser) for each in draws]
