"""Trainable low-rank changes: they start as nothing, and are published as what they do."""

import pytest
import torch
from torch import nn

from motiongraft.core.errors import IncompatibleModelError
from motiongraft.lora.adapters import LowRankAdapters, low_rank_changes


@pytest.fixture
def layers():
    torch.manual_seed(0)
    return {"fused.weight": nn.Linear(6, 12, bias=False), "out.weight": nn.Linear(4, 5)}


def trained(layers):
    """Adapters of both layers, with weights as training might leave them."""
    adapters = LowRankAdapters(layers, {"fused.weight": 3}, rank=2, seed=0)
    for weight in adapters.parameters():
        nn.init.normal_(weight)
    return adapters


def test_a_new_adapter_changes_nothing_bit_for_bit(layers):
    x = torch.randn(3, 6)
    before = layers["fused.weight"](x)
    LowRankAdapters(layers, {"fused.weight": 3}, rank=2, seed=0)
    assert torch.equal(layers["fused.weight"](x), before)


def test_the_published_changes_are_what_the_layers_compute(layers):
    plain = {name: layer.weight.detach().double().clone() for name, layer in layers.items()}
    adapters = trained(layers)
    weights = {name: weight.detach() for name, weight in adapters.named_parameters()}
    for change in low_rank_changes(adapters.targets, weights):
        first = change.first_row or 0
        rows = slice(first, first + change.num_rows)
        plain[change.target][rows] += change.up.double() @ change.down.double()
    for name, layer in layers.items():
        x = torch.randn(7, layer.in_features)
        expected = x.double() @ plain[name].T + (0 if layer.bias is None else layer.bias.double())
        torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_a_fused_weight_has_a_change_for_each_part(layers):
    adapters = trained(layers)
    changes = low_rank_changes(adapters.targets, dict(adapters.named_parameters()))
    assert [(change.target, change.first_row) for change in changes] == [
        ("fused.weight", 0),
        ("fused.weight", 4),
        ("fused.weight", 8),
        ("out.weight", None),
    ]


def test_gradients_are_those_of_a_dense_change_in_float64(layers):
    adapters = trained(layers).double()
    layer = layers["fused.weight"].double()
    x = torch.randn(5, 6, dtype=torch.float64)
    layer(x).square().sum().backward()
    adapter = adapters.adapters[0]
    down, up = (weight.detach().clone().requires_grad_() for weight in (adapter.down, adapter.up))
    dense = layer.weight.detach() + torch.cat([up[part] @ down[part] for part in range(3)])
    (x @ dense.T).square().sum().backward()
    torch.testing.assert_close(adapter.down.grad, down.grad)
    torch.testing.assert_close(adapter.up.grad, up.grad)


def test_the_seed_decides_where_training_starts(layers):
    def start(seed):
        return LowRankAdapters({"out.weight": nn.Linear(4, 5)}, {}, 2, seed).adapters[0].down

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


def test_a_layer_without_a_plain_matrix_is_refused_in_words():
    with pytest.raises(IncompatibleModelError, match=r"conv.*not a plain linear layer \(Conv2d\)"):
        LowRankAdapters({"conv": nn.Conv2d(3, 3, 3)}, {}, 2, 0)
