"""Context windows: pieces that equal separate clips, hints that follow, and every length."""

import copy
import gc
import itertools
import warnings
from dataclasses import replace

import pytest
import torch

from motiongraft.core.errors import SettingsError
from motiongraft.sampling.context_windows import SCHEDULES, ContextWindowSettings
from motiongraft.tests.helpers.comparison import assert_close, assert_differs
from motiongraft.tests.helpers.window_pairs import ALLOWED

pytestmark = pytest.mark.host

STATIC_HALVES = ContextWindowSettings(8, 0, schedule="static", freenoise=False)


@pytest.fixture
def windowed():
    from motiongraft.host.windows import set_context_window

    return lambda model, settings=STATIC_HALVES: set_context_window(model, settings)


@pytest.fixture
def windows_of(host):
    """The index lists that a setting gives for a clip, at one step."""
    from motiongraft.host.windows import MotionContextHandler

    def windows(settings, num_frames, step=0):
        handler = MotionContextHandler([settings])
        handler._step = step
        found = handler.get_context_windows(None, torch.zeros(num_frames, 1, 1, 1), {})
        return [window.index_list for window in found]

    return windows


def halves(scene, model, latent_noise, **settings):
    """Both halves of a clip, sampled as two clips with their own frames' noise."""
    sample = scene.host.module("comfy.sample").sample
    found = [
        sample(model, noise, 2, 7.5, "euler", "normal", scene.positive, scene.negative, torch.zeros_like(noise),
               disable_pbar=True, seed=0, **settings)
        for noise in latent_noise.chunk(2)
    ]  # fmt: skip
    return torch.cat(found)


def test_both_rooms_know_the_same_schedules(host):
    from motiongraft.host import windows

    assert {*windows.SCHEDULES, "composite"} == {*SCHEDULES}


@pytest.mark.parametrize("generation", ["v1", "v3"])
def test_windows_without_overlap_equal_separate_clips(scene, windowed, generation):
    inflated = scene.inflated(generation)
    noise = scene.host.module("comfy.sample").prepare_noise(scene.latent(16), 0)
    assert_close(scene.sample(windowed(inflated), frames=16), halves(scene, inflated, noise))


def test_one_window_over_all_frames_is_bitwise_no_window(scene, windowed):
    inflated = scene.inflated()
    settings = ContextWindowSettings(16, 4)
    assert torch.equal(scene.sample(windowed(inflated, settings)), scene.sample(inflated))


def test_windows_on_a_neutral_module_equal_the_plain_model(scene, windowed):
    inflated = scene.inflated(beta_schedule="use existing", zero=True)
    settings = ContextWindowSettings(8, 4, freenoise=False)
    assert_close(scene.sample(windowed(inflated, settings), frames=20), scene.sample(scene.model, frames=20))


def test_the_hosts_own_context_windows_work_and_its_leading_frame_is_free(scene):
    """Its window of 16 comes with one more frame in front; a module with 16 positions takes it."""
    node = scene.host.module("comfy_extras.nodes_context_windows").ContextWindowsManualNode
    arguments = ("standard_static", 1, False, "pyramid", 0, False)
    inflated = scene.inflated(num_positions=16)
    (manual,) = node.execute(inflated, 16, 4, *arguments).args
    assert torch.isfinite(scene.sample(manual, frames=28)).all()
    (plain,) = node.execute(inflated, 8, 0, *arguments, causal_window_fix=False).args
    noise = scene.host.module("comfy.sample").prepare_noise(scene.latent(16), 0)
    assert_close(scene.sample(plain, frames=16), halves(scene, inflated, noise))


def test_the_hosts_leading_frame_keeps_the_positions_of_the_window(scene):
    """Where the table has a row for it, 17 frames are a clip of 17; else it shares the first row."""
    from motiongraft.motion_modules.positions import rows_for

    table = scene.motion(num_positions=16).patcher.model.down_blocks[0].motion_modules[0].temporal_transformer
    pe = table.transformer_blocks[0].attention_blocks[0].pos_encoder.pe
    assert torch.equal(rows_for(pe, 17)[1:], pe[0])


def test_a_second_context_window_replaces_the_first(scene, windowed):
    inflated = scene.inflated()
    settings = ContextWindowSettings(8, 2)
    twice = windowed(windowed(inflated, ContextWindowSettings(4, 1)), settings)
    assert torch.equal(scene.sample(twice, frames=20), scene.sample(windowed(inflated, settings), frames=20))


def test_freenoise_repeats_the_first_windows_noise_shuffled(scene, windowed):
    seen = []

    def record(executor, guider, sigmas, extra, callback, noise, *args, **kwargs):
        seen.append(noise.clone())
        return executor(guider, sigmas, extra, callback, noise, *args, **kwargs)

    model = windowed(scene.inflated(), ContextWindowSettings(8, 4))
    model.add_wrapper_with_key("sampler_sample", "record", record)
    scene.sample(model, frames=24, steps=1)
    first = {frame.sum().item() for frame in seen[0][:8]}
    assert {frame.sum().item() for frame in seen[0]} == first
    assert len(first) == 8


@pytest.mark.parametrize("frames", [2, 3, 8, 9, 15, 16, 17, 18, 31, 33, 100, 1000])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_frame_of_every_length_is_in_a_window_of_full_length(windows_of, schedule, frames):
    loops = [False, True] if schedule == "looped" else [False]
    for overlap, stride, closed, step in itertools.product((0, 1, 4, 8, 15), (1, 2, 3), loops, (0, 1, 2, 5, 24)):
        settings = ContextWindowSettings(16, overlap, stride, schedule, closed_loop=closed)
        windows = windows_of(settings, frames, step)
        where = f"{settings} at step {step}: {windows}"
        assert {frame for window in windows for frame in window} == set(range(frames)), where
        assert all(len(window) == min(16, frames) for window in windows), where
        assert all(len(set(window)) == len(window) for window in windows), where


@pytest.mark.parametrize(("schedule", "fuse"), ALLOWED)
def test_every_schedule_and_fuse_gives_back_what_its_windows_agree_on(scene, windowed, schedule, fuse):
    for overlap, frames in ((0, 17), (3, 19)):
        settings = ContextWindowSettings(8, overlap, schedule=schedule, fuse=fuse, closed_loop=schedule == "looped")
        settings = replace(settings, freenoise=False)
        neutral = scene.inflated(beta_schedule="use existing", zero=True)
        found = scene.sample(windowed(neutral, settings), frames=frames, steps=2, cfg=1.0)
        assert_close(found, scene.sample(scene.model, frames=frames, steps=2, cfg=1.0))


def test_a_thousand_frames_take_the_activations_of_one_window(scene, windowed):
    """The largest batch that the UNet ever sees is one window for cond and one for uncond."""
    batches = []

    def record(executor, x, *args, **kwargs):
        batches.append(x.shape[0])
        return executor(x, *args, **kwargs)

    model = windowed(scene.inflated(), ContextWindowSettings(16, 4))
    model.add_wrapper_with_key("diffusion_model", "record", record)
    found = scene.sample(model, frames=1000, steps=1, latent=scene.latent(1000, 2, 2))
    assert torch.isfinite(found).all()
    assert set(batches) <= {16, 32}


def test_a_window_longer_than_the_positions_says_what_to_set(scene, windowed):
    with pytest.raises(SettingsError, match=r"windows of ContextWindow are 28 frames.*24.*ContextWindow to 24"):
        scene.sample(windowed(scene.inflated("v1"), ContextWindowSettings(28, 4)), frames=40)


def test_interrupt_stops_within_one_window(scene, windowed):
    management = scene.host.module("comfy.model_management")
    calls = []

    def interrupt(executor, *args, **kwargs):
        calls.append(1)
        management.interrupt_current_processing()
        return executor(*args, **kwargs)

    model = windowed(scene.inflated())
    model.add_wrapper_with_key("calc_cond_batch", "interrupt", interrupt)
    with pytest.raises(management.InterruptProcessingException):
        scene.sample(model, frames=64)
    assert len(calls) == 1


@pytest.fixture(scope="module")
def control(scene, tmp_path_factory):
    """A tiny random ControlNet."""
    from motiongraft.tests.tiny_sd_pack.checkpoints import write_controlnet

    path = write_controlnet(tmp_path_factory.mktemp("control") / "control.safetensors")
    return scene.host.module("comfy.controlnet").load_controlnet(str(path))


class TestControlNet:
    """Hints belong to frames."""

    def conditioned(self, scene, control, hints):
        """Both conditionings with the control applied, as ControlNetApplyAdvanced does it."""
        node = scene.host.module("nodes").ControlNetApplyAdvanced()
        return node.apply_controlnet(scene.positive, scene.negative, control, hints, 1.0, 0.0, 1.0)

    def hints(self, frames):
        return torch.rand(frames, 64, 64, 3, generator=torch.Generator().manual_seed(0))

    def sample(self, scene, model, control, hints, frames, noise=None):
        positive, negative = self.conditioned(scene, control, hints)
        noise = scene.host.module("comfy.sample").prepare_noise(scene.latent(frames), 0) if noise is None else noise
        return scene.host.module("comfy.sample").sample(
            model, noise, 2, 7.5, "euler", "normal", positive, negative, torch.zeros_like(noise),
            disable_pbar=True, seed=0,
        )  # fmt: skip

    def test_it_acts_on_the_inflated_model_as_on_the_plain_one(self, scene, control):
        hints = self.hints(16)
        zero = scene.inflated(beta_schedule="use existing", zero=True)
        found = self.sample(scene, zero, control, hints, 16)
        assert torch.equal(found, self.sample(scene, scene.model, control, hints, 16))
        assert_differs(found, scene.sample(scene.model))

    def test_each_window_gets_the_hints_of_its_frames(self, scene, control, windowed):
        hints, inflated = self.hints(16), scene.inflated()
        noise = scene.host.module("comfy.sample").prepare_noise(scene.latent(16), 0)
        expected = torch.cat(
            [self.sample(scene, inflated, control, hints[part], 8, noise[part]) for part in (slice(8), slice(8, 16))]
        )
        assert_close(self.sample(scene, windowed(inflated), control, hints, 16), expected)

    @pytest.mark.parametrize("count", [1, 3])
    def test_fewer_hints_than_frames_repeat_as_without_windows(self, scene, control, windowed, count):
        zero = scene.inflated(beta_schedule="use existing", zero=True)
        hints = self.hints(count)
        whole = self.sample(scene, zero, control, hints, 12)
        settings = ContextWindowSettings(6, 2, freenoise=False)
        assert_close(self.sample(scene, windowed(zero, settings), control, hints, 12), whole)

    def test_chained_controls_are_sliced_too(self, scene, control, windowed):
        zero = scene.inflated(beta_schedule="use existing", zero=True)
        positive, negative = self.conditioned(scene, control, self.hints(12))
        node = scene.host.module("nodes").ControlNetApplyAdvanced()
        positive, negative = node.apply_controlnet(
            positive, negative, control.copy(), self.hints(12).flip(0), 0.5, 0.0, 1.0
        )
        settings = ContextWindowSettings(6, 2, freenoise=False)
        whole = scene.sample(zero, frames=12, positive=positive, negative=negative)
        pieces = scene.sample(windowed(zero, settings), frames=12, positive=positive, negative=negative)
        assert_close(pieces, whole)

    def test_cond_and_uncond_still_run_in_one_batch(self, scene, control, windowed):
        batches = []

        def record(executor, x, *args, **kwargs):
            batches.append(x.shape[0])
            return executor(x, *args, **kwargs)

        model = windowed(scene.inflated())
        model.add_wrapper_with_key("apply_model", "record", record)
        self.sample(scene, model, control, self.hints(16), 16)
        assert set(batches) == {16}

    def test_nothing_of_a_window_is_held_after_the_run(self, scene, control, windowed):
        positive, negative = self.conditioned(scene, control, self.hints(16))
        model = windowed(scene.inflated())
        scene.sample(model, positive=positive, negative=negative)
        gc.collect()
        assert dict(model.model_options["context_handler"]._sliced_controls) == {}

    def test_a_core_control_below_another_packs_is_sliced(self, scene, control):
        from motiongraft.host.windows import slice_control

        class ForeignControl(type(control)):
            pass

        below, above = control.copy(), control.copy()
        above.__class__ = ForeignControl
        below.cond_hint_original = above.cond_hint_original = torch.zeros(16, 3, 8, 8)
        above.set_previous_controlnet(below)
        sliced = slice_control(above, [3, 4])
        assert sliced.cond_hint_original.shape[0] == 16
        assert sliced.previous_controlnet.cond_hint_original.shape[0] == 2
        assert above.previous_controlnet is below

    def test_controls_below_another_packs_are_sliced_on_every_device(self, scene, control):
        from motiongraft.host.windows import slice_control

        class ForeignControl(type(control)):
            pass

        below, above = control.copy(), control.copy()
        above.__class__ = ForeignControl
        below.cond_hint_original = torch.zeros(16, 3, 8, 8)
        above.set_previous_controlnet(below)
        above.multigpu_clones = {"second": copy.copy(above)}
        sliced = slice_control(above, [3, 4])
        assert sliced.multigpu_clones["second"].previous_controlnet.cond_hint_original.shape[0] == 2

    def test_the_callers_control_is_left_alone(self, scene, control, windowed):
        positive, negative = self.conditioned(scene, control, self.hints(16))
        own = positive[0][1]["control"]
        scene.sample(windowed(scene.inflated()), positive=positive, negative=negative)
        assert own.cond_hint_original.shape[0] == 16


@pytest.mark.parametrize(
    ("sampler", "denoise", "early"), [("euler", 1.0, True), ("dpm_fast", 1.0, True), ("euler", 0.5, False)]
)
def test_composite_windows_are_shuffled_at_high_noise_alone(scene, monkeypatch, sampler, denoise, early):
    """Not every sampler's steps are known by number, and one that starts late has no beginning."""
    from motiongraft.host import windows
    from motiongraft.sampling.window_indices import window_indices

    shares = []

    def record(settings, num_frames, step, share):
        shares.append(share)
        return window_indices(settings, num_frames, step, share)

    monkeypatch.setattr(windows, "window_indices", record)
    settings = ContextWindowSettings(length=16, overlap=4, schedule="composite", freenoise=False)
    model = windows.set_context_window(scene.inflated(), settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dpm_fast warns of its own accord
        found = scene.sample(model, frames=24, steps=6, sampler=sampler, denoise=denoise)
    assert torch.isfinite(found).all()
    assert shares == sorted(shares)
    assert (shares[0] < 0.1) == early
    assert shares[-1] > 0.5
