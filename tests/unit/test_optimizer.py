"""Learning rates, the moving average, and moments that survive a checkpoint."""

import pytest
import torch
from torch import nn

from motiongraft.core.errors import SettingsError
from motiongraft.training.optimizer import (
    MovingAverage,
    learning_rate_at,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
)
from motiongraft.training.settings import TrainingSettings


def test_rate_grows_then_stays():
    settings = TrainingSettings(steps=10, warmup_steps=4, learning_rate=1.0)
    assert [learning_rate_at(step, settings) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_falls_to_nothing_at_the_last_step():
    settings = TrainingSettings(steps=10, warmup_steps=2, learning_rate=1.0, learning_rate_schedule="cosine")
    rates = [learning_rate_at(step, settings) for step in range(11)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx(0.5)
    assert rates[10] == pytest.approx(0.0)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_average_forgets_where_training_started():
    weight = nn.Parameter(torch.zeros(1))
    average = MovingAverage(0.999, {"w": weight})
    weight.data.fill_(1.0)
    for step in range(200):
        average.update({"w": weight}, step)
    assert float(average.weights["w"]) > 0.99
    assert float(weight.detach()) == 1.0


def test_average_moves_by_its_decay_once_warm():
    weight = nn.Parameter(torch.zeros(1))
    average = MovingAverage(0.9, {"w": weight})
    weight.data.fill_(1.0)
    average.update({"w": weight}, 10_000)
    assert float(average.weights["w"]) == pytest.approx(0.1)


def test_restored_moments_take_the_same_next_step_bit_for_bit():
    torch.manual_seed(0)
    settings = TrainingSettings(learning_rate=0.1)
    parameters = {name: nn.Parameter(torch.randn(5)) for name in ("a", "b")}
    optimizer = make_optimizer(parameters.values(), settings)
    for _ in range(3):
        for weight in parameters.values():
            weight.grad = weight.detach() * 0.3
        optimizer.step()
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, parameters).items()}
    copies = {name: nn.Parameter(weight.detach().clone()) for name, weight in parameters.items()}
    other = make_optimizer(copies.values(), settings)
    restore_optimizer(other, copies, saved)
    for group, owner in ((parameters, optimizer), (copies, other)):
        for weight in group.values():
            weight.grad = torch.full_like(weight, 0.7)
        owner.step()
    assert all(torch.equal(parameters[name], copies[name]) for name in parameters)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("learning_rate", -1.0),
        ("learning_rate", float("nan")),
        ("ema", 1.0),
        ("caption_dropout", 1.5),
        ("precision", "fp8"),
        ("checkpointing", "maybe"),
        ("resume", "yes"),
        ("learning_rate_schedule", "linear"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(SettingsError, match=f"{name} should be"):
        TrainingSettings(**{name: value})
