"""FreeInit's filter and mixture, without a host."""

import itertools
import math

import pytest
import torch

from motiongraft.core.errors import SettingsError
from motiongraft.sampling.frame_noise import frame_noise
from motiongraft.sampling.free_init import (
    FILTERS,
    FreeInitSettings,
    diffused,
    fresh_noise,
    low_pass,
    reinitialized,
)


def wave(turns, shape=(16, 4, 8, 8)):
    """A clip of one frequency: so many turns over its frames, its height and its width. Shapes: -> `f c h w`"""
    axes = torch.meshgrid(*(torch.arange(shape[axis]) / shape[axis] for axis in (0, 2, 3)), indexing="ij")
    angle = 2 * math.pi * sum(count * axis for count, axis in zip(turns, axes, strict=True))
    return angle.cos().unsqueeze(1).expand(shape)


@pytest.mark.parametrize("name", FILTERS)
def test_a_still_grey_clip_comes_through_and_the_highest_frequency_does_not(name):
    kept = low_pass(FreeInitSettings(filter=name), 16, 8, 8)
    nothing = torch.zeros(16, 4, 8, 8)
    assert torch.allclose(reinitialized(wave((0, 0, 0)), nothing, kept), wave((0, 0, 0)), atol=1e-6)
    assert reinitialized(wave((8, 4, 4)), nothing, kept).abs().max() < 1e-3
    assert torch.allclose(reinitialized(nothing, wave((8, 4, 4)), kept), wave((8, 4, 4)), atol=1e-3)


def test_butterworth_keeps_half_of_a_wave_at_either_stop():
    """At 16 frames a stop of 0.5 is 4 turns; at 8 pixels one of 0.25 is 1 turn."""
    kept = low_pass(FreeInitSettings(spatial_stop=0.25, temporal_stop=0.5), 16, 8, 8)
    for turns in ((4, 0, 0), (0, 1, 0), (0, 0, 1)):
        found = reinitialized(wave(turns), torch.zeros(16, 4, 8, 8), kept)
        assert torch.allclose(found, wave(turns) / 2, atol=1e-6)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("stops", [(0.0, 0.25), (0.25, 0.0), (0.0, 0.0)])
def test_a_stop_of_zero_leaves_the_fresh_noise_alone(name, stops):
    kept = low_pass(FreeInitSettings(3, name, 4, *stops), 5, 6, 7)
    fresh = torch.randn(5, 4, 6, 7)
    assert torch.equal(reinitialized(torch.randn(5, 4, 6, 7), fresh, kept), fresh)


@pytest.mark.parametrize("name", FILTERS)
def test_a_clip_mixed_with_itself_stays(name):
    for frames, height, width in itertools.product((2, 7, 16), (1, 8), (5, 8)):
        kept = low_pass(FreeInitSettings(filter=name), frames, height, width)
        assert kept.shape == (frames, 1, height, width)
        assert 0 <= kept.min() <= kept.max() <= 1
        clip = torch.randn(frames, 4, height, width)
        assert torch.equal(reinitialized(clip, clip, kept), clip)


def test_a_higher_stop_keeps_more_and_a_higher_order_falls_more_steeply():
    lower, higher = (low_pass(FreeInitSettings(spatial_stop=stop), 16, 8, 8) for stop in (0.25, 0.5))
    assert higher.sum() > lower.sum()
    slow, steep = (low_pass(FreeInitSettings(order=order), 16, 32, 32) for order in (1, 8))
    between = [((kept > 0.05) & (kept < 0.95)).sum() for kept in (slow, steep)]
    assert between[1] < between[0] / 2


def test_diffused_noise_keeps_its_variance_and_the_clip_its_share():
    clip, noise = torch.full((2, 4, 64, 64), 3.0), frame_noise(1, 2, 4, 64, 64)
    found = diffused(clip, noise, sigma=2.0)
    assert torch.allclose(found, clip / 5**0.5 + noise * (4 / 5) ** 0.5, atol=1e-6)
    assert torch.allclose(diffused(clip, noise, 0.0), clip)


def test_fresh_noise_belongs_to_frames_and_iterations():
    noise = fresh_noise(5, 1, 16, 4, 3, 5)
    assert torch.equal(fresh_noise(5, 1, 9, 4, 3, 5), noise[:9])
    others = [fresh_noise(*which, 16, 4, 3, 5) for which in ((5, 2), (6, 1))]
    others += [frame_noise(seed, 16, 4, 3, 5) for seed in range(9)]
    assert not any(torch.equal(noise, other) for other in others)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"iterations": 0}, "iterations 1 or more"),
        ({"order": 0}, "order 1 or more"),
        ({"filter": "box"}, "one of butterworth, gaussian, ideal"),
        ({"spatial_stop": 1.5}, "should be 0 to 1"),
        ({"temporal_stop": -0.1}, "should be 0 to 1"),
        ({"spatial_stop": float("nan")}, "should be 0 to 1"),
    ],
)
def test_settings_that_cannot_work_say_what_to_set(settings, words):
    with pytest.raises(SettingsError, match=words):
        FreeInitSettings(**settings)
