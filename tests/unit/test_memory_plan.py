"""How a step is fitted to memory."""

import pytest
import torch
from torch import nn

from motiongraft.core.errors import RunError
from motiongraft.training.memory_plan import MemoryPlan, fit_to_memory, kept_bytes, needed_bytes


def attempt_with(most, tried):
    """An attempt that fits where at most so many clips go through at once, fewer if activations are kept."""

    def attempt(plan):
        tried.append(plan)
        if plan.micro_batch > (most if plan.checkpointing else most // 4):
            raise torch.OutOfMemoryError("out of memory")

    return attempt


def test_what_fits_is_left_as_it_is():
    tried, said = [], []
    plan = MemoryPlan(4, False)
    assert fit_to_memory(plan, True, attempt_with(16, tried), said.append) == plan
    assert tried == [plan]
    assert said == []


def test_checkpointing_comes_before_smaller_parts():
    tried, said = [], []
    assert fit_to_memory(MemoryPlan(5, False), True, attempt_with(2, tried), said.append) == MemoryPlan(2, True)
    assert tried == [MemoryPlan(5, False), MemoryPlan(5, True), MemoryPlan(3, True), MemoryPlan(2, True)]
    assert len(said) == 3


def test_checkpointing_that_is_off_stays_off():
    plan = fit_to_memory(MemoryPlan(4, False), False, attempt_with(4, []), lambda _: None)
    assert plan == MemoryPlan(1, False)


def test_too_little_for_one_clip_is_said():
    with pytest.raises(RunError, match="not even one clip"):
        fit_to_memory(MemoryPlan(4, False), True, attempt_with(0, []), lambda _: None)


def test_kept_bytes_are_those_of_activations_not_of_weights():
    layers = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False))
    x = torch.randn(100, 8)
    floats = kept_bytes(lambda: layers(x).sum()) / 4
    assert floats == pytest.approx(2 * 100 * 8, rel=0.2)  # the input and what ReLU gave; weights are not counted


def test_frozen_weights_are_there_anyway():
    layers = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)).requires_grad_(False)
    x = torch.randn(2, 8, requires_grad=True)
    assert kept_bytes(lambda: layers(x).sum()) == 0


def test_needed_memory_grows_with_clips_and_with_moments_to_come():
    one = needed_bytes(1000, False, 10_000, 1)
    assert needed_bytes(1000, True, 10_000, 1) == one - 8000
    assert needed_bytes(1000, False, 10_000, 3) == one + 24_000
