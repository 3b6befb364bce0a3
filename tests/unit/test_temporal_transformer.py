"""The temporal transformer against a plain float64 reference, and its promises."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from motiongraft.motion_modules.attention import attend_over_time
from motiongraft.motion_modules.positions import rows_for, sinusoidal_positions
from motiongraft.motion_modules.transformer import TemporalTransformer
from motiongraft.tests.helpers.reference_transformer import reference_transformer

TOLERANCES = {
    torch.float32: 2e-5,  # rounding of five matrix products of width 64
    torch.float16: 2e-2,  # 10 bits of mantissa, values up to about 5
    torch.bfloat16: 2e-1,  # 7 bits of mantissa, values up to about 5
}
SHAPES = [  # clips, frames, height, width
    (1, 16, 8, 8),
    (2, 16, 6, 10),
    (3, 7, 5, 3),
    (4, 2, 1, 9),
    (1, 1, 4, 4),
    (1, 64, 3, 2),
    (2, 33, 2, 5),
]


def transformer(channels=64, positions=64, seed=0, **kwargs):
    torch.manual_seed(seed)
    module = TemporalTransformer(channels, positions, **kwargs).eval()
    torch.nn.init.normal_(module.norm.weight, 1.0, 0.2)
    return module.requires_grad_(False)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_float64_reference(shape, dtype):
    clips, frames, height, width = shape
    module = transformer().to(dtype)
    x = torch.randn(clips * frames, 64, height, width).to(dtype)
    expected = reference_transformer(module.state_dict(), x, frames, num_heads=8)
    assert torch.allclose(module(x, frames).double(), expected, atol=TOLERANCES[dtype], rtol=0)


@settings(max_examples=25, deadline=None)
@given(
    clips=st.integers(1, 4),
    frames=st.integers(1, 64),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    heads=st.sampled_from([1, 2, 4, 8]),
)
def test_equals_the_float64_reference_at_random_shapes(clips, frames, height, width, heads):
    module = transformer(num_heads=heads)
    x = torch.randn(clips * frames, 64, height, width)
    expected = reference_transformer(module.state_dict(), x, frames, heads)
    assert torch.allclose(module(x, frames).double(), expected, atol=TOLERANCES[torch.float32], rtol=0)


@pytest.mark.parametrize("norm_over_frames", [False, True])
@pytest.mark.parametrize("num_attention_blocks", [1, 2])
def test_equals_the_reference_in_every_design(norm_over_frames, num_attention_blocks):
    module = transformer(num_attention_blocks=num_attention_blocks, norm_over_frames=norm_over_frames)
    x = torch.randn(2 * 8, 64, 4, 6)
    expected = reference_transformer(module.state_dict(), x, 8, 8, norm_over_frames)
    assert torch.allclose(module(x, 8).double(), expected, atol=TOLERANCES[torch.float32], rtol=0)


def test_norm_over_frames_is_not_the_norm_of_each_frame():
    x = torch.randn(8, 64, 4, 4) * torch.arange(1, 9).view(-1, 1, 1, 1)
    assert not torch.allclose(transformer()(x, 8), transformer(norm_over_frames=True)(x, 8), atol=1e-3)


def test_clips_of_a_batch_do_not_see_each_other():
    module = transformer()
    clips = torch.randn(3, 8, 64, 4, 4)
    together = module(clips.flatten(0, 1), 8).unflatten(0, (3, 8))
    changed = clips.clone()
    changed[0] += 1
    assert torch.equal(module(changed.flatten(0, 1), 8).unflatten(0, (3, 8))[1:], together[1:])


def test_a_pixel_sees_only_itself_in_the_other_frames():
    module = transformer()
    x = torch.randn(8, 64, 4, 4)
    # The group norm alone mixes pixels; without it nothing of the neighbours may arrive.
    module.norm = torch.nn.Identity()
    changed = x.clone()
    changed[3, :, 2, 2] += 1
    difference = (module(changed, 8) - module(x, 8)).abs().amax(dim=(0, 1))
    assert difference[2, 2] > 0
    difference[2, 2] = 0
    assert difference.max() < 1e-6


def test_zeroed_output_is_bitwise_the_identity():
    module = transformer()
    module.zero_output()
    x = torch.randn(16, 64, 5, 7)
    assert torch.equal(module(x, 16), x)


def test_input_is_left_alone():
    x = torch.randn(16, 64, 4, 4)
    before = x.clone()
    transformer()(x, 16)
    assert torch.equal(x, before)


def test_gradients_equal_the_reference():
    module = transformer().requires_grad_(True)
    x = torch.randn(8, 64, 2, 3)
    (module(x, 8) ** 2).sum().backward()
    weights = {name: tensor.detach().double().requires_grad_() for name, tensor in module.state_dict().items()}
    (reference_transformer(weights, x, 8, 8) ** 2).sum().backward()
    for name, parameter in module.named_parameters():
        expected = weights[name].grad
        assert (parameter.grad - expected).abs().max() < 1e-4 * expected.abs().max(), name


@pytest.mark.parametrize("trains", [False, True])
def test_attention_is_split_where_kernels_end(monkeypatch, trains):
    import motiongraft.motion_modules.attention as attention

    qkv = torch.randn(2 * 4, 10, 3 * 64)
    with torch.set_grad_enabled(trains):
        whole = attend_over_time(qkv, 4, 8)
        monkeypatch.setattr(attention, "MAX_SEQUENCES", 3)
        assert torch.allclose(attend_over_time(qkv, 4, 8), whole, atol=1e-6)


def test_gradient_of_attention_is_its_slope_in_every_clip_and_part(monkeypatch):
    import motiongraft.motion_modules.attention as attention

    monkeypatch.setattr(attention, "MAX_SEQUENCES", 2)
    qkv = torch.randn(3 * 2, 5, 3 * 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda projected: attend_over_time(projected, 2, 2), qkv)


def calls_of_backward_pass(given, result):
    """How often each operation runs between a result and what it was made of."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        torch.autograd.grad(result, given, torch.ones_like(result))
    return {event.key: event.count for event in profile.key_averages()}


def test_gradients_of_queries_keys_and_values_are_gathered_once():
    qkv = torch.randn(4 * 8, 16, 3 * 64, requires_grad=True)
    calls = calls_of_backward_pass(qkv, attend_over_time(qkv, 8, 8))
    assert not {"aten::cat", "aten::stack", "aten::slice_backward"} & calls.keys()


def test_positions_cost_the_backward_pass_no_copies():
    tokens = torch.randn(2 * 8, 5, 64, requires_grad=True)
    table = transformer().transformer_blocks[0].attention_blocks[0].pos_encoder
    calls = calls_of_backward_pass(tokens, table.add_to(tokens.clone(), 8))
    assert not {"aten::copy_", "aten::clone"} & calls.keys()


def test_tokens_that_fit_into_one_feed_forward_cost_the_backward_pass_no_copies():
    tokens = torch.randn(2 * 8, 5, 64, requires_grad=True)
    calls = calls_of_backward_pass(tokens, transformer().transformer_blocks[0].ff(tokens))
    assert calls["aten::cat"] == 1  # value and gate, which are one projection


def test_attention_is_the_same_with_and_without_gradients():
    qkv = torch.randn(2 * 4, 10, 3 * 64)
    with torch.no_grad():
        plain = attend_over_time(qkv, 4, 8)
    assert torch.equal(attend_over_time(qkv, 4, 8), plain)


def test_feed_forward_in_parts_equals_the_whole(monkeypatch):
    import motiongraft.motion_modules.transformer as transformers

    module, x = transformer(), torch.randn(16, 64, 4, 4)
    whole = module(x, 16)
    monkeypatch.setattr(transformers, "MAX_TOKENS", 40)
    assert torch.allclose(module(x, 16), whole, atol=1e-6)
    monkeypatch.setattr(transformers, "MAX_TOKENS", 1)
    assert torch.allclose(module(x, 16), whole, atol=1e-6)


def test_attention_reads_the_projection_without_copies():
    qkv = torch.randn(2 * 16, 64, 3 * 64)
    with (
        torch.no_grad(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile,
    ):
        attend_over_time(qkv, 16, 8)
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["aten::scaled_dot_product_attention"] == 2
    assert "aten::contiguous" not in calls
    assert calls["aten::copy_"] == 2  # each clip's result, into the token layout


def test_positions_are_the_published_table():
    table = sinusoidal_positions(24, 8)[0].double()
    for position in (0, 1, 23):
        for pair in range(4):
            angle = position / 10_000 ** (2 * pair / 8)
            assert table[position, 2 * pair].item() == pytest.approx(torch.tensor(angle).sin().item(), abs=1e-6)
            assert table[position, 2 * pair + 1].item() == pytest.approx(torch.tensor(angle).cos().item(), abs=1e-6)


def test_a_leading_frame_beyond_the_table_shares_the_first_row():
    table = torch.arange(4.0).view(1, 4, 1)
    assert rows_for(table, 3).flatten().tolist() == [0, 1, 2]
    assert rows_for(table, 4).flatten().tolist() == [0, 1, 2, 3]
    assert rows_for(table, 5).flatten().tolist() == [0, 0, 1, 2, 3]
