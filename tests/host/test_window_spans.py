"""Windows that take over from others at a share of the sampling."""

import logging
from dataclasses import replace

import pytest
import torch

from motiongraft.core.errors import SettingsError
from motiongraft.sampling.context_windows import ContextWindowSettings

pytestmark = pytest.mark.host

STATIC_HALVES = ContextWindowSettings(8, 0, schedule="static", freenoise=False)
WIDE = ContextWindowSettings(16, 4, schedule="static", freenoise=False)
NARROW = replace(STATIC_HALVES, start_percent=0.5)


@pytest.fixture
def windowed(host):
    from motiongraft.host.windows import set_context_window

    return lambda model, settings=STATIC_HALVES: set_context_window(model, settings)


def windows_by_step(scene, model, frames, steps=6):
    """The windows of each step, by its noise level."""
    seen = {}

    def record(executor, model, conds, x_in, timestep, model_options):
        window = model_options["transformer_options"].get("context_window")
        seen.setdefault(float(timestep[0]), []).append(window and tuple(window.index_list))
        return executor(model, conds, x_in, timestep, model_options)

    model.add_wrapper_with_key("calc_cond_batch", "record", record)
    scene.sample(model, frames=frames, steps=steps)
    return list(seen.values())


def test_the_later_take_over_and_the_earlier_come_again_in_the_next_run(scene, windowed):
    model = windowed(windowed(scene.inflated(), WIDE), NARROW)
    for _ in range(2):
        steps = windows_by_step(scene, model, 24)
        lengths = [{len(window) for window in windows} for windows in steps]
        assert lengths[0] == {16}
        assert lengths[-1] == {8}
        assert sorted(lengths, key=min, reverse=True) == lengths


def test_a_clip_that_fits_the_first_windows_runs_whole_until_the_later_take_over(scene, windowed):
    model = windowed(windowed(scene.inflated(), WIDE), NARROW)
    steps = windows_by_step(scene, model, 16)
    assert steps[0] == [None]
    assert steps[-1] == [tuple(range(8)), tuple(range(8, 16))]


def test_windows_that_are_the_same_later_change_nothing(scene, windowed):
    inflated = scene.inflated()
    twice = windowed(windowed(inflated, STATIC_HALVES), NARROW)
    assert torch.equal(scene.sample(twice, frames=20), scene.sample(windowed(inflated), frames=20))


def test_windows_from_the_beginning_replace_all(scene, windowed):
    model = windowed(windowed(windowed(scene.inflated(), WIDE), NARROW), STATIC_HALVES)
    assert model.model_options["context_handler"].spans == (STATIC_HALVES,)


def test_the_same_start_replaces_and_others_stay(scene, windowed):
    late = replace(NARROW, start_percent=0.8)
    again = replace(NARROW, overlap=2)
    model = scene.inflated()
    for settings in (WIDE, late, NARROW, again):
        model = windowed(model, settings)
    assert model.model_options["context_handler"].spans == (WIDE, again, late)


def test_nothing_before_them_is_said(scene, windowed):
    with pytest.raises(SettingsError, match=r"start at 0\.5.*none before.*start_percent 0 in front"):
        windowed(scene.inflated(), NARROW)


def test_a_later_window_longer_than_the_positions_is_refused_before_the_first_step(scene, windowed):
    long = replace(NARROW, length=28)
    model = windowed(windowed(scene.inflated("v1"), STATIC_HALVES), long)
    with pytest.raises(SettingsError, match=r"windows of ContextWindow are 28 frames.*24"):
        scene.sample(model, frames=40)


def test_memory_is_planned_for_the_longest(scene, windowed):
    shapes = []

    def record(executor, model, noise_shape, *args, **kwargs):
        shapes.append(list(noise_shape))
        return executor(model, noise_shape, *args, **kwargs)

    model = windowed(windowed(scene.model, STATIC_HALVES), replace(NARROW, length=12))
    model.add_wrapper_with_key("prepare_sampling", "record", record)
    scene.sample(model, frames=20)
    scene.sample(model, frames=20)
    assert [shape[0] for shape in shapes] == [12, 12]


def test_the_same_run_gives_the_same_clip_however_the_last_one_ended(scene, windowed):
    """Nothing of a run stays in the handler, which clones of a model share: neither its windows nor its steps."""
    cases = [
        (replace(WIDE, freenoise=True), NARROW, "euler", 40),  # FreeNoise is that of the first windows
        (ContextWindowSettings(24, 4), ContextWindowSettings(8, 2, start_percent=0.6), "dpm_2", 20),
        (ContextWindowSettings(24, 4), ContextWindowSettings(8, 2, start_percent=0.35), "dpmpp_sde", 20),
    ]
    for first, later, sampler, frames in cases:
        model = windowed(windowed(scene.inflated(), first), later)
        once, again = (scene.sample(model, frames=frames, steps=5, sampler=sampler) for _ in range(2))
        assert torch.equal(once, again), sampler


def test_noise_is_shuffled_once_whatever_windows_come_after(scene, windowed):
    """By those that are in force, ours or ComfyUI's own."""
    node = scene.host.module("comfy_extras.nodes_context_windows").ContextWindowsManualNode
    shuffled = ContextWindowSettings(8, 2, schedule="static", fuse="pyramid")

    def manual(model):
        arguments = ("standard_static", 1, False, "pyramid", 0, True)
        (result,) = node.execute(model, 8, 2, *arguments, causal_window_fix=False).args
        return result

    expected = scene.sample(windowed(scene.inflated(), shuffled), frames=20)
    other = ContextWindowSettings(12, 4)
    assert torch.equal(scene.sample(windowed(manual(scene.inflated()), shuffled), frames=20), expected)
    assert torch.equal(scene.sample(manual(windowed(scene.inflated(), other)), frames=20), expected)


def test_short_windows_that_come_later_are_warned_of_too(scene, windowed, caplog):
    model = windowed(windowed(scene.inflated(), WIDE), NARROW)
    with caplog.at_level(logging.WARNING):
        scene.sample(model, frames=24)
    assert "16 frames and gets 8 at once" in caplog.text
