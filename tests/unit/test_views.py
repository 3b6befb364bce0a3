"""Views: attention in windows, spatial layers without."""

import pytest
import torch
import torch.nn.functional as F

from motiongraft.motion_modules.adjustments import Adjustments, View
from motiongraft.motion_modules.attention import TemporalSelfAttention
from motiongraft.motion_modules.transformer import TemporalTransformer
from motiongraft.sampling.context_windows import ContextWindowSettings
from motiongraft.sampling.window_indices import frame_shares, window_indices

CHANNELS, HEADS = 32, 4
TOLERANCE = 1e-5  # float32, one attention in another order of operations


def views(settings, frames, step=0):
    windows = window_indices(settings, frames, step)
    shares = frame_shares(settings, windows, frames)
    return tuple(View(torch.tensor(window), share) for window, share in zip(windows, shares, strict=True))


@pytest.fixture
def attention():
    torch.manual_seed(0)
    return TemporalSelfAttention(CHANNELS, 16, HEADS).eval().requires_grad_(False)


def reference(attention, tokens, num_frames, windows, scale=None):
    """Every window as a clip of its own, in float64, and the weighted mean of what they give."""
    weights = {name: tensor.double() for name, tensor in attention.state_dict().items()}
    clips = tokens.double().unflatten(0, (-1, num_frames))
    total = torch.zeros_like(clips)
    for view in windows:
        part = clips[:, view.frames] + weights["pos_encoder.pe"][0, : len(view.frames), None]
        q, k, v = F.linear(part, weights["to_qkv.weight"]).unflatten(-1, (3, HEADS, -1)).permute(3, 0, 2, 4, 1, 5)
        if scale is not None:
            own = scale.double().unflatten(0, (-1, num_frames))[:, view.frames].flatten(2)
            q = q * own.transpose(1, 2)[:, :, None, :, None]
        seen = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1) @ v
        out = F.linear(seen.permute(0, 3, 1, 2, 4).flatten(3), weights["to_out.0.weight"], weights["to_out.0.bias"])
        total[:, view.frames] += out * view.shares.double()[:, None, None]
    return total.flatten(0, 1)


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("schedule", ["static", "uniform", "looped"])
@pytest.mark.parametrize("overlap", [0, 3])
def test_each_view_is_a_clip_of_its_own_and_they_are_fused(attention, clips, schedule, overlap):
    windows = views(ContextWindowSettings(8, overlap, schedule=schedule), 21, step=1)
    tokens = torch.randn(clips * 21, 6, CHANNELS)
    found = attention(tokens.clone(), 21, Adjustments(views=windows))
    assert (found - reference(attention, tokens, 21, windows)).abs().max() < TOLERANCE


def test_an_attention_scale_of_frames_and_pixels_holds_in_every_view(attention):
    windows = views(ContextWindowSettings(8, 4, schedule="static"), 20)
    tokens, scale = torch.randn(40, 6, CHANNELS), torch.rand(40, 1, 2, 3) * 3
    found = attention(tokens.clone(), 20, Adjustments(views=windows, attention_scale=scale))
    assert (found - reference(attention, tokens, 20, windows, scale)).abs().max() < TOLERANCE
    half = attention(tokens.clone(), 20, Adjustments(views=windows, attention_scale=0.5))
    expected = reference(attention, tokens, 20, windows, torch.full_like(scale, 0.5))
    assert (half - expected).abs().max() < TOLERANCE


def test_views_without_overlap_are_separate_clips():
    torch.manual_seed(0)
    transformer = TemporalTransformer(CHANNELS, 16, num_heads=HEADS).eval().requires_grad_(False)
    x = torch.randn(24, CHANNELS, 2, 3)
    found = transformer(x, 24, Adjustments(views=views(ContextWindowSettings(8, 0, schedule="batched"), 24)))
    assert torch.allclose(found, transformer(x, 8), atol=TOLERANCE)


def test_views_run_under_autocast_too(attention):
    windows = views(ContextWindowSettings(8, 4, schedule="static"), 20)
    tokens = torch.randn(20, 6, CHANNELS)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(tokens.clone(), 20, Adjustments(views=windows))
    assert torch.allclose(found.float(), attention(tokens.clone(), 20, Adjustments(views=windows)), atol=0.05)


def test_what_flows_back_through_views_reaches_every_weight():
    torch.manual_seed(0)
    attention = TemporalSelfAttention(CHANNELS, 16, HEADS)
    windows = views(ContextWindowSettings(8, 4, schedule="static"), 20)
    attention(torch.randn(20, 6, CHANNELS), 20, Adjustments(views=windows)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in attention.parameters())
