"""SparseCtrl through Apply ControlNet: images at frames of a clip, on the inflated model and on the plain one."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from motiongraft.core.errors import CheckpointError, IncompatibleModelError, SettingsError
from motiongraft.sampling.context_windows import ContextWindowSettings
from motiongraft.tests.helpers.comparison import assert_close, assert_differs
from motiongraft.tests.helpers.published_files import webui_name
from motiongraft.tests.tiny_sd_pack import checkpoints

pytestmark = pytest.mark.host

HALVES = ContextWindowSettings(8, 0, schedule="static", freenoise=False)
FRAMES = 16
SITE = "down_blocks.0.motion_modules.0.temporal_transformer"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sparse")
    return {
        "rgb": checkpoints.write_sparse_control(folder / "rgb.safetensors"),
        "scribble": checkpoints.write_sparse_control(folder / "scribble.safetensors", rgb=False),
        "short": checkpoints.write_sparse_control(folder / "short.safetensors", positions=12),
    }


@pytest.fixture(scope="module")
def load(host, files):
    from motiongraft.host.sparse_control import load_sparse_control

    def load(kind="rgb", frames="0", motion_strength=1.0):
        return load_sparse_control(files[kind], frames, motion_strength)

    return load


@pytest.fixture
def apply(scene):
    """Both conditionings with a control, as Apply ControlNet gives them."""

    def apply(control, images, strength=1.0, start=0.0, end=1.0, before=None, vae="checkpoint's"):
        vae = scene.checkpoint.vae if vae == "checkpoint's" else vae
        positive, negative = before or (scene.positive, scene.negative)
        node = scene.host.module("nodes").ControlNetApplyAdvanced()
        return node.apply_controlnet(positive, negative, control, images, strength, start, end, vae)

    return apply


@pytest.fixture
def sample(scene):
    def sample(model, conditionings, frames=FRAMES, **settings):
        return scene.sample(model, frames, positive=conditionings[0], negative=conditionings[1], **settings)

    return sample


@pytest.fixture
def windowed(host):
    from motiongraft.host.windows import set_context_window

    return lambda model, settings=HALVES: set_context_window(model, settings)


def images(count=1, height=64, width=64, seed=0):
    """Random pictures. Shapes: -> `k h w 3`"""
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def frames_that_differ(found, other):
    return [frame for frame in range(len(found)) if not torch.equal(found[frame], other[frame])]


def recorded(model, name):
    """A clone of a model, and what its calls get as `control`."""
    seen = []

    def record(executor, x, t, c_concat, c_crossattn, control, *args, **kwargs):
        seen.append(copy.deepcopy(control))
        return executor(x, t, c_concat, c_crossattn, control, *args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key("apply_model", name, record)
    return model, seen


def hints(control):
    """What the network sees from now on, a list that grows; and the handle that ends it."""
    seen = []
    hook = control.control_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["hint"].clone()), with_kwargs=True
    )
    return seen, hook


class TestKeyframes:
    """Images stand where they are said to stand."""

    @pytest.mark.parametrize("kind", ["rgb", "scribble"])
    def test_an_image_acts_on_its_own_frame_and_motion_carries_it_to_the_others(self, scene, load, apply, sample, kind):
        """The model itself is plain, so that one frame knows of another through SparseCtrl alone."""
        for strength, expected in ((0.0, [3]), (1.0, list(range(8)))):
            control = load(kind, "3", strength)
            found, other = (sample(scene.model, apply(control, images(seed=seed)), 8) for seed in (0, 1))
            assert frames_that_differ(found, other) == expected

    @pytest.mark.parametrize("kind", ["rgb", "scribble"])
    def test_an_image_changes_the_inflated_clip_and_moves_with_its_frame(self, scene, load, apply, sample, kind):
        inflated = scene.inflated()
        first, last = (sample(inflated, apply(load(kind, frames), images())) for frames in ("0", "-1"))
        assert_differs(first, scene.sample(inflated))
        assert_differs(first, last)

    def test_frames_of_several_images_are_in_their_order(self, scene, load, apply, sample):
        pictures, inflated = images(2), scene.inflated()
        found = sample(inflated, apply(load(frames="0, -1"), pictures))
        assert torch.equal(found, sample(inflated, apply(load(frames="-1, 0"), pictures.flip(0))))
        assert torch.equal(found, sample(inflated, apply(load(frames="spread"), pictures)))
        assert_differs(found, sample(inflated, apply(load(frames="-1, 0"), pictures)))

    def test_the_network_sees_scaled_latents_and_a_mask_at_keyframes(self, scene, load, apply, sample):
        pictures = images(2)
        control = load(frames="2, 5")
        seen, hook = hints(control)
        sample(scene.model, apply(control, pictures), 8, steps=1)
        hook.remove()
        (hint,) = seen
        latents = scene.checkpoint.vae.encode(pictures) * 0.18215
        for half in hint.chunk(2):  # cond and uncond in one batch
            assert torch.equal(half[[2, 5], :4], latents)
            assert half[[2, 5], 4].min() == 1
            assert not half[[0, 1, 3, 4, 6, 7]].any()

    def test_scribbles_are_pixels_from_zero_to_one(self, scene, load, apply, sample):
        pictures = images()
        control = load("scribble", "1")
        seen, hook = hints(control)
        sample(scene.model, apply(control, pictures, vae=None), 4, steps=1)
        hook.remove()
        assert torch.equal(seen[0][1, :3], pictures[0].movedim(-1, 0))
        assert seen[0].shape[2:] == (64, 64)

    def test_a_picture_of_another_shape_is_cut_at_its_sides(self, scene, load, apply, sample):
        picture = images(1, 64, 96)
        picture[:, :, 16:80] = images()
        control = load("scribble", "0")
        found = sample(scene.model, apply(control, picture), 2)
        assert torch.equal(found, sample(scene.model, apply(control, images()), 2))
        large = images().repeat_interleave(3, 1).repeat_interleave(3, 2)
        assert_close(sample(scene.model, apply(control, large), 2), found)

    def test_transparency_is_no_fifth_channel(self, scene, load, apply, sample):
        picture = torch.cat([images(), torch.rand(1, 64, 64, 1)], dim=-1)
        control = load("scribble")
        found = sample(scene.model, apply(control, picture), 2, steps=1)
        assert torch.equal(found, sample(scene.model, apply(control, images()), 2, steps=1))

    def test_an_image_is_encoded_once_whatever_the_steps_and_windows(
        self, scene, load, apply, sample, windowed, monkeypatch
    ):
        calls = []
        encode = scene.checkpoint.vae.encode
        monkeypatch.setattr(scene.checkpoint.vae, "encode", lambda pixels: calls.append(pixels) or encode(pixels))
        conditionings = apply(load(), images())
        sample(windowed(scene.inflated()), conditionings, steps=4)
        assert len(calls) == 1
        sample(windowed(scene.inflated()), conditionings, steps=4)
        assert len(calls) == 2


class TestMotionStrength:
    """How much of SparseCtrl's own motion acts."""

    def test_at_zero_it_is_bitwise_as_without_motion_layers(self, scene, load, apply, sample, monkeypatch):
        control = load(motion_strength=0.0)
        found = sample(scene.inflated(), apply(control, images()))
        whole = load()
        monkeypatch.setattr(whole.control_model, "addresses", {})
        assert torch.equal(found, sample(scene.inflated(), apply(whole, images())))

    def test_at_one_it_is_all_of_it_and_between_less(self, scene, load, apply, sample):
        found = [sample(scene.inflated(), apply(load(motion_strength=each), images())) for each in (0.0, 0.5, 1.0)]
        assert_differs(found[0], found[1])
        assert_differs(found[1], found[2])


class TestWindows:
    """Keyframes belong to the clip, not to the window."""

    def test_windows_without_overlap_equal_separate_clips(self, scene, load, apply, sample, windowed):
        inflated, pictures = scene.inflated(), images(2)
        noise = scene.host.module("comfy.sample").prepare_noise(scene.latent(FRAMES), 0)
        run = scene.host.module("comfy.sample").sample
        parts = []
        for frame, picture, part in (("2", pictures[:1], noise[:8]), ("4", pictures[1:], noise[8:])):
            conditionings = apply(load(frames=frame), picture)
            parts.append(run(inflated, part, 2, 7.5, "euler", "normal", *conditionings, torch.zeros_like(part),
                             disable_pbar=True, seed=0))  # fmt: skip
        found = sample(windowed(inflated), apply(load(frames="2, 12"), pictures))
        assert_close(found, torch.cat(parts))

    def test_view_windows_hold_for_its_own_motion_layers_too(self, scene, load, apply, sample, host):
        """Views that do not overlap are windows that do not; and a clip may be longer than the encoder's positions."""
        from motiongraft.host.view_windows import set_view_window
        from motiongraft.host.windows import set_context_window

        conditionings = apply(load("short", "2, 13"), images(2))
        views = ContextWindowSettings(8, 0, schedule="batched")
        found = sample(set_view_window(scene.inflated(), views), conditionings)
        assert_close(found, sample(set_context_window(scene.inflated(), HALVES), conditionings), 5e-5)
        with pytest.raises(SettingsError, match=r"windows of View Window are 14 frames.*positions for 12"):
            sample(set_view_window(scene.inflated(), ContextWindowSettings(14, 2)), conditionings)

    def test_one_window_over_all_frames_is_bitwise_no_window(self, scene, load, apply, sample, windowed):
        inflated, conditionings = scene.inflated(), apply(load(frames="3"), images())
        found = sample(windowed(inflated, ContextWindowSettings(16, 4)), conditionings)
        assert torch.equal(found, sample(inflated, conditionings))

    def test_the_hosts_own_windows_over_a_plain_model_are_followed_too(self, scene, load, apply, sample):
        node = scene.host.module("comfy_extras.nodes_context_windows").ContextWindowsManualNode
        arguments = ("standard_static", 1, False, "pyramid", 0, False)
        (manual,) = node.execute(scene.model, 8, 0, *arguments, causal_window_fix=False).args
        for frame, expected in ((3, range(8)), (12, range(8, 16))):
            control = load(frames=str(frame))
            found, other = (sample(manual, apply(control, images(seed=seed))) for seed in (0, 1))
            assert frames_that_differ(found, other) == list(expected)

    def test_the_hosts_leading_frame_is_free(self, scene, load, apply, sample):
        """Its windows of 12 come with one more frame in front; a file with 12 positions takes them."""
        node = scene.host.module("comfy_extras.nodes_context_windows").ContextWindowsManualNode
        (manual,) = node.execute(scene.inflated(), 12, 4, "standard_static", 1, False, "pyramid", 0, False).args
        assert torch.isfinite(sample(manual, apply(load("short"), images()), 20)).all()

    def test_frames_that_another_extension_names_are_followed(self, host):
        from motiongraft.host.motion_call import frames_of_call

        named = {"ad_params": {"sub_idxs": [4, 5, 6], "full_length": 20, "context_length": 3}}
        call = frames_of_call(named, 3)
        assert (call.frames, call.total_frames, call.num_frames) == ((4, 5, 6), 20, 3)
        whole = frames_of_call({"ad_params": {"sub_idxs": None, "full_length": 3, "context_length": 3}}, 3)
        assert whole.frames == frames_of_call({}, 3).frames == (0, 1, 2)


class TestAsAnyControlNet:
    """What ComfyUI does with a ControlNet it does with this one."""

    def test_strength_zero_leaves_the_conditionings_as_they_are(self, scene, load, apply):
        positive, negative = apply(load(), images(), strength=0.0)
        assert positive is scene.positive
        assert negative is scene.negative

    def test_strength_is_a_factor_of_what_is_added(self, scene, load, apply, sample):
        found = []
        for strength in (1.0, 0.5):
            model, seen = recorded(scene.inflated(), "strength")
            sample(model, apply(load(), images(), strength), steps=1)
            found.append(seen[0]["output"] + seen[0]["middle"])
        for whole, half in zip(*found, strict=True):
            assert_close(half, 0.5 * whole)

    @pytest.mark.parametrize(("start", "end", "acts"), [(0.0, 0.0, False), (1.0, 1.0, False), (0.0, 0.5, True)])
    def test_outside_its_part_of_the_sampling_it_is_bitwise_absent(self, scene, load, apply, sample, start, end, acts):
        inflated = scene.inflated()
        found = sample(inflated, apply(load(), images(), start=start, end=end))
        assert torch.equal(found, scene.sample(inflated)) != acts

    def test_in_a_chain_controls_add_up(self, scene, load, apply, sample, tmp_path):
        path = checkpoints.write_controlnet(tmp_path / "control.safetensors")
        ordinary = scene.host.module("comfy.controlnet").load_controlnet(str(path))
        pictures = images(FRAMES, seed=5)
        each = [(ordinary, pictures), (load("rgb"), images()), (load("scribble", "-1"), images(seed=1))]

        def first(conditionings):
            model, seen = recorded(scene.inflated(), "chain")
            sample(model, conditionings, steps=1)
            return seen[0]["output"] + seen[0]["middle"]

        alone = [first(apply(control, hint)) for control, hint in each]
        for order in ((0, 1, 2), (2, 1, 0)):
            conditionings = (scene.positive, scene.negative)
            for index in order:
                conditionings = apply(*each[index], before=conditionings)
            for found, *parts in zip(first(conditionings), *alone, strict=True):
                assert_close(found, sum(parts[1:], parts[0]))
            assert len(conditionings[0][0][1]["control"].get_models()) == 3

    def test_one_encoder_twice_in_a_chain_keeps_both_images(self, scene, load, apply, sample):
        control = load()
        first, second = images(), images(seed=1)
        found = sample(scene.inflated(), apply(control, second, 0.5, before=apply(control, first, 0.25)))
        assert_close(found, sample(scene.inflated(), apply(control, first, 0.25, before=apply(control, second, 0.5))))
        assert_differs(found, sample(scene.inflated(), apply(control, first, 0.25, before=apply(control, first, 0.5))))

    def test_cond_and_uncond_run_in_one_batch(self, scene, load, apply, sample, windowed):
        model, seen = recorded(windowed(scene.inflated()), "batch")
        sample(model, apply(load(), images()), steps=1)
        assert {control["output"][0].shape[0] for control in seen} == {16}

    def test_areas_of_the_picture_get_images_of_their_size(self, scene, load, apply, sample):
        positive, negative = apply(load(), images())
        half = [[text, {**settings, "area": (4, 8, 0, 0), "strength": 1.0}] for text, settings in positive]
        model, seen = recorded(scene.inflated(), "areas")
        assert torch.isfinite(sample(model, (half + positive, negative), steps=1)).all()
        assert {tuple(control["output"][0].shape[::2]) for control in seen} == {(2 * FRAMES, 4), (2 * FRAMES, 8)}

    def test_control_and_run_leave_nothing_behind(self, scene, load, apply, sample, windowed):
        control = load(frames="0, 9")
        before = {name: copy.copy(value) if isinstance(value, dict) else value for name, value in vars(control).items()}
        positive, negative = apply(control, images(2))
        own = positive[0][1]["control"]
        found = sample(windowed(scene.inflated()), (positive, negative))
        assert vars(control) == before
        assert own is not control
        assert own.cond_hint is None
        assert own.encoded == {}
        assert own.extra_args == {}
        assert len(own.cond_hint_original) == 2
        assert torch.equal(sample(windowed(scene.inflated()), (positive, negative)), found)

    def test_a_network_that_fails_leaves_nothing_on_the_conditioning(self, scene, load, apply, sample, monkeypatch):
        conditionings = apply(load(), images())
        own = conditionings[0][0][1]["control"]

        def fail(*_, **__):
            raise RuntimeError("out of memory")

        with monkeypatch.context() as patched:
            patched.setattr(type(own.control_model), "forward", fail)
            with pytest.raises(RuntimeError, match="out of memory"):
                sample(scene.inflated(), conditionings)
        assert own.cond_hint is None
        assert own.extra_args == {}
        assert torch.isfinite(sample(scene.inflated(), conditionings)).all()

    def test_the_model_beside_it_stays_as_it_was(self, scene, load, apply, sample):
        plain = scene.sample(scene.model)
        sample(scene.inflated(), apply(load(), images()))
        assert torch.equal(scene.sample(scene.model), plain)

    def test_a_copy_for_another_device_gives_the_same(self, scene, load, apply, sample):
        if not hasattr(load(), "deepclone_multigpu"):
            pytest.skip("this ComfyUI has no sampling on several GPUs")
        control = load()
        expected = sample(scene.inflated(), apply(control, images()))
        twin = control.deepclone_multigpu(torch.device("cpu"))
        assert twin.control_model is not control.control_model
        assert torch.equal(sample(scene.inflated(), apply(twin, images())), expected)


class TestFiles:
    """One network from every naming and type."""

    def test_every_naming_is_the_same_network(self, scene, load, apply, sample, files, tmp_path):
        from motiongraft.host.sparse_control import load_sparse_control

        for kind in ("rgb", "scribble"):
            tensors = load_file(files[kind])
            save_file({webui_name(name): tensor for name, tensor in tensors.items()}, tmp_path / "webui.safetensors")
            torch.save({"controlnet": {**tensors, "animatediff_config": ""}}, tmp_path / "official.ckpt")
            expected = load(kind).control_model.state_dict()
            for name in ("webui.safetensors", "official.ckpt"):
                found = load_sparse_control(tmp_path / name, "0", 1.0).control_model.state_dict()
                assert found.keys() == expected.keys()
                assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
    def test_smaller_types_are_read(self, scene, apply, sample, files, tmp_path, dtype):
        from motiongraft.host.sparse_control import load_sparse_control

        tensors = {name: tensor.to(dtype) for name, tensor in load_file(files["rgb"]).items()}
        save_file(tensors, tmp_path / "small.safetensors")
        control = load_sparse_control(tmp_path / "small.safetensors", "0", 1.0)
        found = sample(scene.inflated(), apply(control, images()))
        assert torch.isfinite(found).all()
        assert_differs(found, scene.sample(scene.inflated()))

    def test_it_is_read_where_comfyui_builds_layers_without_weights(self, load, late_weights):
        expected = load().control_model.state_dict()
        late_weights()
        found = load().control_model.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda t: t.pop("mid_block.resnets.0.conv1.weight"), r"1 tensors are missing \(mid_block\.resnets\.0"),
            (lambda t: t.update({"odd.weight": torch.ones(2, 2)}), r"1 are not part of one \(odd\.weight"),
            (lambda t: t.update({"conv_in.bias": torch.ones(31)}), r"\.0\.0\.bias should be \[32\] and is \[31\]"),
            (lambda t: t.update({"conv_in.weight": torch.ones(64, 4, 3, 3)}), r"widths of no base model"),
            (lambda t: [t.pop(name) for name in list(t) if ".3.motion_modules" in name], r"depth or widths"),
            (lambda t: [t.pop(name) for name in list(t) if "motion_modules.1" in name], r"depth or widths"),
            (lambda t: t.pop(f"{SITE}.norm.bias"), r"1 tensors are missing \(down_blocks"),
        ],
    )  # fmt: skip
    def test_a_file_that_is_not_whole_is_refused_in_words(self, host, files, tmp_path, change, words):
        from motiongraft.host.sparse_control import load_sparse_control

        tensors = load_file(files["rgb"])
        change(tensors)
        save_file(tensors, tmp_path / "damaged.safetensors")
        with pytest.raises(CheckpointError, match=words) as error:
            load_sparse_control(tmp_path / "damaged.safetensors", "0", 1.0)
        assert len(str(error.value)) < 600

    @pytest.mark.parametrize(
        ("write", "words"),
        [
            (checkpoints.write_controlnet, "a ControlNet.*ControlNetLoader"),
            (checkpoints.write_motion_module, "a motion module.*LoadMotionModule"),
            (checkpoints.write_tiny_sd15, "a whole base model.*CheckpointLoaderSimple"),
        ],
    )
    def test_another_kind_of_file_is_named_with_the_node_that_takes_it(self, host, tmp_path, write, words):
        from motiongraft.host.sparse_control import load_sparse_control

        with pytest.raises(CheckpointError, match=rf"wrong\.safetensors: expected a SparseCtrl encoder, found {words}"):
            load_sparse_control(write(tmp_path / "wrong.safetensors"), "0", 1.0)

    def test_load_motion_module_sends_it_to_its_own_loader(self, host, files):
        from motiongraft.host.motion_modules import load_motion_module

        with pytest.raises(CheckpointError, match=r"found a SparseCtrl encoder\. Load it with Load SparseCtrl"):
            load_motion_module(files["rgb"])


class TestBadInput:
    """Refused before the first step, in words."""

    def test_images_and_frames_that_differ_in_number(self, load, apply):
        with pytest.raises(SettingsError, match=r"3 frames \(0, 4, 8\), and 1 image"):
            apply(load(frames="0, 4, 8"), images())

    def test_latents_without_a_vae(self, load, apply):
        with pytest.raises(SettingsError, match=r"rgb\.safetensors sees images as latents.*input `vae`"):
            apply(load(), images(), vae=None)

    def test_a_vae_of_another_base(self, load, apply):
        class Vae:
            latent_channels = 16

        with pytest.raises(SettingsError, match=r"4 channels, and the VAE.*makes 16"):
            apply(load(), images(), vae=Vae())

    def test_a_picture_without_colour(self, load, apply):
        with pytest.raises(SettingsError, match=r"found 1 channel"):
            apply(load(), images()[..., :1])

    def test_a_text_that_names_no_frames(self, load):
        with pytest.raises(SettingsError, match=r"found 'first'"):
            load(frames="first")

    @pytest.mark.parametrize(
        ("frames", "words"), [("16", r"16 is not in the clip"), ("0, -16", r"frame 0 comes twice in a clip of 16")]
    )
    def test_frames_outside_the_clip_and_twice(self, scene, load, apply, sample, frames, words):
        steps = []
        model = scene.inflated()
        model.add_wrapper_with_key("diffusion_model", "count", lambda executor, *args, **kwargs: steps.append(1))
        with pytest.raises(SettingsError, match=words):
            sample(model, apply(load(frames=frames), images(frames.count(",") + 1), start=0.5))
        assert steps == []

    def test_more_frames_at_once_than_positions(self, scene, load, apply, sample, windowed):
        conditionings = apply(load("short"), images())
        with pytest.raises(SettingsError, match=r"16 frames at once, and short\.safetensors has positions for 12"):
            sample(scene.inflated(), conditionings)
        with pytest.raises(
            SettingsError, match=r"windows of ContextWindow are 14 frames long, short\.safetensors has positions for 12"
        ):
            sample(windowed(scene.inflated(), ContextWindowSettings(14, 2)), conditionings, 20)

    def test_a_model_of_another_base(self, scene, load, apply):
        positive, negative = (scene.host.encode(scene.sdxl.clip, text) for text in ("a cat", "blurry"))
        conditionings = apply(load(), images(), before=(positive, negative))
        with pytest.raises(IncompatibleModelError, match=r"rgb\.safetensors is for SD 1\.5, this model is SDXL"):
            scene.sample(scene.sdxl.model, 2, positive=conditionings[0], negative=conditionings[1])

    def test_the_node_lists_the_folder_and_refuses_what_is_outside(self, host):
        from motiongraft.nodes.load_sparsectrl import LoadSparseCtrl

        schema = LoadSparseCtrl.define_schema()
        assert "tiny_sparsectrl_rgb.safetensors" in schema.inputs[0].options
        with pytest.raises(CheckpointError, match="leads out of the model folder"):
            LoadSparseCtrl.execute("../tiny.safetensors", "0")


def test_a_single_picture_is_a_clip_of_one_frame(scene, load, apply, sample):
    found = sample(scene.model, apply(load(), images()), 1)
    assert torch.isfinite(found).all()
    assert_differs(found, scene.sample(scene.model, 1))
