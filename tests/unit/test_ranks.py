"""Several processes train one run: the same gradient as one process, and none waits for one that is gone."""

import os
import signal
import time

import pytest
import torch

from motiongraft.core.errors import RunError, TrainingDataError
from motiongraft.tests.helpers.cached_sets import write_toy_cache
from motiongraft.tests.helpers.rank_processes import free_port, in_processes, in_ranks, toy_loop, toy_run
from motiongraft.tests.helpers.training_runs import Stopped, Witness, quick_settings
from motiongraft.training import ranks as ranks_module
from motiongraft.training.batches import TrainingData
from motiongraft.training.ranks import OneRank, ProcessGroup, buckets, together
from motiongraft.training.shared_gradient import StoppedByAnotherError

EXACT = 1e-6
"""Relative: float32 sums in another order."""

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="a process cannot be forked here"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    return write_toy_cache(tmp_path_factory.mktemp("caches") / "toy", num_clips=7, frames=2)


def gradients(cached, count, **settings):
    """Loss and gradients of one step in every process."""
    settings = quick_settings(**settings)

    def work(ranks):
        loop = toy_loop(cached, settings, ranks)
        draws = loop.data.draws(3)
        loss = loop.shared_gradient.sum_(loop._gradient(ranks.share(draws), len(draws)))
        named = {name: None if weight.grad is None else weight.grad.numpy() for name, weight in loop.parameters.items()}
        return loss, named

    return in_ranks(count, work)


@pytest.mark.parametrize(
    ("count", "batch_size", "accumulation"),
    [(2, 2, 1), (2, 1, 2), (2, 1, 1), (3, 1, 1)],
    ids=["two ranks", "two ranks that accumulate", "two ranks of one clip", "three ranks"],
)
def test_ranks_have_the_gradient_of_one_rank_with_the_whole_batch(cached, count, batch_size, accumulation):
    split = {"batch_size": batch_size, "accumulation": accumulation, "processes": count}
    found = gradients(cached, count, **split)
    ((loss, expected),) = gradients(cached, 1, batch_size=batch_size * accumulation * count)
    check_equal(found, loss, expected)


@pytest.mark.parametrize(("count", "clips"), [(2, 3), (2, 1), (3, 2), (3, 4)])
def test_uneven_and_empty_shares_give_the_same_gradient(cached, count, clips):
    found = gradients(cached, count, batch_size=clips)
    ((loss, expected),) = gradients(cached, 1, batch_size=clips)
    check_equal(found, loss, expected)


def check_equal(found, loss, expected):
    for rank_loss, rank_gradients in found:
        assert rank_loss == pytest.approx(loss, rel=EXACT)
        assert rank_loss == found[0][0]
        for name, gradient in expected.items():
            if gradient is None:
                assert rank_gradients[name] is None, f"{name}, which nobody used, got a gradient"
                continue
            largest = abs(gradient).max()
            assert abs(rank_gradients[name] - gradient).max() <= EXACT * largest, name
            assert (rank_gradients[name] == found[0][1][name]).all(), f"{name} differs between ranks"


def test_every_clip_of_a_step_belongs_to_one_rank(cached):
    draws = TrainingData(cached, quick_settings(batch_size=7), single_frames=False).draws(0)
    for count in (2, 3, 5, 9):
        groups = [object.__new__(ProcessGroup) for _ in range(count)]
        for rank, group in enumerate(groups):
            group.rank, group.count = rank, count
        parts = [group.share(draws) for group in groups]
        assert [each for part in parts for each in part] == draws
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_run_goes_on_on_another_number_of_ranks(cached, tmp_path):
    settings = quick_settings(steps=6, batch_size=4, ema=0.9, save_every=2, validate_every=3, learning_rate=1e-3)
    (through,) = in_ranks(1, lambda ranks: toy_run(tmp_path / "through", cached, settings, ranks))
    for stop, count in ((2, 2), (4, 3)):
        results = in_ranks(
            count, lambda ranks, stop=stop: toy_run(tmp_path, cached, settings, ranks, Witness(stop_after=stop))
        )
        assert all(isinstance(result, Stopped) for result in results)
    (resumed,) = in_ranks(1, lambda ranks: toy_run(tmp_path, cached, settings, ranks))
    assert resumed.losses == pytest.approx(through.losses, rel=1e-5)
    for name, weight in through.tensors.items():
        assert torch.allclose(resumed.tensors[name], weight, rtol=0, atol=1e-4), name


def test_a_rank_that_cannot_read_its_clips_ends_all_with_its_words_and_the_first_saves(cached, tmp_path):
    settings = quick_settings(steps=9, batch_size=4)

    class Reader(Witness):
        def check_cancelled(self):
            if len(self.steps) == 3:
                raise TrainingDataError("a shard is damaged")

    def work(ranks):
        return toy_run(tmp_path, cached, settings, ranks, Reader() if ranks.rank == 1 else Witness())

    first, second = in_ranks(2, work)
    assert isinstance(second, TrainingDataError)
    assert isinstance(first, StoppedByAnotherError)
    assert str(first) == "a shard is damaged"
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")] == ["step-00000003"]


def test_cancelled_in_the_first_all_stop_after_the_same_step(cached, tmp_path):
    settings = quick_settings(steps=9, batch_size=4)

    def work(ranks):
        witness = Witness(stop_after=2 if ranks.rank == 0 else None)
        try:
            return toy_run(tmp_path, cached, settings, ranks, witness)
        except (Stopped, StoppedByAnotherError) as error:
            return type(error).__name__, len(witness.steps)

    found = in_ranks(3, work)
    assert found == [("Stopped", 2), ("StoppedByAnotherError", 2), ("StoppedByAnotherError", 2)]


def test_a_killed_rank_ends_the_others_soon_and_loses_no_step(cached, tmp_path):
    settings = quick_settings(steps=9, batch_size=4)

    class Victim(Witness):
        def on_step(self, report):
            super().on_step(report)
            if report.step == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    def work(ranks):
        return toy_run(tmp_path, cached, settings, ranks, Victim() if ranks.rank == 1 else Witness())

    started = time.monotonic()
    first, second, third = in_ranks(3, work)
    assert second is None
    assert isinstance(first, RunError)
    assert isinstance(third, RunError)
    assert time.monotonic() - started < 30
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")] == ["step-00000002"]
    (resumed,) = in_ranks(1, lambda ranks: toy_run(tmp_path, cached, settings, ranks))
    assert len(resumed.losses) == 9


def test_a_checkpoint_that_another_rank_cannot_read_stops_all(cached, tmp_path, monkeypatch):
    settings = quick_settings(steps=2, batch_size=4)
    in_ranks(1, lambda ranks: toy_run(tmp_path, cached, settings, ranks))

    def work(ranks):
        def unreadable(path):
            raise RunError(f"{path} cannot be read")

        if ranks.rank:
            monkeypatch.setattr("motiongraft.training.loop.read_checkpoint", unreadable)
        return toy_run(tmp_path, cached, settings, ranks)

    assert all("step-00000002 cannot be read" in str(error) for error in in_ranks(2, work))


def test_what_one_says_all_hear_and_together_raises_in_all():
    def work(ranks):
        said = ranks.gather(f"rank {ranks.rank} wärmt" if ranks.rank else "")
        with together(ranks):
            fine = ranks.any(ranks.rank == 2), ranks.any(False)
        try:
            with together(ranks):
                if ranks.rank == 1:
                    raise RunError("this one cannot")
        except RunError as error:
            return said, fine, str(error)

    assert in_ranks(3, work) == [(["", "rank 1 wärmt", "rank 2 wärmt"], (True, False), "this one cannot")] * 3


def test_sums_are_over_all_tensors_of_any_type_and_size(monkeypatch):
    monkeypatch.setattr(ranks_module, "BUCKET_BYTES", 40)

    def work(ranks):
        tensors = [torch.full(shape, ranks.rank + 1.0) for shape in ((3,), (2, 2), (), (50,))]
        tensors.append(torch.ones(3, dtype=torch.float64))
        ranks.sum_(tensors)
        return [(tuple(tensor.shape), tensor.unique().tolist()) for tensor in tensors]

    expected = [((3,), [3.0]), ((2, 2), [3.0]), ((), [3.0]), ((50,), [3.0]), ((3,), [2.0])]
    assert in_ranks(2, work) == [expected, expected]


def test_buckets_hold_neighbours_of_one_type():
    tensors = [torch.zeros(2), torch.zeros(3), torch.zeros(2, dtype=torch.float64), torch.zeros(1)]
    assert [len(bucket) for bucket in buckets(tensors)] == [2, 1, 1]


def test_none_leaves_while_another_still_writes(tmp_path):
    def work():
        group = ProcessGroup(False, 30.0)
        if group.rank == 0:
            time.sleep(0.5)
            (tmp_path / "result").touch()
        group.close()
        return (tmp_path / "result").exists()

    assert in_processes(2, work) == [True, True]


def test_one_rank_is_alone():
    alone = OneRank()
    assert alone.share([1, 2]) == [1, 2]
    assert alone.gather("words") == ["words"]
    with pytest.raises(RunError, match="mine"), together(alone):
        raise RunError("mine")


def test_a_port_in_use_is_one_sentence():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        environment = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            with pytest.raises(RunError, match=rf"port of 127.0.0.1:{port} is in use"):
                ProcessGroup(False, 5.0, environment)


def test_a_rank_that_nobody_joins_says_so():
    environment = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(RunError, match="did not find each other"):
            ProcessGroup(False, 1.0, environment)
