"""Values by share of the sampling, affinity by frame, and strengths by layer: what their texts and presets mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motiongraft.core.errors import SettingsError
from motiongraft.sampling.image_affinity import AFFINITIES, affinities
from motiongraft.sampling.percent_schedule import PercentSchedule, parse_percent_schedule

SHARES = st.floats(0, 1)
VALUES = st.floats(-10, 10)


def test_an_empty_text_is_no_schedule():
    assert parse_percent_schedule(" \n ", "schedule") is None


@pytest.mark.parametrize("text", ["0: 1, 0.5: 0.2", "0.5:0.2\n0:1", " 0 : 1 ,\n 0.5 : 0.2 "])
def test_points_may_stand_in_any_order_on_lines_or_behind_commas(text):
    assert parse_percent_schedule(text, "schedule") == PercentSchedule(((0.0, 1.0), (0.5, 0.2)))


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (0.1, 1), (0.3, 0.75), (0.5, 0.5), (0.6, 0.5), (1, 0.5)])
def test_values_lie_on_straight_lines_and_end_in_the_outer_ones(percent, value):
    schedule = parse_percent_schedule("0.1: 1, 0.5: 0.5", "schedule")
    assert schedule is not None
    assert schedule.at(percent) == pytest.approx(value)


@given(st.lists(st.tuples(SHARES, VALUES), min_size=1, max_size=6, unique_by=lambda point: point[0]), SHARES)
def test_no_value_lies_outside_those_of_its_points(points, percent):
    schedule = PercentSchedule(tuple(sorted(points)))
    values = [value for _, value in points]
    assert min(values) - 1e-9 <= schedule.at(percent) <= max(values) + 1e-9


@given(st.tuples(SHARES, VALUES), SHARES)
def test_one_point_is_a_constant(point, percent):
    schedule = PercentSchedule((point,))
    assert schedule.is_constant
    assert schedule.at(percent) == point[1]


@pytest.mark.parametrize("preset", AFFINITIES)
@pytest.mark.parametrize("num_frames", [2, 8, 16])
def test_affinity_of_up_to_16_frames_is_the_published_one(preset, num_frames):
    """Source: open-mmlab/PIA, `prepare_mask_coef_by_statistics`."""
    steps = AFFINITIES[preset]
    if preset.startswith("loop") and num_frames != 16:
        return
    expected = [(*steps, *[steps[-1]] * num_frames)[frame] for frame in range(num_frames)]
    assert affinities(preset, num_frames, 0) == expected


def test_affinity_falls_to_both_sides_of_the_image():
    assert affinities("moderate motion", 5, 2) == [0.8, 0.8, 1.0, 0.8, 0.8]


@pytest.mark.parametrize("preset", [preset for preset in AFFINITIES if preset.startswith("loop")])
@pytest.mark.parametrize("num_frames", [2, 12, 16, 32])
def test_a_loop_of_any_length_comes_back_to_the_image(preset, num_frames):
    found = affinities(preset, num_frames, 0)
    assert len(found) == num_frames
    assert found[0] == found[-1] == 1.0
    assert min(found) >= min(AFFINITIES[preset])


@pytest.mark.parametrize(("preset", "frame"), [("no motion", 0), ("small motion", 16), ("small motion", -1)])
def test_an_affinity_that_cannot_be_is_refused(preset, frame):
    with pytest.raises(SettingsError, match=r"affinity is|frames 0 to 15"):
        affinities(preset, 16, frame)
