"""Prompt travel in a real ComfyUI: each frame sees its own prompt, wherever and however the clip is sampled."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from motiongraft.core.errors import IncompatibleModelError, SettingsError
from motiongraft.sampling.context_windows import SCHEDULES, ContextWindowSettings
from motiongraft.sampling.prompt_travel import INTERPOLATIONS, parse_travel
from motiongraft.tests.helpers.comparison import assert_close, assert_differs

pytestmark = pytest.mark.host

CAT, DOG = "a cat on the moon", "blurry (dog:1.3), at night"
HALVES = f"0: {CAT}\n8: {DOG}"
LONG = ", ".join(["a very long prompt about a landscape"] * 14)
ADAPTIVE = "dpm_adaptive"
"""Chooses its steps, hundreds of them, by the error over all frames, so that frames depend on each other."""


@pytest.fixture
def travelled(scene):
    """The conditioning of lines; of 16 frames that hold, unless told otherwise."""
    from motiongraft.host.prompt_travel import encode_travel

    def encode(text, num_frames=16, interpolation="hold", clip=None, **settings):
        travel = parse_travel(text, num_frames, interpolation, **settings)
        return encode_travel(clip or scene.checkpoint.clip, travel)

    return encode


@pytest.fixture
def windowed():
    from motiongraft.host.windows import set_context_window

    return set_context_window


@pytest.fixture(scope="module")
def neutral(scene):
    """A model in which no frame sees another."""
    return scene.inflated(beta_schedule="use existing", zero=True)


@pytest.fixture(scope="module")
def control(scene, tmp_path_factory):
    """A tiny random ControlNet, which sees the prompts too."""
    from motiongraft.tests.tiny_sd_pack.checkpoints import write_controlnet

    path = write_controlnet(tmp_path_factory.mktemp("control") / "control.safetensors")
    return scene.host.module("comfy.controlnet").load_controlnet(str(path))


@pytest.fixture
def cat(scene):
    return scene.host.encode(scene.checkpoint.clip, CAT)


@pytest.fixture
def dog(scene):
    return scene.host.encode(scene.checkpoint.clip, DOG)


def halves(first, second, frames=8):
    """The clip that a travel which holds should give: the first frames of one, the last of another."""
    return torch.cat([first[:frames], second[frames:]])


def equal(found, expected):
    """Whether two conditionings are the same, entry by entry and bit by bit."""
    return all(
        torch.equal(states, others) and values.keys() == more.keys()
        and all(torch.equal(values[name], more[name]) for name in values if isinstance(values[name], torch.Tensor))
        for (states, values), (others, more) in zip(found, expected, strict=True)
    )  # fmt: skip


class TestConditioning:
    """What leaves the node."""

    @pytest.mark.parametrize("text", [f"0: {DOG}", f"3-7: {DOG}", f"0: {DOG}\n8: {DOG}\n-1: {DOG}"])
    @pytest.mark.parametrize("checkpoint", ["checkpoint", "sdxl"])
    def test_one_prompt_is_bitwise_clip_text_encode(self, scene, travelled, checkpoint, text):
        clip = getattr(scene, checkpoint).clip
        (expected,) = scene.host.module("nodes").CLIPTextEncode().encode(clip, DOG)
        assert equal(travelled(text, clip=clip), expected)

    @pytest.mark.parametrize("interpolation", INTERPOLATIONS)
    @pytest.mark.parametrize("checkpoint", ["checkpoint", "sdxl"])
    def test_keys_have_bitwise_the_states_of_their_prompts(self, scene, travelled, checkpoint, interpolation):
        clip = getattr(scene, checkpoint).clip
        ((states, values),) = travelled(HALVES, 16, interpolation, clip)
        for frame, text in ((0, CAT), (8, DOG), (15, DOG)):
            ((expected, of_prompt),) = scene.host.encode(clip, text)
            assert torch.equal(states[frame], expected[0])
            assert torch.equal(values["pooled_output"][frame], of_prompt["pooled_output"][0])

    def test_between_keys_they_are_those_of_conditioning_average(self, scene, travelled, cat, dog):
        ((states, values),) = travelled(HALVES, 16, "linear")
        average = scene.host.module("nodes").ConditioningAverage().addWeighted
        for frame in (2, 5):
            (((expected, of_both),),) = average(dog, cat, frame / 8)
            assert_close(states[frame], expected[0], 1e-6)
            assert_close(values["pooled_output"][frame], of_both["pooled_output"][0], 1e-6)

    def test_each_prompt_is_encoded_once(self, scene, travelled, monkeypatch):
        encoded = []
        clip = scene.checkpoint.clip.clone()
        tokenize = clip.tokenize
        monkeypatch.setattr(clip, "tokenize", lambda text: encoded.append(text) or tokenize(text))
        travelled("0: cat\n4: dog\n8: cat\n12: dog", clip=clip)
        assert encoded == ["cat", "dog"]

    def test_a_clip_of_another_kind_of_model_is_refused(self, scene, travelled, monkeypatch):
        clip = scene.checkpoint.clip.clone()
        encode = clip.encode_from_tokens_scheduled
        masked = {"attention_mask": torch.ones(1, 77)}
        monkeypatch.setattr(clip, "encode_from_tokens_scheduled", lambda tokens: encode(tokens, add_dict=masked))
        with pytest.raises(IncompatibleModelError, match="attention_mask"):
            travelled(HALVES, clip=clip)

    def test_a_checkpoint_without_text_encoder_is_named(self):
        from motiongraft.host.prompt_travel import encode_travel

        with pytest.raises(IncompatibleModelError, match="has no text encoder"):
            encode_travel(None, parse_travel(HALVES, 16))


class TestSampling:
    """Frames that do not see each other, and a travel that holds: each half is that of a constant prompt."""

    @pytest.mark.parametrize("cfg", [1.0, 7.5])
    def test_each_frame_is_that_of_its_own_prompt(self, scene, neutral, travelled, cat, dog, cfg):
        clips = [scene.sample(neutral, positive=positive, cfg=cfg) for positive in (cat, dog)]
        found = scene.sample(neutral, positive=travelled(HALVES), cfg=cfg)
        assert_close(found, halves(*clips))
        assert_differs(clips[0][8:], clips[1][8:])

    def test_it_works_as_negative_too(self, scene, neutral, travelled, cat, dog):
        clips = [scene.sample(neutral, negative=negative) for negative in (cat, dog)]
        assert_close(scene.sample(neutral, negative=travelled(HALVES)), halves(*clips))

    def test_one_prompt_gives_bitwise_the_clip_of_clip_text_encode(self, scene, travelled, cat):
        inflated = scene.inflated()
        found = scene.sample(inflated, positive=travelled(f"4: {CAT}"))
        assert torch.equal(found, scene.sample(inflated, positive=cat))

    def test_a_frame_between_keys_is_that_of_its_states(self, scene, neutral, travelled):
        positive = travelled(HALVES, 16, "slerp")
        found = scene.sample(neutral, positive=positive)
        states, values = positive[0]
        one = [[states[3:4], {"pooled_output": values["pooled_output"][3:4]}]]
        assert_close(found[3], scene.sample(neutral, positive=one)[3])

    def test_cond_and_uncond_still_run_in_one_batch(self, scene, travelled):
        batches = []

        def record(executor, x, *args, **kwargs):
            batches.append(x.shape[0])
            return executor(x, *args, **kwargs)

        model = scene.inflated()
        model.add_wrapper_with_key("apply_model", "record", record)
        scene.sample(model, positive=travelled(HALVES))
        assert set(batches) == {32}

    @pytest.mark.parametrize("texts", [(CAT, LONG), (LONG, CAT)])
    def test_prompts_of_other_lengths_are_seen_as_if_alone(self, scene, neutral, travelled, texts):
        encoded = [scene.host.encode(scene.checkpoint.clip, text) for text in texts]
        assert encoded[0][0][0].shape[1] != encoded[1][0][0].shape[1]
        clips = [scene.sample(neutral, positive=positive) for positive in encoded]
        found = scene.sample(neutral, positive=travelled(f"0: {texts[0]}\n8: {texts[1]}"))
        assert_close(found, halves(*clips), 3e-5)

    @pytest.mark.filterwarnings("ignore:To copy construct from a tensor", "ignore:__array_wrap__ must accept")
    def test_every_sampler_keeps_frames_and_prompts_together(self, scene, neutral, travelled, cat, dog):
        """The warnings are of ComfyUI's dpm_fast and deis."""
        positive = travelled(f"0: {CAT}\n2: {DOG}", 4)
        latent = scene.latent(4, 4, 4)
        for sampler in set(scene.host.module("comfy.samplers").KSampler.SAMPLERS) - {ADAPTIVE}:
            found, *clips = (
                scene.sample(neutral, latent=latent, sampler=sampler, positive=each, cfg=2.0)
                for each in (positive, cat, dog)
            )
            assert torch.isfinite(found).all(), sampler
            assert_close(found, halves(*clips, frames=2), 1e-4)

    def test_custom_sampler_and_guider_are_no_exception(self, scene, travelled):
        nodes = scene.host.module("comfy_extras.nodes_custom_sampler")
        inflated, positive = scene.inflated(), travelled(HALVES, 16, "linear")
        (guider,) = nodes.CFGGuider.execute(inflated, positive, scene.negative, 7.5).args
        (sigmas,) = nodes.BasicScheduler.execute(inflated, "normal", 2, 1.0).args
        sampler = scene.host.module("comfy.samplers").sampler_object("euler")
        noise, latent = nodes.Noise_RandomNoise(0), {"samples": scene.latent()}
        found = nodes.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]["samples"]
        assert torch.equal(found, scene.sample(inflated, positive=positive))

    def test_motion_spreads_a_prompt_to_frames_near_by(self, scene, travelled, cat):
        """The inflated model sees the travel; this is what frames that see each other make of it."""
        inflated = scene.inflated()
        found = scene.sample(inflated, positive=travelled(HALVES))
        assert_differs(found[:8], scene.sample(inflated, positive=cat)[:8])


class TestBeside:
    """Other conditioning beside a travel."""

    def sdxl(self, scene):
        return scene.inflated("sdxl-beta", beta_schedule="use existing", model=scene.sdxl.model, zero=True)

    def test_sdxl_gets_the_pooled_states_of_each_frame_and_one_size(self, scene, travelled):
        clip, seen = scene.sdxl.clip, list[torch.Tensor]()

        def record(executor, x, timesteps, context, y, *args, **kwargs):
            seen.extend((context.clone(), y.clone()))
            return executor(x, timesteps, context, y, *args, **kwargs)

        model = self.sdxl(scene)
        model.add_wrapper_with_key("diffusion_model", "record", record)
        positive = travelled(HALVES, 16, "linear", clip)
        scene.sample(model, positive=positive, negative=positive, cfg=1.0, steps=1)
        context, y = seen
        pooled = positive[0][1]["pooled_output"]
        assert_close(context, positive[0][0], 1e-3)
        assert_close(y[:, : pooled.shape[1]], pooled, 1e-3)
        assert (y[:, pooled.shape[1] :] == y[:1, pooled.shape[1] :]).all()

    @pytest.mark.parametrize("size", [{}, {"width": 512, "height": 256, "crop_w": 8, "target_width": 768}])
    def test_sdxl_frames_are_those_of_their_prompts_at_any_size(self, scene, travelled, windowed, size):
        clip, model = scene.sdxl.clip, self.sdxl(scene)
        set_values = scene.host.module("node_helpers").conditioning_set_values
        negative = scene.host.encode(clip, "blurry")
        first, second, both = (
            set_values(each, size)
            for each in (scene.host.encode(clip, CAT), scene.host.encode(clip, DOG), travelled(HALVES, clip=clip))
        )
        expected = halves(*(scene.sample(model, positive=each, negative=negative, steps=1) for each in (first, second)))
        assert_close(scene.sample(model, positive=both, negative=negative, steps=1), expected)
        in_windows = windowed(model, ContextWindowSettings(6, 2, freenoise=False))
        assert_close(scene.sample(in_windows, positive=both, negative=negative, steps=1), expected)

    @pytest.mark.parametrize("in_windows", [False, True])
    def test_a_controlnet_sees_the_prompt_of_each_frame(
        self, scene, neutral, travelled, windowed, control, cat, dog, in_windows
    ):
        apply = scene.host.module("nodes").ControlNetApplyAdvanced().apply_controlnet
        hints = torch.rand(16, 64, 64, 3, generator=torch.Generator().manual_seed(0))

        def run(model, positive):
            positive, negative = apply(positive, scene.negative, control, hints, 1.0, 0.0, 1.0)
            return scene.sample(model, positive=positive, negative=negative)

        settings = ContextWindowSettings(6, 2, freenoise=False)
        model = windowed(neutral, settings) if in_windows else neutral
        expected = halves(*(run(neutral, each) for each in (cat, dog)))
        assert_close(run(model, travelled(HALVES)), expected)
        assert_differs(expected, scene.sample(neutral, positive=travelled(HALVES)))

    @pytest.mark.parametrize("in_windows", [False, True])
    @pytest.mark.parametrize(
        "values",
        [
            {"area": (8, 4, 0, 0), "strength": 1.0, "set_area_to_bounds": False},
            {"mask": torch.rand(1, 64, 64), "mask_strength": 0.7, "set_area_to_bounds": False},
            {"mask": torch.rand(16, 64, 64), "mask_strength": 1.0, "set_area_to_bounds": False},
            {"start_percent": 0.0, "end_percent": 0.4},
        ],
        ids=["area", "mask", "mask by frame", "percent"],
    )
    def test_areas_masks_and_percents_hold_for_each_frame(
        self, scene, neutral, travelled, windowed, cat, dog, values, in_windows
    ):
        set_values = scene.host.module("node_helpers").conditioning_set_values
        around = scene.host.encode(scene.checkpoint.clip, "everywhere else")

        def run(model, positive):
            return scene.sample(model, positive=set_values(positive, values) + around)

        settings = ContextWindowSettings(6, 2, freenoise=False)
        expected = halves(*(run(neutral, each) for each in (cat, dog)))
        model = windowed(neutral, settings) if in_windows else neutral
        assert_close(run(model, travelled(HALVES)), expected)

    def test_a_scheduled_lora_on_model_and_clip_acts_on_every_prompt(self, scene, neutral, travelled, tmp_path):
        """The CLIP then gives an entry for each part of the schedule, and so does a travel."""
        clip = self.with_scheduled_lora(scene, tmp_path)
        encoded = [scene.host.encode(clip, text) for text in (CAT, DOG)]
        found = travelled(HALVES, clip=clip)
        assert len(found) == len(encoded[0]) == 2
        assert_differs(found[0][0], found[1][0])
        clips = [scene.sample(neutral, positive=each) for each in encoded]
        assert_close(scene.sample(neutral, positive=found), halves(*clips))
        assert_differs(clips[0], scene.sample(neutral, positive=scene.host.encode(scene.checkpoint.clip, CAT)))

    def with_scheduled_lora(self, scene, folder):
        """The tiny CLIP with a LoRA for it and for the model, full at first and weak from the middle on."""
        from motiongraft.core.tensor_files import read_tensor_file
        from motiongraft.tests.tiny_sd_pack.checkpoints import write_domain_adapter

        hooks, nodes = scene.host.module("comfy.hooks"), scene.host.module("comfy_extras.nodes_hooks")
        lora = dict(read_tensor_file(write_domain_adapter(folder / "style.safetensors")).tensors)
        layer = "text_model.encoder.layers.0.mlp.fc1"
        rows, columns = scene.checkpoint.clip.get_sd()[f"clip_l.transformer.{layer}.weight"].shape
        name = f"lora_te_{layer.replace('.', '_')}"
        lora |= {f"{name}.lora_up.weight": torch.randn(rows, 2), f"{name}.lora_down.weight": torch.randn(2, columns)}
        group = hooks.create_hook_lora(lora, 1.0, 1.0)
        keyframes = hooks.HookKeyframeGroup()
        for strength, start in ((1.0, 0.0), (0.3, 0.5)):
            keyframes.add(hooks.HookKeyframe(strength=strength, start_percent=start))
        group.set_keyframes_on_hooks(keyframes)
        return nodes.SetClipHooks().apply_hooks(scene.checkpoint.clip, True, True, group)[0]


class TestWindows:
    """Each window sees the states of its own frames."""

    def seen_by_frames(self, model):
        """What every call of the UNet got, as pairs of frames and states."""
        seen = []

        def record(executor, x, timesteps, context, y, control, options, *args, **kwargs):
            seen.append((options["ad_params"]["sub_idxs"], context.clone()))
            return executor(x, timesteps, context, y, control, options, *args, **kwargs)

        model.add_wrapper_with_key("diffusion_model", "record", record)
        return seen

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_each_window_gets_the_states_of_its_frames(self, scene, travelled, windowed, schedule):
        closed = schedule == "looped"
        positive = travelled("2: a cat\n9: a dog\n15: a bird", 19, "linear", closed_loop=closed)
        settings = ContextWindowSettings(8, 3, stride=2, schedule=schedule, closed_loop=closed)
        model = windowed(scene.inflated(), settings)
        seen = self.seen_by_frames(model)
        scene.sample(model, frames=19, positive=positive, cfg=1.0, steps=4)
        for frames, context in seen:
            assert_close(context, positive[0][0][frames], 1e-3)
        assert {frame for frames, _ in seen for frame in frames} == set(range(19))
        if closed:
            assert any(frames != sorted(frames) for frames, _ in seen)

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_windows_give_what_one_window_gives(self, scene, neutral, travelled, windowed, schedule):
        closed = schedule == "looped"
        positive = travelled("2: a cat\n9: a dog\n15: a bird", 19, "ease", closed_loop=closed)
        settings = ContextWindowSettings(8, 3, schedule=schedule, closed_loop=closed, freenoise=False)
        found = scene.sample(windowed(neutral, settings), frames=19, positive=positive)
        assert_close(found, scene.sample(neutral, frames=19, positive=positive))

    def test_a_window_as_long_as_the_clip_is_bitwise_none(self, scene, travelled, windowed):
        inflated, positive = scene.inflated(), travelled(HALVES, 16, "linear")
        found = scene.sample(windowed(inflated, ContextWindowSettings(16, 4)), positive=positive)
        assert torch.equal(found, scene.sample(inflated, positive=positive))

    def test_the_hosts_own_context_windows_slice_it_too(self, scene, neutral, travelled):
        """Its window comes with one more frame in front, and that frame's states."""
        node = scene.host.module("comfy_extras.nodes_context_windows").ContextWindowsManualNode
        positive = travelled(HALVES, 16, "linear")
        (manual,) = node.execute(neutral, 6, 2, "standard_static", 1, False, "pyramid", 0, False).args
        found = scene.sample(manual, positive=positive, cfg=1.0)
        assert_close(found, scene.sample(neutral, positive=positive, cfg=1.0))


class TestLength:
    """Prompts for another clip."""

    @pytest.mark.parametrize("num_frames", [8, 15, 17, 32])
    def test_prompts_for_another_length_are_refused_before_anything_runs(self, scene, travelled, num_frames):
        calls = []

        def record(executor, *args, **kwargs):
            calls.append(1)
            return executor(*args, **kwargs)

        model = scene.inflated()
        model.add_wrapper_with_key("prepare_sampling", "record", record)
        positive = travelled(HALVES if num_frames > 8 else f"0: {CAT}\n4: {DOG}", num_frames)
        with pytest.raises(SettingsError, match=rf"for {num_frames} frames, and the clip has 16.*num_frames.*to 16"):
            scene.sample(model, positive=positive)
        with pytest.raises(SettingsError, match=f"batch_size of the latent to {num_frames}"):
            scene.sample(model, negative=positive)
        assert not calls

    def test_under_windows_they_are_refused_as_well(self, scene, travelled, windowed):
        """Prompts for 8 frames would fit each window of 8."""
        model = windowed(scene.inflated(), ContextWindowSettings(8, 2))
        with pytest.raises(SettingsError, match="for 8 frames, and the clip has 24"):
            scene.sample(model, frames=24, positive=travelled(f"0: {CAT}\n4: {DOG}", 8))

    def test_one_prompt_fits_every_length(self, scene, travelled, cat):
        inflated = scene.inflated()
        found = scene.sample(inflated, frames=12, positive=travelled(f"0: {CAT}", 16))
        assert torch.equal(found, scene.sample(inflated, frames=12, positive=cat))


class TestNode:
    """The node itself."""

    @pytest.fixture
    def run(self, scene, monkeypatch, tmp_path):
        """The node's output, with ComfyUI's temporary folder in a folder of the test."""
        from motiongraft.nodes.prompt_travel import PromptTravel

        monkeypatch.setattr(scene.host.module("folder_paths"), "temp_directory", str(tmp_path))
        node = PromptTravel.PREPARE_CLASS_CLONE(None)

        def execute(prompts, num_frames=16, interpolation="linear", **optional):
            return node.execute(
                clip=scene.checkpoint.clip,
                prompts=prompts,
                num_frames=num_frames,
                interpolation=interpolation,
                **optional,
            )

        return execute

    def test_its_widgets_are_what_saved_workflows_hold(self):
        from motiongraft.nodes.prompt_travel import PromptTravel

        schema = PromptTravel.define_schema()
        names = ["clip", "prompts", "num_frames", "interpolation", "prepend", "append", "closed_loop"]
        assert [each.id for each in schema.inputs] == names
        assert (schema.node_id, schema.category) == ("MotionGraft_PromptTravel", "MotionGraft")
        defaults = [getattr(each, "default", None) for each in schema.inputs[2:]]
        assert defaults == [16, "linear", "", "", False]
        assert [each.optional for each in schema.inputs] == [False] * 4 + [True] * 3
        assert all(each.tooltip for each in schema.inputs)

    def test_its_example_is_a_travel_without_a_cut(self):
        from motiongraft.nodes.prompt_travel import EXAMPLE

        travel = parse_travel(EXAMPLE, 16)
        assert len(travel.prompts) == 2
        assert not travel.cuts

    @pytest.mark.parametrize("prompts", [HALVES, f"0: {CAT}", "\n".join(f"{frame}: {frame}" for frame in range(40))])
    def test_its_picture_is_one_temporary_file(self, run, tmp_path, prompts):
        found = run(prompts, 40)
        (file,) = found.ui["images"]
        assert file["type"] == "temp"
        (path,) = (path for path in Path(tmp_path).rglob("*") if path.is_file())
        assert path.name == file["filename"]
        with Image.open(path) as picture:
            assert picture.width == 1280
            assert len(picture.convert("RGB").getcolors(100_000)) > 3

    def test_a_cut_is_said_in_the_log_and_on_the_node(self, run, caplog):
        found = run("0: a cat\n2: a dog\n12: a bird", closed_loop=True)
        (text,) = found.ui["text"]
        assert "line 1 to line 2: within 2 frames the prompts change faster than motion can show" in text
        assert text.count("expect a cut") == 1
        assert "line 1 to line 2" in caplog.text
        assert "for a clip of 16 frames: 3 prompts at 0, 2, 12, back to the first; linear" in text

    def test_a_travel_without_a_cut_warns_of_nothing(self, run, caplog):
        assert "cut" not in run(HALVES).ui["text"][0]
        assert not [record for record in caplog.records if record.name.startswith("motiongraft")]

    def test_texts_in_front_and_behind_go_to_every_prompt(self, scene, run):
        (found,) = run("0: a cat\n8: a dog", prepend="photo of", append="4k").args
        ((expected, _),) = scene.host.encode(scene.checkpoint.clip, "photo of, a dog, 4k")
        assert torch.equal(found[0][0][8], expected[0])

    def test_a_disk_that_cannot_be_written_costs_the_picture_alone(self, run, caplog, monkeypatch):
        from motiongraft.host import prompt_travel

        def refuse(*args, **kwargs):
            raise OSError("no space left on device")

        monkeypatch.setattr(prompt_travel.ui, "PreviewImage", refuse)
        found = run(HALVES)
        assert found.args[0][0][0].shape[0] == 16
        assert "images" not in found.ui
        assert "no space left" in caplog.text
