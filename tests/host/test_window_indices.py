"""The index lists, weights and noise of sampling/ against ComfyUI's own context windows."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from motiongraft.sampling.context_windows import FUSE_METHODS, SCHEDULES, ContextWindowSettings
from motiongraft.sampling.frame_noise import frame_noise
from motiongraft.sampling.noise_levels import as_model_sees, noise_levels, start_of
from motiongraft.sampling.window_indices import free_noise, fuse, fuse_weights, window_indices
from motiongraft.tests.helpers.window_pairs import EXCLUDED
from motiongraft.training.noise_schedule import signal_shares

LENGTHS = (17, 18, 19, 20, 24, 25, 31, 32, 33, 47, 48, 64, 100, 257)
STEPS = (0, 1, 2, 3, 5, 8, 13, 24)


@pytest.fixture
def handler(host):
    from motiongraft.host.windows import MotionContextHandler

    return lambda settings: MotionContextHandler([settings])


def theirs(handler, settings, frames, step):
    own = handler(settings)
    own._step = step
    return [window.index_list for window in own.get_context_windows(None, torch.zeros(frames, 1), {})]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_windows_are_those_that_comfyui_samples_with(handler, schedule):
    loops = (False, True) if schedule == "looped" else (False,)
    for length, frames in itertools.product((2, 5, 8, 16), LENGTHS):
        for overlap, stride, closed in itertools.product((0, 1, 3, 4, length - 1), (1, 2, 3, 4), loops):
            if overlap >= length:
                continue
            settings = ContextWindowSettings(length, overlap, stride, schedule, closed_loop=closed)
            for step in STEPS:
                found = window_indices(settings, frames, step)
                assert found == theirs(handler, settings, frames, step), (settings, frames, step)


@pytest.mark.parametrize("fuse_method", FUSE_METHODS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_fused_predictions_are_comfyuis(host, handler, schedule, fuse_method):
    if (schedule, fuse_method) in EXCLUDED:
        return
    for overlap, frames, step in itertools.product((0, 1, 3, 7), (17, 21, 40), (0, 1, 3)):
        settings = ContextWindowSettings(8, overlap, 2, schedule, fuse_method)
        own = handler(settings)
        own._step = step
        x = torch.randn(frames, 4, 2, 2)
        windows = own.get_context_windows(None, x, {})
        parts = [torch.randn(len(window.index_list), 4, 2, 2) for window in windows]
        is_relative = own.fuse_method.name == "relative"
        shape = (frames, 1, 1, 1)
        total, counts = [torch.zeros_like(x)], [torch.ones(shape) if is_relative else torch.zeros(shape)]
        biases = [[0.0] * frames]
        for index, (window, part) in enumerate(zip(windows, parts, strict=True)):
            own.combine_context_window_results(
                x, [part], [None], window, index, len(windows), torch.zeros(1), total, counts, biases
            )
        expected = total[0] if is_relative else total[0] / counts[0]
        found = fuse(settings, [window.index_list for window in windows], parts)
        assert torch.allclose(found, expected, atol=1e-5), (settings, frames, step)


def test_weights_are_comfyuis(host, handler):
    module = host.module("comfy.context_windows")
    for method, length, overlap in itertools.product(("flat", "pyramid"), (2, 5, 8, 15, 16), (0, 1)):
        settings = ContextWindowSettings(length, overlap, fuse=method)
        frames = list(range(length))
        expected = module.get_context_weights(length, 40, frames, handler(settings))
        assert fuse_weights(settings, frames, 40).tolist() == expected


@pytest.mark.parametrize(
    ("frames", "length", "overlap"), [(16, 16, 4), (17, 16, 4), (40, 16, 4), (33, 8, 0), (50, 8, 7)]
)
def test_free_noise_is_comfyuis(host, frames, length, overlap):
    noise = torch.randn(frames, 4, 3, 3)
    expected = host.module("comfy.context_windows").apply_freenoise(noise.clone(), 0, length, overlap, 42)
    assert torch.equal(free_noise(noise, length, overlap, 42), expected)


def test_frame_noise_is_comfyuis(host):
    from motiongraft.host.sampling import frame_noise as on_comfyui

    expected = on_comfyui(torch.zeros(5, 4, 6, 7), 123, None)
    assert torch.equal(frame_noise(123, 5, 4, 6, 7), expected)
    assert torch.equal(frame_noise(123, 9, 4, 6, 7)[:5], expected)


@pytest.mark.parametrize("schedule", ["animatediff", "linear", "sdxl-beta"])
@pytest.mark.parametrize("steps", [1, 2, 8, 20, 25, 30])
def test_levels_of_euler_are_comfyuis_normal_ones(host, schedule, steps):
    from motiongraft.host.noise_schedule import HOST_NAMES
    from motiongraft.sampling.beta_schedules import BETA_SCHEDULES, BETAS

    chosen = BETA_SCHEDULES[schedule]
    settings = {
        "beta_schedule": HOST_NAMES[chosen.spacing == BETAS],
        "linear_start": chosen.first,
        "linear_end": chosen.last,
    }
    sampling = host.module("comfy.model_sampling").ModelSamplingDiscrete(SimpleNamespace(sampling_settings=settings))
    sigmas = host.module("comfy.samplers").normal_scheduler(sampling, steps)
    levels = noise_levels("euler", signal_shares(chosen), steps)
    assert [level.sigma for level in levels] == pytest.approx(sigmas[:-1].tolist(), rel=1e-6)
    assert [level.timestep for level in levels] == [int(sampling.timestep(sigma)) for sigma in sigmas[:-1]]
    assert torch.allclose(as_model_sees(start_of(torch.ones(1), levels[0]), levels[0]), torch.ones(1))
