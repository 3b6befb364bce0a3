"""FreeInit's filter and mixture against those of diffusers, which loops over every frequency."""

import itertools

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed (make setup installs it)")

from diffusers.pipelines.free_init_utils import FreeInitMixin
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from motiongraft.sampling.free_init import (
    FILTERS,
    FreeInitSettings,
    diffused,
    low_pass,
    reinitialized,
)

FILTER_TOLERANCE = 1e-7  # float32; both compute it in float64
TOLERANCE = 2e-6  # float32 through two Fourier transforms, values up to 5
SIZES = ((16, 8, 8), (5, 7, 9), (2, 4, 6), (1, 6, 6), (24, 9, 12))


def their_filter(settings, frames, height, width):
    shape = (1, 4, frames, height, width)
    stops = (settings.spatial_stop, settings.temporal_stop)
    return FreeInitMixin()._get_free_init_freq_filter(shape, "cpu", settings.filter, settings.order, *stops)


def as_theirs(clip):
    """`f c h w` -> `1 c f h w`"""
    return clip.transpose(0, 1).unsqueeze(0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FILTERS)
def test_filter_is_theirs(name, size):
    for order, spatial, temporal in itertools.product((1, 4, 7), (0.0, 0.1, 0.25, 1.0), (0.0, 0.25, 0.6, 1.0)):
        settings = FreeInitSettings(3, name, order, spatial, temporal)
        expected = their_filter(settings, *size)[0, 0].unsqueeze(1)
        assert (low_pass(settings, *size) - expected).abs().max() <= FILTER_TOLERANCE, settings


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FILTERS)
def test_mixture_is_theirs(name, size):
    settings = FreeInitSettings(filter=name, spatial_stop=0.3, temporal_stop=0.4)
    frames, height, width = size
    noisy, fresh = torch.randn(2, frames, 4, height, width)
    found = reinitialized(noisy, fresh, low_pass(settings, *size))
    expected = FreeInitMixin()._apply_freq_filter(as_theirs(noisy), as_theirs(fresh), their_filter(settings, *size))
    assert (as_theirs(found) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_diffusion_to_the_last_timestep_is_theirs(schedule):
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=schedule)
    share = scheduler.alphas_cumprod[999].double()
    clip, noise = torch.randn(2, 16, 4, 8, 8)
    expected = scheduler.add_noise(clip, noise, torch.IntTensor([999] * 16))
    assert (diffused(clip, noise, float(((1 - share) / share).sqrt())) - expected).abs().max() <= TOLERANCE
