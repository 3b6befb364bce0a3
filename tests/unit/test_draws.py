"""What a step trains on depends on (seed, step, place in the step) and on nothing else."""

from collections import Counter

import pytest
import torch

from motiongraft.training.draws import NUM_TIMESTEPS, clip_of, draw, noise_of, shuffled


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 1000])
def test_shuffle_is_a_permutation(count):
    assert sorted(shuffled(number, count, "key") for number in range(count)) == list(range(count))


def test_shuffle_depends_on_its_key():
    assert [shuffled(n, 50, 1) for n in range(50)] != [shuffled(n, 50, 2) for n in range(50)]


def test_shuffle_of_ten_million_needs_no_list():
    places = {shuffled(number, 10_000_000, "key") for number in range(2000)}
    assert len(places) == 2000
    assert min(places) < 500_000
    assert max(places) > 9_500_000


def test_one_bucket_gives_every_clip_once_an_epoch():
    seen = [clip_of((10,), 7, step, index, 4)[1] for step in range(5) for index in range(4)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_buckets_take_turns_and_lose_no_clip():
    counts, batch = (12, 3, 8), 4
    steps = 3 + 1 + 2
    seen = [clip_of(counts, 1, step, index, batch) for step in range(3 * steps) for index in range(batch)]
    found = Counter(seen)
    assert set(found) == {(bucket, number) for bucket, count in enumerate(counts) for number in range(count)}
    assert {found[0, number] for number in range(12)} == {3}
    assert {found[2, number] for number in range(8)} == {3}
    assert {found[1, number] for number in range(3)} == {4}


def test_all_clips_of_a_step_share_a_bucket():
    for step in range(40):
        assert len({clip_of((9, 5), 3, step, index, 4)[0] for index in range(4)}) == 1


def test_the_split_into_processes_changes_no_draw():
    whole = [draw((20,), 5, 3, index, 8, 0.1, True) for index in range(8)]
    halves = [draw((20,), 5, 3, rank * 4 + index, 8, 0.1, True) for rank in (0, 1) for index in range(4)]
    assert whole == halves


def test_another_seed_draws_otherwise():
    assert draw((20,), 0, 0, 0, 4, 0.1, True) != draw((20,), 1, 0, 0, 4, 0.1, True)


def test_timesteps_and_choices_are_even():
    draws = [draw((100,), 0, step, index, 8, 0.25, True) for step in range(500) for index in range(8)]
    quarters = Counter(each.timestep * 4 // NUM_TIMESTEPS for each in draws)
    assert all(abs(quarters[quarter] / len(draws) - 0.25) < 0.03 for quarter in range(4))
    assert abs(sum(each.is_captioned for each in draws) / len(draws) - 0.75) < 0.03
    assert abs(sum(each.is_mirrored for each in draws) / len(draws) - 0.5) < 0.03
    assert len({each.noise_seed for each in draws}) == len(draws)


def test_clips_that_are_not_cached_mirrored_never_are():
    assert not any(draw((10,), 0, step, 0, 1, 0.0, False).is_mirrored for step in range(100))


def test_noise_is_independent_between_frames_and_the_same_every_time():
    noise = noise_of(2**63 + 5, (16, 4, 8, 8))
    assert torch.equal(noise, noise_of(2**63 + 5, (16, 4, 8, 8)))
    frames = noise.flatten(1)
    assert float((frames @ frames.T / frames.shape[1] - torch.eye(16)).abs().max()) < 0.4
