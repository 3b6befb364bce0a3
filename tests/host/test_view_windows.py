"""View windows: the UNet sees all frames once, its motion modules see them in pieces."""

import pytest
import torch

from motiongraft.core.errors import SettingsError
from motiongraft.core.tensor_files import read_tensor_file
from motiongraft.lora.motion_lora import read_motion_lora
from motiongraft.sampling.context_windows import ContextWindowSettings
from motiongraft.tests.helpers.comparison import assert_close, assert_differs

pytestmark = pytest.mark.host
LINEAR = 5e-5  # q, k and v of tokens and positions are rounded apart, and guidance multiplies the difference
HALVES = ContextWindowSettings(8, 0, schedule="batched")


@pytest.fixture
def viewed():
    from motiongraft.host.view_windows import set_view_window

    return lambda model, settings=HALVES: set_view_window(model, settings)


def recorded(model, wrapper="apply_model"):
    """The model, and the batches that it is called with."""
    batches, model = [], model.clone()

    def record(executor, x, *args, **kwargs):
        batches.append(x.shape[0])
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(wrapper, "record", record)
    return model, batches


@pytest.mark.parametrize("generation", ["v1", "v3"])
def test_one_view_of_all_frames_is_bitwise_no_view(scene, viewed, generation):
    inflated = scene.inflated(generation)
    assert torch.equal(scene.sample(viewed(inflated, ContextWindowSettings(16, 4))), scene.sample(inflated))


def test_views_without_overlap_equal_separate_clips(scene, viewed):
    inflated = scene.inflated()
    noise = scene.host.module("comfy.sample").prepare_noise(scene.latent(16), 0)
    sample = scene.host.module("comfy.sample").sample
    parts = [
        sample(inflated, part, 2, 7.5, "euler", "normal", scene.positive, scene.negative, torch.zeros_like(part),
               disable_pbar=True, seed=0)
        for part in noise.chunk(2)
    ]  # fmt: skip
    assert_close(scene.sample(viewed(inflated), frames=16), torch.cat(parts), LINEAR)


def test_every_frame_goes_through_the_unet_once_where_windows_take_it_twice(scene, viewed):
    from motiongraft.host.windows import set_context_window

    settings = ContextWindowSettings(8, 4, schedule="static", freenoise=False)
    inflated = scene.inflated()
    model, batches = recorded(viewed(inflated, settings))
    scene.sample(model, frames=20, steps=1, cfg=1.0)
    assert sum(batches) == 20
    model, batches = recorded(set_context_window(inflated, settings))
    scene.sample(model, frames=20, steps=1, cfg=1.0)
    assert sum(batches) == 32


def test_on_a_neutral_module_views_are_bitwise_the_plain_model(scene, viewed):
    neutral = scene.inflated(beta_schedule="use existing", zero=True)
    found = scene.sample(viewed(neutral, ContextWindowSettings(8, 4)), frames=20)
    assert torch.equal(found, scene.sample(scene.model, frames=20))


def test_a_clip_beyond_the_positions_runs_and_frames_at_a_distance_meet_through_the_overlap(scene, viewed):
    inflated = scene.inflated("v1")
    overlapping = scene.sample(viewed(inflated, ContextWindowSettings(16, 8, schedule="static")), frames=40)
    assert torch.isfinite(overlapping).all()
    assert_differs(overlapping, scene.sample(viewed(inflated, ContextWindowSettings(16, 0, schedule="static")), 40))


def test_views_lie_inside_context_windows(scene, viewed):
    """Windows of 16 and views of 8 without overlap are separate clips of 8."""
    from motiongraft.host.windows import set_context_window

    inflated = scene.inflated()
    windows = ContextWindowSettings(16, 0, schedule="static", freenoise=False)
    both = scene.sample(viewed(set_context_window(inflated, windows)), frames=32)
    eights = ContextWindowSettings(8, 0, schedule="static", freenoise=False)
    assert_close(both, scene.sample(set_context_window(inflated, eights), frames=32), LINEAR)


def test_uniform_views_move_with_the_sampler_and_static_ones_stay(scene, viewed, monkeypatch):
    from motiongraft.host import view_windows

    steps, views = [], view_windows._views

    def record(settings, num_frames, step, done):
        steps.append(step)
        return views(settings, num_frames, step, done)

    monkeypatch.setattr(view_windows, "_views", record)
    for sampler in ("euler", "dpm_2"):  # the second asks for a level between two steps
        steps.clear()
        scene.sample(viewed(scene.inflated(), ContextWindowSettings(8, 4)), frames=20, steps=4, sampler=sampler)
        assert steps == sorted(steps)
        assert set(steps) == {0, 1, 2, 3}
    steps.clear()
    scene.sample(viewed(scene.inflated(), ContextWindowSettings(8, 4, schedule="static")), frames=20, steps=4)
    assert set(steps) == {0}


def test_every_schedule_and_sampler_takes_views(scene, viewed):
    for schedule in ("uniform", "static", "looped", "batched", "composite"):
        settings = ContextWindowSettings(8, 3, schedule=schedule, closed_loop=schedule == "looped")
        assert torch.isfinite(scene.sample(viewed(scene.inflated(), settings), frames=19, sampler="ddim")).all()


def test_controls_of_frames_act_in_views(scene, viewed):
    from motiongraft.host.inflate import inflate_model
    from motiongraft.sampling.frame_values import parse_frame_values
    from motiongraft.sampling.motion_control import MotionControl

    control = MotionControl(per_frame=parse_frame_values("0: 0, 7: 0, 8: 1", "per_frame"), attention_scale=2.0)
    found = scene.sample(viewed(inflate_model(scene.model, scene.motion(), "use existing", control)))
    assert torch.equal(found[:8], scene.sample(scene.model)[:8])
    assert_differs(found[8:], scene.sample(viewed(scene.inflated(beta_schedule="use existing")))[8:])


def test_a_motion_lora_with_a_constant_schedule_acts_in_views_as_one_in_the_weights(scene, viewed, lora_file):
    from motiongraft.host.inflate import inflate_model
    from motiongraft.host.loras import apply_motion_lora

    def sample(*settings):
        motion = apply_motion_lora(scene.motion(), read_motion_lora(read_tensor_file(lora_file)), *settings)
        return scene.sample(viewed(inflate_model(scene.model, motion, "auto")))

    in_the_weights = sample(1.0)
    assert_close(sample(1.0, "", "0: 1, 0.999: 1, 1: 0.5"), in_the_weights, LINEAR)
    assert_differs(in_the_weights, scene.sample(viewed(scene.inflated())))


def test_two_modules_in_a_row_see_the_same_views(scene, viewed):
    """What lies in one half of the clip does not reach the other through either module."""
    both = viewed(scene.inflated(beta_schedule="use existing", model=scene.inflated(), seed=1))
    changed = scene.latent(16)
    changed[8:] += 1
    found = scene.sample(both, latent=changed, denoise=0.6)
    expected = scene.sample(both, denoise=0.6)
    assert_close(found[:8], expected[:8], LINEAR)
    assert_differs(found[8:], expected[8:])


def test_the_hosts_leading_frame_is_none_of_a_views_frames(scene, viewed):
    """A window of 8, with one more frame in front that ComfyUI drops, fits a view of 8."""
    node = scene.host.module("comfy_extras.nodes_context_windows").ContextWindowsManualNode
    (manual,) = node.execute(scene.inflated(), 8, 2, "standard_static", 1, False, "pyramid", 0, False).args
    expected = scene.sample(manual, frames=20)
    assert torch.equal(scene.sample(viewed(manual, ContextWindowSettings(8, 2)), frames=20), expected)


def test_views_longer_than_the_positions_say_what_to_set(scene, viewed):
    with pytest.raises(SettingsError, match=r"windows of View Window are 28 frames.*24.*View Window to 24"):
        scene.sample(viewed(scene.inflated("v1"), ContextWindowSettings(28, 4)), frames=40)


def test_the_model_given_is_left_alone(scene, viewed):
    inflated = scene.inflated()
    before = scene.sample(inflated)
    viewed(inflated)
    assert torch.equal(scene.sample(inflated), before)
    assert_differs(scene.sample(viewed(inflated)), before)
