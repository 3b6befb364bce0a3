"""The noise of a clip's frames: its own for each, or with something in common."""

import itertools
import math

import pytest
import torch

from motiongraft.core.errors import SettingsError
from motiongraft.sampling.frame_noise import KINDS, FrameNoiseSettings, clip_noise, frame_noise
from motiongraft.sampling.frame_seeds import LARGEST_SEED, parse_frame_seeds
from motiongraft.sampling.window_indices import free_noise

SIZE = (4, 6, 5)


def draw(seed, frames):
    return frame_noise(seed, max(frames) + 1, *SIZE)[list(frames)]


def noise_of(num_frames=12, seed=7, seeds="", **settings):
    return clip_noise(FrameNoiseSettings(seed, seeds=parse_frame_seeds(seeds), **settings), range(num_frames), draw)


def test_by_frame_is_the_frames_own_noise():
    assert torch.equal(noise_of(), frame_noise(7, 12, *SIZE))


def test_constant_noise_is_one_frames_and_no_frame_has_it_of_its_own():
    noise = noise_of(kind="constant")
    assert all(torch.equal(frame, noise[0]) for frame in noise)
    assert not any(torch.equal(frame, noise[0]) for frame in frame_noise(7, 12, *SIZE))
    assert not torch.equal(noise, noise_of(kind="constant", seed=8))


def test_repeated_noise_begins_again_after_its_length():
    noise = noise_of(kind="repeated", length=5)
    own = frame_noise(7, 12, *SIZE)
    assert torch.equal(noise, own[[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]])


def test_freenoise_holds_the_first_windows_frames_alone():
    noise = noise_of(30, kind="freenoise", length=8, overlap=3)
    assert torch.equal(noise, free_noise(frame_noise(7, 30, *SIZE), 8, 3, 7))


@pytest.mark.parametrize(("share", "kind"), [(0.0, "by frame"), (1.0, "constant")])
def test_mixed_noise_ends_bitwise_in_both_others(share, kind):
    assert torch.equal(noise_of(kind="mixed", share=share), noise_of(kind=kind))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_mixed_noise_has_variance_1_and_its_share_in_common(share):
    settings = FrameNoiseSettings(3, "mixed", share=share)
    size = (4, 128, 128)
    noise = clip_noise(settings, range(6), lambda seed, frames: frame_noise(seed, 6, *size)[list(frames)]).double()
    spread = 5 / math.sqrt(math.prod(size))  # five standard errors of a mean over a frame
    for one, other in itertools.combinations_with_replacement(noise, 2):
        expected = 1.0 if one is other else share
        assert abs((one * other).mean() - expected) < 1.5 * spread
    assert abs(noise.mean(0).mean()) < spread


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_with_a_seed_of_its_own_is_that_of_a_clip_of_this_seed(kind):
    settings = {"kind": kind, "length": 4, "overlap": 1}
    plain, other, third = (noise_of(seed=seed, **settings) for seed in (7, 42, 43))
    noise = noise_of(seeds="2-4: 42\n9: 43, 11: 42", **settings)
    assert torch.equal(noise[2:5], other[2:5])
    assert torch.equal(noise[9], third[9])
    assert torch.equal(noise[11], other[11])
    rest = [0, 1, 5, 6, 7, 8, 10]
    assert torch.equal(noise[rest], plain[rest])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "freenoise"])
def test_a_frames_noise_depends_on_its_number_alone(kind):
    settings = FrameNoiseSettings(7, kind, length=5, seeds=parse_frame_seeds("3-8: 9"))
    whole = clip_noise(settings, range(20), draw)
    assert torch.equal(clip_noise(settings, range(9), draw), whole[:9])
    assert torch.equal(clip_noise(settings, [11, 2, 2, 7], draw), whole[[11, 2, 2, 7]])


def test_frames_of_freenoise_keep_theirs_in_a_part_that_ends_with_the_clip():
    settings = FrameNoiseSettings(7, "freenoise", 5, 2)
    assert torch.equal(clip_noise(settings, range(9, 20), draw), clip_noise(settings, range(20), draw)[9:])


def test_freenoise_applied_once_more_is_the_same_noise():
    """A context window with the same length, overlap and seed shuffles again."""
    for frames, length, overlap in itertools.product((16, 17, 31, 40, 100), (8, 16), (0, 3, 7)):
        once = free_noise(torch.randn(frames, 2, 1, 1), length, overlap, 42)
        assert torch.equal(free_noise(once, length, overlap, 42), once)


def test_a_context_windows_freenoise_replaces_another_of_its_length():
    noise = torch.randn(50, 2, 1, 1)
    shuffled = free_noise(noise, 16, 0, 1)
    assert torch.equal(free_noise(shuffled, 16, 4, 42), free_noise(noise, 16, 4, 42))


def test_seeds_are_read_in_any_order_and_none_means_the_clips():
    seeds = parse_frame_seeds(f" 9 : 3 \n\n0 - 7:42,8:{LARGEST_SEED}")
    assert [seeds.seed_of(frame, 1) for frame in (0, 7, 8, 9, 10)] == [42, 42, LARGEST_SEED, 3, 1]
    assert parse_frame_seeds(" \n").seed_of(5, 1) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("42", "a frame or a range and its seed"),
        ("1: -5", "found '1: -5'"),
        (f"1: {LARGEST_SEED + 1}", "from 0 to 2"),
        ("-1: 5", "found '-1: 5'"),
        ("1: 2.5", "found '1: 2.5'"),
        ("7-0: 5", "Write `0-7`"),
        ("0-7: 5\n7: 6", "frame 7 stands in them twice"),
        ("3: 5\n3: 5", "frame 3 stands in them twice"),
    ],
)
def test_seeds_that_cannot_be_read_are_refused_in_words(text, words):
    with pytest.raises(SettingsError, match=words):
        parse_frame_seeds(text)


def test_seeds_outside_the_clip_are_refused_with_its_frames():
    seeds = parse_frame_seeds("0: 1\n3-16: 2")
    seeds.check_clip(17)
    with pytest.raises(SettingsError, match=r"frames 0 to 15.*frame 16"):
        seeds.check_clip(16)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "white"}, "one of by frame, constant"),
        ({"length": 0}, "length 1 or more"),
        ({"overlap": -1}, "overlap 0 or more"),
        ({"share": 1.1}, "share 0 to 1"),
        ({"kind": "freenoise", "length": 4, "overlap": 4}, "overlap 4 must be smaller than length 4"),
    ],
)
def test_settings_that_cannot_work_say_what_to_set(settings, words):
    with pytest.raises(SettingsError, match=words):
        FrameNoiseSettings(**settings)
