"""What is measured of a clip: known motions come back, stillness is 0, and flicker, seams and loops show."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from motiongraft.core.errors import SettingsError
from motiongraft.sampling.animation_report import AnimationMeasures, describe
from motiongraft.sampling.clip_scores import score_clip
from motiongraft.sampling.measures import (
    LONGEST_SIDE,
    FrameChange,
    diagonal_share,
    frame_changes,
    join,
    measure_seams,
    seam_pairs,
)
from motiongraft.sampling.optical_flow import optical_flow, warp

SIDE, WHOLE = 128, 256
MOTION = 0.05
"""Relative error of a known motion: as ordered. The largest found is 0.025, from 0.5 pixels on."""
UNEXPLAINED = 0.35
"""Per cent of the range that stays where frames differ by motion alone: cubic interpolation, and one step of bits."""
FINENESS = (0.03, 0.08, 0.2)
"""Cycles a pixel at which textures end: soft, as usual, fine."""


def texture(seed: int, fineness: float) -> Tensor:
    """The spectrum of a cloudy picture without an edge, drawn like those of photographs. Shapes: `h w`, complex"""
    frequency = torch.fft.fftfreq(WHOLE, dtype=torch.float64)
    radius = (frequency[:, None].square() + frequency.square()).sqrt()
    strength = radius.clamp(min=1 / WHOLE) ** -1.5 * (-((radius / fineness) ** 2)).exp()
    strength[0, 0] = 0
    noise = torch.randn(WHOLE, WHOLE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.fft.fft2(noise) * strength


def picture(spectrum: Tensor, x: float = 0.0, y: float = 0.0, side: int = SIDE) -> Tensor:
    """The middle of it, moved exactly, by its phases. Shapes: -> `h w 3`. Units: pixels"""
    frequency = torch.fft.fftfreq(WHOLE, dtype=torch.float64)
    moved = torch.fft.ifft2(spectrum * torch.exp(-2j * math.pi * (frequency * x + frequency[:, None] * y))).real
    levels = 0.5 + 0.18 * moved / moved.std()
    first = (WHOLE - side) // 2
    return levels[first : first + side, first : first + side, None].expand(-1, -1, 3).clamp(0, 1)


def in_eight_bits(frame: Tensor) -> Tensor:
    return (frame * 255).round() / 255


def clip_of(spectrum: Tensor, places: list[tuple[float, float]]) -> Tensor:
    return torch.stack([picture(spectrum, *place) for place in places])


def changes_of(clip: Tensor) -> list[FrameChange]:
    return frame_changes(clip[:-1], clip[1:])


def luminance(frame: Tensor) -> Tensor:
    return frame[None, None, ..., 0]


@pytest.mark.parametrize("fineness", FINENESS)
@pytest.mark.parametrize("pixels", [0.5, 1, 2, 3, 5, 8])
def test_a_known_translation_is_measured_within_five_per_cent(pixels, fineness):
    for seed, angle in enumerate((0.3, 2.4, 4.5)):
        spectrum = texture(seed, fineness)
        first, second = picture(spectrum), picture(spectrum, pixels * math.cos(angle), pixels * math.sin(angle))
        (change,) = changes_of(torch.stack([in_eight_bits(first), in_eight_bits(second)]))
        assert change.motion == pytest.approx(pixels, rel=MOTION)
        assert change.residual < UNEXPLAINED


def test_a_tenth_of_a_pixel_is_not_lost():
    spectrum = texture(0, 0.08)
    (change,) = changes_of(clip_of(spectrum, [(0, 0), (0.1, 0)]))
    assert change.motion == pytest.approx(0.1, rel=0.1)


def test_vectors_point_where_things_went():
    spectrum = texture(3, 0.08)
    flow = optical_flow(luminance(picture(spectrum)), luminance(picture(spectrum, 3, -2)))
    middle = flow.vectors[0, :, 32:-32, 32:-32].mean((1, 2))
    assert middle.tolist() == pytest.approx([3, -2], rel=MOTION)


@pytest.mark.parametrize("degrees", [-2.0, 1.0, 3.0])
def test_a_rotation_is_measured_pixel_by_pixel(degrees):
    """The exact field of a rotation about the middle; its own cubic interpolation makes the rotated frame."""
    turn = torch.polar(torch.tensor(1.0, dtype=torch.float64), torch.tensor(math.radians(degrees), dtype=torch.float64))
    along = torch.arange(SIDE, dtype=torch.float64) - (SIDE - 1) / 2
    place = torch.complex(along.expand(SIDE, SIDE), along[:, None].expand(SIDE, SIDE))
    vectors = torch.view_as_real(place * turn - place).movedim(-1, 0)[None]
    frame = luminance(picture(texture(5, 0.06)))
    rotated, is_inside = warp(frame, vectors)
    found = optical_flow(rotated, frame)
    error = (found.vectors - vectors).norm(dim=1, keepdim=True)[is_inside].mean()
    assert error < 0.08 * vectors.norm(dim=1).mean()


def test_a_still_clip_has_exactly_no_motion_and_no_residual():
    frame = picture(texture(1, 0.2)).float()
    assert changes_of(frame.expand(4, -1, -1, -1)) == [FrameChange(0.0, 0.0, 0.0, 0.0)] * 3


def test_surfaces_without_texture_do_not_dilute_motion():
    """A square of a quarter of the frame's side, moved over an empty frame."""
    frames = torch.full((2, SIDE, SIDE, 3), 0.2)
    frames[0, 48:80, 40:72] = 0.8
    frames[1, 48:80, 46:78] = 0.8
    (change,) = changes_of(frames)
    assert change.motion == pytest.approx(6, rel=MOTION)


def test_stripes_show_their_motion_across_themselves():
    columns = torch.arange(SIDE, dtype=torch.float64)
    clip = torch.stack([0.5 + 0.3 * torch.sin((columns - shift) / 6) for shift in (0.0, 2.0)])
    (change,) = changes_of(clip[:, None, :, None].expand(-1, SIDE, -1, 3))
    assert change.motion == pytest.approx(2, rel=MOTION)


def test_empty_frames_of_any_brightness_do_not_move():
    levels = torch.tensor([0.0, 0.3, 1.0]).view(3, 1, 1, 1).expand(-1, SIDE, SIDE, 3)
    assert [change.motion for change in changes_of(levels)] == pytest.approx([0, 0], abs=1e-12)
    assert [change.brightness for change in changes_of(levels)] == pytest.approx([30, 70], abs=1e-4)


@pytest.mark.parametrize("gain", [0.8, 0.95])
def test_a_flicker_of_light_is_residual_and_not_motion(gain):
    frame = picture(texture(1, 0.08))
    (change,) = changes_of(torch.stack([frame, frame * gain]))
    assert change.motion < 0.05
    assert change.residual == pytest.approx(100 * (1 - gain) * float(frame.mean()), rel=0.05)
    assert change.brightness == pytest.approx(-change.residual, rel=0.05)
    assert change.detail < 0.1 * change.residual


def test_grain_is_detail_and_not_brightness():
    frame = picture(texture(1, 0.08), side=SIDE)
    noise = torch.randn(frame.shape, generator=torch.Generator().manual_seed(0), dtype=frame.dtype)
    (change,) = changes_of(torch.stack([frame, frame + 0.03 * noise]))
    assert change.detail > 0.8 * change.residual > 0.8
    assert abs(change.brightness) < 0.1


def test_flicker_counts_beside_motion_and_motion_does_not_count_as_flicker():
    spectrum = texture(2, 0.08)
    moving = clip_of(spectrum, [(0, 0), (3, 0)])
    dimmed = torch.stack([moving[0], moving[1] * 0.9])
    (plain,), (darker,) = changes_of(moving), changes_of(dimmed)
    assert plain.residual < UNEXPLAINED
    assert darker.residual == pytest.approx(5, abs=0.8)
    assert darker.motion == pytest.approx(plain.motion, rel=MOTION)


def test_a_change_of_colour_alone_is_flicker():
    frame = picture(texture(2, 0.08)) * 0.5
    weights = torch.tensor([0.2126, 0.7152, 0.0722], dtype=frame.dtype)
    tint = torch.tensor([0.1, -0.1 * float(weights[0] / weights[1]), 0.0], dtype=frame.dtype)
    (change,) = changes_of(torch.stack([frame, frame + tint]))
    assert change.motion < 0.01
    assert abs(change.brightness) < 0.01
    assert change.residual > 2


def test_large_frames_are_measured_in_their_own_pixels():
    frame = picture(texture(2, 0.02), side=192)
    other = picture(texture(2, 0.02), 2, 0, side=192)
    grown = [
        torch.nn.functional.interpolate(each.movedim(-1, 0)[None], scale_factor=6, mode="bicubic").clamp(0, 1)
        for each in (frame, other)
    ]
    assert grown[0].shape[-1] > LONGEST_SIDE
    (change,) = frame_changes(*(each.movedim(1, -1).float() for each in grown))
    assert change.motion == pytest.approx(12, rel=MOTION)


def test_pairs_are_measured_alike_alone_and_in_a_batch():
    spectrum = texture(4, 0.08)
    clip = clip_of(spectrum, [(0, 0), (2, 1), (5, 1), (5, 1)])
    alone = [changes_of(clip[index : index + 2])[0] for index in range(3)]
    for one, other in zip(alone, changes_of(clip), strict=True):
        assert one.motion == pytest.approx(other.motion, rel=1e-9, abs=1e-9)
        assert one.residual == pytest.approx(other.residual, rel=1e-9, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    height=st.integers(16, 60),
    width=st.integers(16, 60),
    flat=st.booleans(),
)
def test_any_frames_give_finite_measures_in_their_ranges(seed, height, width, flat):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.rand(3, height, width, 3, generator=generator)
    if flat:
        frames = frames[:, :1, :1].expand(-1, height, width, -1)
    for change in changes_of(frames):
        assert 0 <= change.motion <= 2 * max(height, width)
        assert 0 <= change.residual <= 150  # cubic interpolation overshoots at edges
        assert abs(change.brightness) <= change.residual + 1e-3
        assert 0 <= change.detail <= 2 * change.residual + 1e-3


def test_a_length_is_a_share_of_the_diagonal_at_any_resolution():
    assert diagonal_share(5, 300, 400) == pytest.approx(1)
    assert diagonal_share(10, 600, 800) == pytest.approx(1)


@pytest.mark.parametrize(
    ("frames", "length", "overlap", "pairs"),
    [
        (32, 16, 0, [15]),
        (28, 16, 4, [11, 15]),
        (40, 16, 4, [11, 15, 23, 27]),
        (16, 16, 4, []),
        (10, 16, 4, []),
        (20, 16, 0, [3, 15]),
    ],
)
def test_seams_lie_where_windows_begin_and_end(frames, length, overlap, pairs):
    assert seam_pairs(frames, length, overlap) == pairs


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_seams_lie_between_frames_of_the_clip(data):
    frames = data.draw(st.integers(2, 200))
    length = data.draw(st.integers(2, 64))
    overlap = data.draw(st.integers(0, length - 1))
    pairs = seam_pairs(frames, length, overlap)
    assert pairs == sorted({*pairs})
    assert all(0 <= pair < frames - 1 for pair in pairs)
    assert bool(pairs) == (frames > length)


@pytest.mark.parametrize(("length", "overlap"), [(1, 0), (16, 16), (16, 20)])
def test_windows_that_do_not_exist_are_refused(length, overlap):
    with pytest.raises(SettingsError):
        seam_pairs(32, length, overlap)


def test_a_seam_in_a_moving_clip_shows_and_the_rest_does_not():
    """The scene is another one from frame 6 on, as between windows that do not share noise."""
    one, other = texture(6, 0.08), texture(7, 0.08)
    frames = [picture(one, index, 0) for index in range(6)]
    frames += [0.7 * picture(one, index, 0) + 0.3 * picture(other, index, 0) for index in range(6, 12)]
    changes = changes_of(torch.stack(frames))
    seams = measure_seams(changes, seam_pairs(12, 6, 0))
    assert seams is not None
    assert seams.pairs == (5,)
    assert seams.worst == 5
    assert seams.mean.residual > 5
    unbroken = measure_seams(changes, [2])
    assert unbroken is not None
    assert unbroken.mean.residual == pytest.approx(1, abs=0.3)


def test_a_jump_of_the_picture_shows_as_motion_at_the_seam():
    spectrum = texture(6, 0.08)
    places = [(float(index + (6 if index > 3 else 0)), 0.0) for index in range(8)]
    seams = measure_seams(changes_of(clip_of(spectrum, places)), [3])
    assert seams is not None
    assert seams.mean.motion == pytest.approx(7.1 / 1.1, rel=0.1)


def test_seams_of_a_still_clip_are_one_and_without_others_there_are_none():
    still = [FrameChange(0.0, 0.0, 0.0, 0.0)] * 4
    seams = measure_seams(still, [1])
    assert seams is not None
    assert (seams.mean.residual, seams.mean.motion) == (1, 1)
    assert measure_seams(still, []) is None
    assert measure_seams(still, [0, 1, 2, 3]) is None


def test_a_loop_that_closes_is_one_and_an_open_one_is_not():
    spectrum = texture(8, 0.08)
    circle = [(3 * math.cos(turn * math.pi / 4), 3 * math.sin(turn * math.pi / 4)) for turn in range(8)]
    clip = clip_of(spectrum, circle)
    closed = join(frame_changes(clip[-1:], clip[:1])[0], changes_of(clip))
    assert closed.motion == pytest.approx(1, abs=0.05)
    assert closed.residual == pytest.approx(1, abs=0.4)
    line = clip_of(spectrum, [(2.0 * step, 0) for step in range(8)])
    assert join(frame_changes(line[-1:], line[:1])[0], changes_of(line)).motion > 4


def test_scores_are_cosines_times_a_hundred():
    frames = torch.tensor([[2.0, 0.0], [3.0, 3.0], [0.0, 0.5]])
    scores = score_clip(frames, torch.tensor([5.0, 0.0]), torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
    half = 100 / math.sqrt(2)
    assert scores.text == pytest.approx([100, half, 0], abs=1e-9)
    assert scores.domain == pytest.approx([50, half, 50])
    assert scores.smoothness == pytest.approx([half, half])
    assert scores.loop == pytest.approx(0, abs=1e-9)


def test_without_references_the_domain_score_is_nan():
    scores = score_clip(torch.eye(2), torch.ones(2), None)
    assert math.isnan(scores.mean_domain)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(1, 4), st.floats(1e-3, 1e3))
def test_scores_stay_within_a_hundred_and_do_not_depend_on_lengths(seed, frames, references, length):
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randn(frames, 16, generator=generator)
    text, others = torch.randn(16, generator=generator), torch.randn(references, 16, generator=generator)
    scores, longer = score_clip(clip, text, others), score_clip(clip * length, text * length, others * length)
    for one, other in zip(
        (*scores.text, *scores.domain, *scores.smoothness),
        (*longer.text, *longer.domain, *longer.smoothness),
        strict=True,
    ):
        assert -100 <= one <= 100
        assert one == pytest.approx(other, abs=1e-4)


def test_equal_embeddings_are_exactly_a_hundred_smooth():
    frame = torch.randn(1, 768, generator=torch.Generator().manual_seed(0))
    assert score_clip(frame.expand(5, -1), frame[0], None).mean_smoothness == pytest.approx(100, abs=1e-9)


def measures(**changes) -> AnimationMeasures:
    still = [FrameChange(0.0, 0.0, 0.0, 0.0)] * 3
    about = {
        "height": 300,
        "width": 400,
        "scores": score_clip(torch.ones(4, 8), torch.ones(8), None),
        "changes": still,
        "seams": None,
        "seams_reason": "not measured",
        "loop": None,
    }
    return AnimationMeasures(**{**about, **changes})


def test_a_still_clip_is_reported_as_smooth_and_as_still_in_one_line():
    lines = describe(measures()).splitlines()
    (line,) = [line for line in lines if "smoothness: 100.00" in line]
    assert "motion: 0.000 %" in line
    assert any("stands still" in line for line in lines)


def test_the_report_says_why_the_domain_is_nan():
    assert "NaN, because no reference_images are connected" in describe(measures())


def test_the_report_has_seams_and_loop_in_words():
    moving = [FrameChange(5.0, 1.0, 0.0, 0.5)] * 2 + [FrameChange(5.0, 3.2, 0.0, 0.5)]
    report = describe(measures(changes=moving, seams=measure_seams(moving, [2]), loop=join(moving[0], moving)))
    assert "motion: 1.000 % of the diagonal a frame (5.00 pixels)" in report
    assert "3.00 times the usual residual and 1.00 times the usual motion at 1 place where" in report
    assert "between frames 2 and 3" in report
    assert "from the last frame to the first 1.00 times" in report
    assert "stands still" not in report
