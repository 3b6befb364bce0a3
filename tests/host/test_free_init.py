"""FreeInit: iterations equal samplings by hand, whatever stands around it, and what it cannot work with is refused."""

import logging

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed (make setup installs it)")

from diffusers.pipelines.free_init_utils import FreeInitMixin
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from motiongraft.core.errors import IncompatibleModelError, SettingsError
from motiongraft.core.seeds import derived_seed
from motiongraft.sampling.context_windows import ContextWindowSettings
from motiongraft.sampling.frame_noise import frame_noise
from motiongraft.sampling.free_init import FreeInitSettings
from motiongraft.sampling.window_indices import free_noise
from motiongraft.tests.helpers.comparison import assert_close, assert_differs

pytestmark = pytest.mark.host

TOLERANCE = 1e-4
"""Two samplings of float32 after another, and a Fourier transform between them."""
SEED = 5
PUBLISHED = FreeInitSettings(2)
OPEN = FreeInitSettings(3, "gaussian", spatial_stop=0.6, temporal_stop=0.5)
"""Keeps so much that at toy size the clip of the iteration before shows."""
HOSTS_OWN = ("ignore:To copy construct from a tensor", "ignore:__array_wrap__ must accept")
"""Warnings of its dpm_fast, dpm_adaptive and deis."""
SHORT = 8
LONG = 17


@pytest.fixture
def free_init(host):
    from motiongraft.host.free_init import set_free_init

    return lambda model, settings=OPEN: set_free_init(model, settings)


@pytest.fixture
def windowed(host):
    from motiongraft.host.windows import set_context_window

    return lambda model, freenoise: set_context_window(model, ContextWindowSettings(8, 3, freenoise=freenoise))


@pytest.fixture
def sampled(scene):
    """A sampling from this noise. Shapes: noise `f c h w` -> the same"""

    def run(model, noise, sampler="euler", callback=None, steps=2, **changes):
        return scene.host.module("comfy.sample").sample(
            model, noise.clone(), steps, 7.5, sampler, changes.pop("scheduler", "normal"),
            changes.pop("positive", scene.positive), scene.negative,
            changes.pop("latent", torch.zeros_like(noise)), seed=SEED, callback=callback, disable_pbar=True, **changes,
        )  # fmt: skip

    return run


@pytest.fixture
def by_hand(sampled):
    """The published loop around the host's sampler, with diffusers' schedule, filter and mixture."""

    def run(model, settings, noise, later=None, **changes):
        scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear")
        published = FreeInitMixin()
        stops = (settings.spatial_stop, settings.temporal_stop)
        shape = (1, 4, noise.shape[0], *noise.shape[2:])
        kept = published._get_free_init_freq_filter(shape, "cpu", settings.filter, settings.order, *stops)
        clip, first = sampled(model, noise, **changes), noise
        for iteration in range(1, settings.iterations):
            latent = model.model.process_latent_in(clip)
            noisy = scheduler.add_noise(latent, first, torch.IntTensor([999] * len(first)))
            fresh = frame_noise(derived_seed("FreeInit", SEED, iteration), *first.shape)
            mixed = published._apply_freq_filter(*(each.transpose(0, 1)[None] for each in (noisy, fresh)), kept)
            clip = sampled(later or model, mixed[0].transpose(0, 1), **changes)
        return clip

    return run


def noise_for(frames):
    return frame_noise(SEED, frames, 4, 8, 8)


@pytest.mark.parametrize("settings", [PUBLISHED, OPEN, FreeInitSettings(2, "ideal", 4, 0.5, 0.9)], ids=str)
def test_iterations_equal_samplings_by_hand(scene, free_init, sampled, by_hand, settings):
    inflated = scene.inflated()
    noise = noise_for(SHORT)
    found = sampled(free_init(inflated, settings), noise)
    assert_close(found, by_hand(inflated, settings, noise), TOLERANCE)
    assert_differs(found, sampled(inflated, noise))


def test_an_iteration_starts_from_the_clip_before_and_not_from_its_conditionings(scene, free_init, sampled):
    """A prompt of the first iteration alone shows in the second's clip, and is gone from its conditionings."""
    inflated = scene.inflated()
    noise = noise_for(SHORT)
    settings = FreeInitSettings(2, spatial_stop=1.0, temporal_stop=1.0)
    other = scene.host.encode(scene.checkpoint.clip, "a dog under the sea")
    first = sampled(free_init(inflated, settings), noise)

    def switched(executor, *args, **kwargs):
        given = executor.class_obj.conds["positive"][0]
        if not seen:
            given["cross_attn"] = other[0][0]
        seen.append(given)
        return executor(*args, **kwargs)

    seen = []
    changed = free_init(inflated, settings)
    changed.add_wrapper_with_key("outer_sample", "switched", switched)
    found = sampled(changed, noise)
    assert_differs(found, first)
    assert len(seen) == 2
    assert torch.equal(seen[1]["cross_attn"], scene.positive[0][0])


def test_one_iteration_is_bitwise_no_free_init(scene, free_init, sampled):
    inflated = scene.inflated()
    once = free_init(inflated, FreeInitSettings(1))
    assert torch.equal(sampled(once, noise_for(SHORT)), sampled(inflated, noise_for(SHORT)))
    assert once.wrappers == inflated.wrappers


def test_a_second_free_init_replaces_the_first(scene, free_init, sampled):
    inflated = scene.inflated()
    noise = noise_for(SHORT)
    twice = free_init(free_init(inflated), PUBLISHED)
    assert torch.equal(sampled(twice, noise), sampled(free_init(inflated, PUBLISHED), noise))
    none = free_init(free_init(inflated), FreeInitSettings(1))
    assert torch.equal(sampled(none, noise), sampled(inflated, noise))


def test_it_works_on_a_model_that_was_inflated_after_it(scene, free_init, sampled):
    before = scene.inflated(model=free_init(scene.model))
    assert torch.equal(sampled(before, noise_for(SHORT)), sampled(free_init(scene.inflated()), noise_for(SHORT)))


def test_the_noise_given_and_the_model_given_stay(scene, free_init):
    inflated = scene.inflated()
    expected = scene.sample(inflated, frames=SHORT)
    free_init(inflated)
    noise = noise_for(SHORT)
    kept = noise.clone()
    scene.host.module("comfy.sample").sample(
        free_init(inflated), noise, 2, 7.5, "euler", "normal", scene.positive, scene.negative,
        scene.latent(SHORT), seed=SEED, disable_pbar=True,
    )  # fmt: skip
    assert torch.equal(noise, kept)
    assert torch.equal(scene.sample(inflated, frames=SHORT), expected)


class TestWindows:
    """FreeNoise shuffles whatever noise a sampling is given; FreeInit's later noise must stay as it is."""

    @pytest.mark.parametrize("order", ["window first", "FreeInit first"])
    def test_freenoise_shuffles_the_first_noise_and_no_other(self, scene, free_init, windowed, sampled, by_hand, order):
        inflated = scene.inflated()
        noise = noise_for(LONG)
        if order == "window first":
            both = free_init(windowed(inflated, True))
        else:
            both = windowed(free_init(inflated), True)
        unshuffled = windowed(inflated, False)
        expected = by_hand(unshuffled, OPEN, free_noise(noise, 8, 3, SEED))
        assert_close(sampled(both, noise), expected, TOLERANCE)
        assert_differs(expected, by_hand(windowed(inflated, True), OPEN, noise))

    def test_so_it_is_with_comfyuis_own_windows(self, scene, free_init, sampled, by_hand):
        node = scene.host.module("comfy_extras.nodes_context_windows").ContextWindowsManualNode
        inflated = scene.inflated()
        noise = noise_for(LONG)

        def windows(model, freenoise):
            arguments = ("standard_static", 1, False, "pyramid", 0, freenoise)
            return node.execute(model, 8, 3, *arguments, causal_window_fix=False).args[0]

        expected = by_hand(windows(inflated, False), OPEN, free_noise(noise, 8, 3, SEED))
        assert_close(sampled(free_init(windows(inflated, True)), noise), expected, TOLERANCE)


class TestWhatStandsAround:
    """Each iteration is a sampling of its own: conditionings, hooks and their keyframes begin anew."""

    def test_hooks_with_keyframes(self, scene, free_init, sampled, by_hand, tmp_path):
        from motiongraft.core.tensor_files import read_tensor_file
        from motiongraft.tests.tiny_sd_pack.checkpoints import write_domain_adapter

        hooks = scene.host.module("comfy.hooks")
        lora = dict(read_tensor_file(write_domain_adapter(tmp_path / "style.safetensors")).tensors)
        hook = hooks.create_hook_lora(lora, 1.0, 0.0)
        frames = hooks.HookKeyframeGroup()
        for strength, start in ((1.0, 0.0), (-1.0, 0.3)):
            frames.add(hooks.HookKeyframe(strength=strength, start_percent=start))
        hook.set_keyframes_on_hooks(frames)
        hooked = hooks.set_hooks_for_conditioning(scene.positive, hook)
        inflated = scene.inflated()
        noise = noise_for(SHORT)
        found = sampled(free_init(inflated), noise, positive=hooked, steps=3)
        assert_close(found, by_hand(inflated, OPEN, noise, positive=hooked, steps=3), TOLERANCE)
        assert_differs(found, sampled(free_init(inflated), noise, steps=3))

    def test_areas_and_masks(self, scene, free_init, sampled, by_hand):
        change = scene.host.module("node_helpers").conditioning_set_values
        mask = torch.zeros(1, 64, 64)
        mask[:, :, 32:] = 1
        area = change(scene.positive, {"area": ("percentage", 0.5, 1.0, 0, 0), "set_area_to_bounds": False})
        masked = change(scene.negative, {"mask": mask, "set_area_to_bounds": True, "mask_strength": 1.0})
        inflated = scene.inflated()
        noise = noise_for(SHORT)
        positive = area + masked
        found = sampled(free_init(inflated), noise, positive=positive)
        assert_close(found, by_hand(inflated, OPEN, noise, positive=positive), TOLERANCE)

    def test_a_model_that_predicts_v(self, scene, free_init, sampled, by_hand):
        from motiongraft.host.noise_schedule import set_beta_schedule

        node = scene.host.module("comfy_extras.nodes_model_advanced").ModelSamplingDiscrete()
        (predicts_v,) = node.patch(scene.inflated(), "v_prediction", False)
        set_beta_schedule(predicts_v, "animatediff", "animatediff", "toy")
        noise = noise_for(SHORT)
        found = sampled(free_init(predicts_v), noise)
        assert_close(found, by_hand(predicts_v, OPEN, noise), TOLERANCE)
        assert_differs(found, sampled(free_init(scene.inflated()), noise))

    @pytest.mark.parametrize("cache", ["EasyCacheNode", "LazyCacheNode"])
    def test_a_pack_that_keeps_a_state_for_a_run_begins_anew_in_each_iteration(self, scene, free_init, sampled, cache):
        """Wherever its node stands."""
        node = getattr(scene.host.module("comfy_extras.nodes_easycache"), cache)

        def cached(model):
            return node.execute(model, 0.2, 0.15, 0.95, False).args[0]

        noise = noise_for(SHORT)
        first = sampled(free_init(cached(scene.inflated())), noise, steps=8)
        assert torch.equal(first, sampled(cached(free_init(scene.inflated())), noise, steps=8))

    def test_anchored_frames_are_their_images_in_the_last_iteration(self, scene, free_init, sampled):
        from motiongraft.host.anchors import anchor_frames
        from motiongraft.sampling.frame_anchors import FrameAnchors
        from motiongraft.sampling.keyframes import Keyframes

        image = torch.randn(1, 4, 8, 8)
        model = anchor_frames(free_init(scene.inflated()), {"samples": image}, FrameAnchors(Keyframes((2,))))
        assert_close(sampled(model, noise_for(SHORT))[2:3], image, 1e-3)


class TestProgress:
    def test_steps_of_all_iterations_are_counted_as_one_sampling(self, scene, free_init, sampled):
        seen = []
        sampled(
            free_init(scene.inflated()),
            noise_for(SHORT),
            callback=lambda step, x0, x, total: seen.append((step, total)),
        )
        assert seen == [(step, 6) for step in range(6)]

    def test_the_steps_of_an_adaptive_sampler_never_go_back(self, host):
        """It takes more than it announces."""
        from motiongraft.host.free_init import counted

        seen = []
        nothing = torch.zeros(1)
        for iteration in range(2):
            show = counted(lambda step, x0, x, total: seen.append((step, total)), iteration, 2)
            for step in range(5):
                show(step, nothing, nothing, 3)
        assert seen == [(step, 6) for step in (0, 1, 2, 2, 2, 3, 4, 5, 5, 5)]

    def test_each_iteration_is_a_line_in_the_log(self, scene, free_init, sampled, caplog):
        with caplog.at_level(logging.INFO, logger="motiongraft.host.free_init"):
            sampled(free_init(scene.inflated()), noise_for(SHORT))
        lines = [record.message for record in caplog.records if record.name.endswith("free_init")]
        assert lines == [f"FreeInit: iteration {number} of 3" for number in (1, 2, 3)]

    def test_the_animated_preview_counts_on_to_the_last_step(self, scene, free_init, monkeypatch):
        from motiongraft.host.preview import AnimatedPreview
        from motiongraft.host.sampling import sample_animation

        seen = []
        monkeypatch.setattr(AnimatedPreview, "show", lambda self, x0, step, total: seen.append((step, total)))
        model = free_init(scene.inflated())
        latent = {"samples": scene.latent(SHORT)}
        common = (scene.positive, scene.negative, latent, SEED, 2, 7.5, "ddim", "normal", 1.0)
        sample_animation(model, *common, AnimatedPreview(model, None))
        assert seen == [(step, 6) for step in range(1, 7)]

    def test_cancelling_stops_within_a_window_and_leaves_nothing_behind(self, scene, free_init, windowed, sampled):
        management = scene.host.module("comfy.model_management")
        inflated = windowed(scene.inflated(), True)
        calls = 0
        last = None

        def cancel(executor, *args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == last:
                management.interrupt_current_processing()
            return executor(*args, **kwargs)

        counted = inflated.clone()
        counted.add_wrapper_with_key("calc_cond_batch", "cancel", cancel)
        expected = sampled(counted, noise_for(LONG))
        last, calls = calls + 2, 0  # the second iteration's second window
        with pytest.raises(management.InterruptProcessingException):
            sampled(free_init(counted), noise_for(LONG))
        assert calls == last
        assert torch.equal(sampled(inflated, noise_for(LONG)), expected)


class TestBadInput:
    """Refused before anything is loaded, in the user's words."""

    def test_a_latent_with_a_picture(self, scene, free_init, sampled):
        for denoise in (0.5, 1.0):
            with pytest.raises(SettingsError, match=r"a latent with a picture.*Empty Latent Image"):
                sampled(
                    free_init(scene.inflated()), noise_for(SHORT), latent=torch.ones(SHORT, 4, 8, 8), denoise=denoise
                )

    def test_sampling_without_noise(self, scene, free_init, sampled):
        with pytest.raises(SettingsError, match=r"expected noise to start from, found none.*add_noise"):
            sampled(free_init(scene.inflated()), torch.zeros(SHORT, 4, 8, 8))

    def test_a_noise_mask(self, scene, free_init, sampled):
        with pytest.raises(SettingsError, match="found a noise mask"):
            sampled(free_init(scene.inflated()), noise_for(SHORT), noise_mask=torch.ones(1, 64, 64))

    def test_sampling_that_leaves_noise(self, scene, free_init):
        node = scene.host.module("nodes").KSamplerAdvanced()
        common = (SEED, 4, 7.5, "euler", "normal", scene.positive, scene.negative, {"samples": scene.latent(SHORT)})
        with pytest.raises(SettingsError, match="leaves noise in the clip"):
            node.sample(free_init(scene.inflated()), "enable", *common, 0, 2, "enable")

    def test_a_single_frame(self, scene, free_init, sampled):
        with pytest.raises(SettingsError, match="batch_size"):
            sampled(free_init(scene.model), noise_for(1))

    def test_a_flow_model(self, scene, free_init, sampled):
        (flow,) = scene.host.module("comfy_extras.nodes_model_advanced").ModelSamplingSD3().patch(scene.inflated(), 3.0)
        with pytest.raises(IncompatibleModelError, match=r"SD 1\.5 or SDXL"):
            sampled(free_init(flow), noise_for(SHORT))

    @pytest.mark.parametrize(
        ("sampler", "scheduler", "denoise", "words"),
        [
            ("ddim", "normal", 1.0, None),
            ("euler", "ddim_uniform", 1.0, None),
            ("euler", "karras", 1.0, None),
            ("euler_ancestral", "normal", 1.0, "adds noise of its own"),
            ("euler", "normal", 0.6, "Set denoise to 1"),
        ],
    )
    def test_the_log_warns_of_what_the_method_does_not_expect(
        self, scene, free_init, sampled, caplog, sampler, scheduler, denoise, words
    ):
        with caplog.at_level(logging.WARNING, logger="motiongraft.host.free_init_checks"):
            sampled(
                free_init(scene.inflated(), PUBLISHED),
                noise_for(SHORT),
                sampler,
                scheduler=scheduler,
                steps=4,
                denoise=denoise,
            )
        lines = [record.message for record in caplog.records if record.name.endswith("free_init_checks")]
        assert len(lines) == (words is not None)
        assert all(words in line for line in lines)


@pytest.mark.filterwarnings(*HOSTS_OWN)
def test_samplers_are_said_to_add_noise_if_their_clip_depends_on_the_seed(scene):
    """The seed that goes to a sampler beside its noise is for what it draws itself."""
    from motiongraft.host.free_init_checks import adds_noise

    samplers = scene.host.module("comfy.samplers")
    noise = noise_for(2)

    def clip(name, seed):
        torch.manual_seed(0)
        return scene.host.module("comfy.sample").sample(
            scene.model, noise, 3, 1.0, name, "normal", scene.positive, scene.negative, torch.zeros_like(noise),
            seed=seed, disable_pbar=True,
        )  # fmt: skip

    for name in {*samplers.SAMPLER_NAMES} - {"dpm_adaptive"}:  # that takes hundreds of steps
        depends = not torch.equal(clip(name, 1), clip(name, 2))
        assert adds_noise(samplers.sampler_object(name)) == depends, name


def test_options_of_a_sampler_decide_whether_it_adds_noise(host):
    from motiongraft.host.free_init_checks import adds_noise

    samplers = host.module("comfy.samplers")
    for name, options, expected in (
        ("euler_ancestral", {"eta": 0.0}, False),
        ("euler_ancestral", {"s_noise": 0.0}, False),
        ("euler", {"s_churn": 0.5}, True),
        ("dpm_adaptive", {"eta": 0.5}, True),
        ("dpm_adaptive", {"eta": 0.0}, False),
        ("lcm", {}, True),
    ):
        assert adds_noise(samplers.ksampler(name, options)) == expected, (name, options)


def test_no_scheduler_is_taken_for_one_that_begins_late(scene, caplog):
    from motiongraft.host.free_init_checks import warn_of_settings

    samplers = scene.host.module("comfy.samplers")
    sampling = scene.inflated().get_model_object("model_sampling")
    for name in samplers.SCHEDULER_NAMES:
        for steps in (2, 4, 9, 20, 25, 50):
            sigmas = samplers.calculate_sigmas(sampling, name, steps)
            with caplog.at_level(logging.WARNING):
                warn_of_settings(sampling, samplers.sampler_object("ddim"), sigmas)
            assert not caplog.text, (name, steps)
