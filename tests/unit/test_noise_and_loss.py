"""Schedules, added noise and the loss, against closed forms and against diffusers."""

import pytest
import torch

from motiongraft.sampling.beta_schedules import BETA_SCHEDULES
from motiongraft.training.batches import Batch
from motiongraft.training.denoiser import NOISE, VELOCITY, Conditioning
from motiongraft.training.loss import Objective
from motiongraft.training.noise_schedule import add_noise, min_snr_weights, noise_from, signal_shares

DIFFUSERS_NAMES = {
    "animatediff": ("linear", 0.012),
    "linear": ("scaled_linear", 0.012),
    "sdxl-beta": ("scaled_linear", 0.020),
}


@pytest.mark.parametrize("name", DIFFUSERS_NAMES)
def test_schedules_are_those_of_diffusers(name):
    diffusers = pytest.importorskip("diffusers")
    kind, last = DIFFUSERS_NAMES[name]
    theirs = diffusers.DDPMScheduler(1000, beta_start=0.00085, beta_end=last, beta_schedule=kind).alphas_cumprod
    torch.testing.assert_close(signal_shares(BETA_SCHEDULES[name]).float(), theirs, rtol=1e-4, atol=1e-6)


def test_motion_is_trained_at_more_noise_than_stills():
    """σ at the last timestep: 25.1 on the motion schedule, 14.6 on Stable Diffusion's."""
    last = {name: signal_shares(BETA_SCHEDULES[name])[-1] for name in ("animatediff", "linear")}
    sigmas = {name: float(((1 - share) / share) ** 0.5) for name, share in last.items()}
    assert sigmas == pytest.approx({"animatediff": 25.1, "linear": 14.6}, abs=0.1)


def test_velocity_becomes_the_noise_that_was_added():
    latents, noise = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    shares = torch.tensor([0.9, 0.2], dtype=torch.float64)
    noisy = add_noise(latents, noise, shares)
    signal, rest = shares.sqrt().view(2, 1, 1, 1), (1 - shares).sqrt().view(2, 1, 1, 1)
    velocity = signal * noise - rest * latents
    torch.testing.assert_close(noise_from(velocity, noisy, shares, VELOCITY), noise)
    assert noise_from(noise, noisy, shares, NOISE) is noise


def test_min_snr_holds_back_what_is_nearly_clean():
    shares = torch.tensor([0.99, 0.5, 0.01, 0.0])
    assert min_snr_weights(shares, 5.0).tolist() == pytest.approx([5 / 99, 1, 1, 1], rel=1e-3)
    assert min_snr_weights(shares, 0.0).tolist() == [1, 1, 1, 1]


class Guess:
    """A denoiser that predicts a constant."""

    predicts = NOISE

    def predict(self, noisy, timesteps, conditioning, num_frames):
        self.seen = noisy
        return torch.full_like(noisy, 0.5)


def batch(clips=3, frames=4):
    shape = (clips * frames, 4, 2, 2)
    return Batch(
        torch.randn(shape),
        torch.randn(shape),
        torch.tensor([0, 500, 999]),
        Conditioning((), ()),
        frames,
        ("a", "b", "c"),
    )


def test_loss_is_the_mean_square_of_each_clip_at_its_one_timestep():
    given, guess = batch(), Guess()
    shares = signal_shares(BETA_SCHEDULES["animatediff"])
    losses = Objective(shares).losses(guess, given)
    expected = ((0.5 - given.noise) ** 2).view(3, -1).mean(1)
    torch.testing.assert_close(losses, expected)
    for clip, timestep in enumerate(given.timesteps):
        frames = slice(clip * 4, clip * 4 + 4)
        share = float(shares[timestep])
        noisy = share**0.5 * given.latents[frames] + (1 - share) ** 0.5 * given.noise[frames]
        torch.testing.assert_close(guess.seen[frames], noisy)


def test_weights_of_timesteps_scale_the_loss_of_each_clip():
    given = batch()
    shares = signal_shares(BETA_SCHEDULES["animatediff"])
    plain, weighted = (Objective(shares, gamma).losses(Guess(), given) for gamma in (0.0, 5.0))
    torch.testing.assert_close(weighted, plain * min_snr_weights(shares[given.timesteps], 5.0))
