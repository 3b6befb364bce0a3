"""Context windows as plain index lists: they cover the clip, their weights blend, their noise repeats."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from motiongraft.sampling.context_windows import SCHEDULES, ContextWindowSettings
from motiongraft.sampling.window_indices import (
    SCHEDULE_WINDOWS,
    free_noise,
    fuse,
    fuse_weights,
    relative_weights,
    window_indices,
)
from motiongraft.tests.helpers.window_pairs import ALLOWED


def test_every_schedule_that_the_settings_know_has_windows():
    assert tuple(SCHEDULE_WINDOWS) == SCHEDULES


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_clip_that_is_no_longer_than_a_window_runs_whole(schedule):
    settings = ContextWindowSettings(16, 4, schedule=schedule, closed_loop=schedule == "looped")
    for frames, step in itertools.product((2, 15, 16), (0, 1, 5)):
        assert window_indices(settings, frames, step) == [list(range(frames))]


@pytest.mark.parametrize("frames", [17, 18, 20, 31, 33, 64, 100, 1000])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_frame_is_in_a_window_of_full_length_and_distinct_frames(schedule, frames):
    for overlap, stride, step in itertools.product((0, 1, 4, 8, 15), (1, 2, 3), (0, 1, 2, 5, 24)):
        windows = window_indices(ContextWindowSettings(16, overlap, stride, schedule), frames, step)
        assert {frame for window in windows for frame in window} == set(range(frames))
        assert all(len(set(window)) == len(window) == 16 for window in windows)


def test_static_windows_share_the_overlap_and_end_with_the_clip():
    settings = ContextWindowSettings(8, 2, schedule="static")
    assert [window[0] for window in window_indices(settings, 21, 7)] == [0, 6, 12, 13]
    assert window_indices(settings, 21, 7) == window_indices(settings, 21, 0)


def test_a_last_batch_is_a_full_window():
    assert window_indices(ContextWindowSettings(8, 0, schedule="batched"), 17, 0) == [
        list(range(8)),
        list(range(8, 16)),
        list(range(9, 17)),
    ]


def test_uniform_windows_move_with_the_step_and_stay_in_the_clip():
    settings = ContextWindowSettings(8, 4)
    first, second = window_indices(settings, 32, 0), window_indices(settings, 32, 1)
    assert first != second
    assert all(window == sorted(window) for window in first + second)


def test_looped_windows_run_over_the_end():
    settings = ContextWindowSettings(8, 4, schedule="looped", closed_loop=True)
    assert any(31 in window and 0 in window for window in window_indices(settings, 32, 0))


def test_composite_windows_hold_frames_from_all_over_the_clip_in_the_first_tenth_alone():
    settings = ContextWindowSettings(16, 4, schedule="composite")
    uniform = ContextWindowSettings(16, 4, schedule="uniform")
    early = [window_indices(settings, 64, step, step / 30) for step in range(3)]
    assert all(window != list(range(window[0], window[0] + 16)) for windows in early for window in windows)
    assert early[0] != early[1]
    assert early == [window_indices(settings, 64, step, step / 30) for step in range(3)]
    for step in range(3, 30):
        assert window_indices(settings, 64, step, step / 30) == window_indices(uniform, 64, step)


def test_a_bell_is_even_and_counts_the_middle_most():
    weights = fuse_weights(ContextWindowSettings(16, 4, fuse="gaussian"), range(16), 40)
    assert torch.equal(weights, weights.flip(0))
    assert weights.argmax() in (7, 8)
    assert 0.1 < weights[0] < 0.25


@given(st.sampled_from(ALLOWED), st.integers(2, 24), st.integers(0, 23), st.integers(1, 200), st.integers(0, 40))
def test_weights_of_overlapping_windows_share_each_frame_out_whole(pair, length, overlap, frames, step):
    """What all windows agree on comes back at every frame, whatever the lengths: their shares add up to one."""
    schedule, fuse_method = pair
    settings = ContextWindowSettings(length, min(overlap, length - 1), schedule=schedule, fuse=fuse_method)
    windows = window_indices(settings, frames, step, step / 40)
    clip = torch.ones(frames, 1)
    assert torch.allclose(fuse(settings, windows, [clip[window] for window in windows]), clip, atol=1e-6)


def test_strides_add_windows_that_skip_frames():
    settings = ContextWindowSettings(8, 4, stride=2)
    assert [0, 2, 4, 6, 8, 10, 12, 14] in window_indices(settings, 32, 0)


def test_a_pyramid_counts_the_middle_most_and_a_ramp_fades_where_windows_meet():
    pyramid = ContextWindowSettings(5, 2, fuse="pyramid")
    assert fuse_weights(pyramid, range(5), 12).tolist() == [1, 2, 3, 2, 1]
    assert fuse_weights(pyramid, range(4), 12).tolist() == [1, 2, 2, 1]
    ramp = ContextWindowSettings(6, 3, fuse="overlap-linear")
    assert fuse_weights(ramp, range(6), 12).tolist() == pytest.approx([1, 1, 1, 1, 0.5, 0])
    assert fuse_weights(ramp, range(3, 9), 12).tolist() == pytest.approx([0, 0.5, 1, 1, 0.5, 0])
    assert fuse_weights(ramp, range(6, 12), 12).tolist() == pytest.approx([0, 0.5, 1, 1, 1, 1])
    assert fuse_weights(ContextWindowSettings(6, 0, fuse="overlap-linear"), range(6), 12).tolist() == [1] * 6
    assert relative_weights([2, 3, 4, 5, 6]).argmax() == 2


@pytest.mark.parametrize(("schedule", "fuse_method"), ALLOWED)
def test_what_windows_agree_on_comes_back(schedule, fuse_method):
    clip = torch.randn(37, 4, 2, 3)
    for overlap, step in itertools.product((0, 3, 7), (0, 1, 2)):
        settings = ContextWindowSettings(8, overlap, schedule=schedule, fuse=fuse_method)
        windows = window_indices(settings, 37, step)
        fused = fuse(settings, windows, [clip[window] for window in windows])
        assert torch.allclose(fused, clip, atol=1e-5)


def test_a_fused_frame_is_the_weighted_mean_of_its_windows():
    settings = ContextWindowSettings(4, 2, schedule="static")
    windows = [[0, 1, 2, 3], [2, 3, 4, 5]]
    fused = fuse(settings, windows, [torch.zeros(4, 1), torch.ones(4, 1)])
    assert fused.flatten().tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1])


def test_free_noise_repeats_the_first_windows_frames_shuffled_and_leaves_the_rest_alone():
    noise = torch.randn(30, 1, 2, 2)
    before = noise.clone()
    found = free_noise(noise, 8, 4, seed=3)
    assert torch.equal(noise, before)
    assert torch.equal(found[:8], noise[:8])
    first = {frame.sum().item() for frame in noise[:8]}
    assert {frame.sum().item() for frame in found} == first
    assert not torch.equal(found, free_noise(noise, 8, 4, seed=4))
