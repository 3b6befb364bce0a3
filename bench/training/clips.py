"""Random clips that lie on the device, in the place of a cached set."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...training.batches import Batch
from ...training.cache.cached_clips import TextStates
from ...training.denoiser import Conditioning
from ...training.draws import NUM_TIMESTEPS, Draw
from ..random_models import topology
from ..settings import Settings
from ..steps import LATENT_CHANNELS, PROMPT_TOKENS

SEED = 4


def random_batch(clip: Settings, num_clips: int, device: torch.device) -> Batch:
    """Clips of one size with their noise, timesteps and captions."""
    generator = torch.Generator().manual_seed(SEED)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    latents = (num_clips * clip.frames, LATENT_CHANNELS, clip.latent_size, clip.latent_size)
    width = topology(clip).context_width
    return Batch(
        random(*latents),
        random(*latents),
        torch.randint(NUM_TIMESTEPS, (num_clips,), generator=generator).to(device),
        Conditioning(
            tuple(TextStates(random(PROMPT_TOKENS, width), None) for _ in range(num_clips)),
            ((clip.size, clip.size),) * num_clips,
        ),
        clip.frames,
        tuple(f"clip {number}" for number in range(num_clips)),
    )


class ClipsOnDevice:
    """What the training loop asks of its data, always the same batch."""

    def __init__(self, batch: Batch):
        self._batch = batch
        self.cached: Any = None
        """Asked for names alone, and only after three steps without a finite gradient."""

    def draws(self, step: int) -> list[Draw]:
        """The whole batch, whatever the step."""
        timesteps = self._batch.timesteps.tolist()
        return [Draw(0, number, timestep, False, True, 0.0, 0) for number, timestep in enumerate(timesteps)]

    def batch(self, draws: Sequence[Draw], denoiser: Any) -> Batch:
        """The batch, which is measured as a whole."""
        assert len(draws) == len(self._batch.timesteps)
        return self._batch
