"""Every node of an animation on SDXL, which has three levels, modules without a middle, and labels beside the text."""

from pathlib import Path

import pytest
import torch

from motiongraft.core.errors import IncompatibleModelError, SettingsError
from motiongraft.core.part_factors import parse_part_factors
from motiongraft.core.tensor_files import TensorFile, read_tensor_file, write_tensor_file
from motiongraft.lora.layouts import ANIMATEDIFF, KOHYA, OLD_DIFFUSERS, PEFT, canonical_name
from motiongraft.lora.motion_lora import fit, read_motion_lora
from motiongraft.motion_modules.keys import published
from motiongraft.motion_modules.written_layouts import written_form
from motiongraft.sampling.context_windows import ContextWindowSettings
from motiongraft.sampling.frame_values import parse_frame_values
from motiongraft.sampling.motion_control import MotionControl
from motiongraft.sampling.prompt_travel import parse_travel
from motiongraft.tests.helpers.comparison import assert_close, assert_differs
from motiongraft.tests.helpers.empty_model_folders import empty_model_folders
from motiongraft.tests.helpers.host_models import predict_noise, unet_names
from motiongraft.tests.helpers.merged_weights import merged
from motiongraft.tests.helpers.random_modules import random_module, toy_spec
from motiongraft.tests.tiny_sd_pack.checkpoints import SDXL_CHANNELS, write_controlnet, write_motion_lora
from motiongraft.tests.tiny_sd_pack.unet_weights import SDXL

pytestmark = pytest.mark.host

FRAMES = 16
USE_EXISTING = "use existing"
CAT, DOG = "a cat on the moon", "blurry (dog:1.3), at night"
SIZES = {"width": 768, "height": 512, "crop_w": 24, "crop_h": 8, "target_width": 1344, "target_height": 832}
OTHER_SIZES = {"width": 640, "height": 1024, "crop_w": 0, "crop_h": 48, "target_width": 832, "target_height": 1216}
HALVES = ContextWindowSettings(8, 0, schedule="static", freenoise=False)
MERGE_TOLERANCE = 1e-6  # against float64, relative to the largest weight
RANK = 4


@pytest.fixture(scope="module")
def encoded(scene):
    """CONDITIONING as CLIPTextEncodeSDXL makes it."""
    node = scene.host.module("comfy_extras.nodes_clip_sdxl").CLIPTextEncodeSDXL
    return lambda text, sizes: node.execute(scene.sdxl.clip, text_g=text, text_l=text, **sizes).args[0]


@pytest.fixture(scope="module")
def positive(encoded):
    return encoded(CAT, SIZES)


@pytest.fixture(scope="module")
def negative(encoded):
    return encoded("blurry", OTHER_SIZES)


@pytest.fixture
def inflate(scene):
    from motiongraft.host.inflate import inflate_model

    def inflated(control=None, motion=None, model=None, schedule=USE_EXISTING):
        motion = motion or scene.motion("sdxl-beta")
        return inflate_model(model or scene.sdxl.model, motion, schedule, control)

    return inflated


@pytest.fixture
def at(scene, positive, negative):
    """What the UNet predicts at a timestep, for one clip in cond and uncond."""

    def predicted(model, timestep=407):
        x = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        return torch.stack(predict_noise(scene.host, model, x, timestep, positive, negative))

    return predicted


@pytest.fixture
def sample(scene, positive, negative):
    """A clip of two steps."""

    def sampled(model, frames=FRAMES, **settings):
        return scene.sample(model, frames, **{"positive": positive, "negative": negative, **settings})

    return sampled


@pytest.fixture
def travelled(scene):
    """The conditioning of PromptTravel, with sizes as a node behind it may set them."""
    from motiongraft.host.prompt_travel import encode_travel

    def encode(text, frames=FRAMES, interpolation="linear", **sizes):
        conditioning = encode_travel(scene.sdxl.clip, parse_travel(text, frames, interpolation))
        return scene.host.module("node_helpers").conditioning_set_values(conditioning, sizes)

    return encode


@pytest.fixture
def windowed():
    from motiongraft.host.windows import set_context_window

    return lambda model, settings=HALVES: set_context_window(model, settings)


def of_frames(conditioning, frames):
    """A travel's conditioning of some of its frames, as an ordinary one."""
    ((states, entry),) = conditioning
    kept = {name: value for name, value in entry.items() if not name.startswith("motiongraft")}
    return [[states[frames], {**kept, "pooled_output": entry["pooled_output"][frames]}]]


def with_zeroed(scene, part, folder):
    """The toy module with a part of it that adds nothing, from a file."""
    from motiongraft.host.motion_modules import load_motion_module

    file = read_tensor_file(scene.folder / scene.motion("sdxl-beta").name)
    tensors = {
        name: tensor * 0 if name.startswith(f"{part}.") and ".proj_out." in name else tensor
        for name, tensor in file.tensors.items()
    }
    write_tensor_file(folder / "less.safetensors", tensors, file.metadata)
    return load_motion_module(folder / "less.safetensors")


class TestPromptTravel:
    def test_labels_travel_and_reach_their_frames_in_one_batch_with_the_negative_prompt(
        self, sample, inflate, travelled, negative
    ):
        seen = []

        def record(executor, x, timesteps, context, y, control, options, **kwargs):
            seen.append((options["cond_or_uncond"], context.clone(), y.clone()))
            return executor(x, timesteps, context, y, control, options, **kwargs)

        model = inflate()
        model.add_wrapper_with_key("diffusion_model", "record", record)
        positive = travelled(f"0: {CAT}\n15: {DOG}", **SIZES)
        sample(model, positive=positive, steps=1)
        ((order, context, y),) = seen
        halves = slice(0, FRAMES), slice(FRAMES, 2 * FRAMES)
        own, other = halves if order[0] == 0 else reversed(halves)
        ((states, entry),) = positive
        pooled = entry["pooled_output"]
        assert y.shape == (2 * FRAMES, SDXL.label_width)
        assert_close(context[own], states, 1e-3)
        assert_close(y[own][:, : pooled.shape[1]], pooled, 1e-3)
        assert_differs(y[own][0, : pooled.shape[1]], y[own][15, : pooled.shape[1]])
        assert_close(y[other][:, : pooled.shape[1]], negative[0][1]["pooled_output"].expand(FRAMES, -1), 1e-3)
        assert_differs(y[own][:, pooled.shape[1] :], y[other][:, pooled.shape[1] :])

    def test_a_pooled_state_alone_changes_its_frame(self, scene, sample, inflate, travelled):
        """Frames that do not see each other: only the one whose label differs becomes another."""
        model = inflate(motion=scene.motion("sdxl-beta", zero=True))
        positive = travelled(f"0: {CAT}\n15: {DOG}")
        ((states, entry),) = positive
        pooled = entry["pooled_output"].clone()
        pooled[5] = pooled[15]
        found = sample(model, positive=[[states, {**entry, "pooled_output": pooled}]])
        whole = sample(model, positive=positive)
        assert [frame for frame in range(FRAMES) if not torch.equal(found[frame], whole[frame])] == [5]


class TestMotionControl:
    BLOCKS = tuple(f"{part}.{level}" for part in ("down_blocks", "up_blocks") for level in range(3))

    @pytest.mark.parametrize("block", BLOCKS)
    def test_a_block_at_zero_is_bitwise_a_module_that_adds_nothing_there(self, scene, inflate, at, tmp_path, block):
        control = MotionControl(blocks=parse_part_factors(f"{block}: 0", "blocks"))
        found = at(inflate(control))
        assert torch.equal(found, at(inflate(motion=with_zeroed(scene, block, tmp_path))))
        assert_differs(found, at(inflate()))

    @pytest.mark.parametrize("block", ["mid_block", "up_blocks.3", "down_blocks.3.motion_modules.0"])
    def test_a_block_of_sd15_is_refused_with_the_blocks_that_there_are(self, inflate, block):
        with pytest.raises(SettingsError, match=f"^blocks: {block} is no part of") as refused:
            inflate(MotionControl(blocks=parse_part_factors(f"{block}: 0.5", "blocks")))
        (listed,) = [line for line in str(refused.value).split(". ") if line.startswith("Parts are ")]
        assert [name for name in self.BLOCKS if name in listed] == list(self.BLOCKS)
        assert block not in listed

    def test_a_neutral_control_is_bitwise_none(self, inflate, at):
        neutral = MotionControl(
            per_frame=parse_frame_values("0: 1", "per_frame"),
            blocks=parse_part_factors("up_blocks.2: 1", "blocks"),
            mask=torch.ones(1, 64, 64),
        )
        assert torch.equal(at(inflate(neutral)), at(inflate()))

    def test_strength_zero_is_bitwise_the_plain_model(self, scene, inflate, at):
        assert torch.equal(at(inflate(MotionControl(0.0))), at(scene.sdxl.model))

    def test_strength_by_frame_holds_for_its_frames_alone(self, scene, inflate, at):
        control = MotionControl(per_frame=parse_frame_values("3: 1, 4: 0, 5: 0, 6: 1", "per_frame"))
        found, plain, whole = at(inflate(control)), at(scene.sdxl.model), at(inflate())
        assert [frame for frame in range(FRAMES) if torch.equal(found[:, frame], plain[:, frame])] == [4, 5]
        assert_differs(found[:, 8], whole[:, 8])  # it sees the still frames

    def test_a_mask_acts_inside_it(self, scene, inflate, at):
        half = torch.zeros(1, 64, 64)
        half[..., :32] = 1
        found = at(inflate(MotionControl(0.0, mask=half)))
        assert_differs(found, at(inflate()))
        assert_differs(found, at(scene.sdxl.model))
        assert torch.equal(at(inflate(MotionControl(0.0, mask=torch.ones(1, 64, 64)))), at(scene.sdxl.model))

    def test_its_part_of_the_sampling_is_that_of_the_modules_own_schedule(self, scene, inflate, at):
        control = MotionControl(0.0, start_percent=0.5)
        model = inflate(control, schedule="auto")
        neutral = inflate(motion=scene.motion("sdxl-beta", zero=True), schedule="auto")
        assert torch.equal(at(model, 498), at(neutral, 498))
        assert torch.equal(at(model, 600), at(inflate(schedule="auto"), 600))


class TestContextWindow:
    @pytest.mark.parametrize("travels", [False, True], ids=["one label", "a label for each frame"])
    def test_windows_without_overlap_equal_clips_of_their_own(
        self, scene, inflate, windowed, travelled, positive, negative, travels
    ):
        inflated = inflate(schedule="auto")
        whole = travelled(f"0: {CAT}\n15: {DOG}", **SIZES) if travels else positive
        noise = scene.host.module("comfy.sample").prepare_noise(scene.latent(FRAMES), 0)

        def run(model, frames, conditioning):
            arguments = (2, 7.5, "euler", "normal", conditioning, negative, torch.zeros_like(noise[frames]))
            return scene.host.module("comfy.sample").sample(model, noise[frames], *arguments, disable_pbar=True, seed=0)

        pieces = [
            run(inflated, frames, of_frames(whole, frames) if travels else whole)
            for frames in (slice(0, 8), slice(8, FRAMES))
        ]
        assert_close(run(windowed(inflated), slice(0, FRAMES), whole), torch.cat(pieces))

    def test_one_window_over_all_frames_is_bitwise_no_window(self, sample, inflate, windowed):
        inflated = inflate(schedule="auto")
        assert torch.equal(sample(windowed(inflated, ContextWindowSettings(16, 4))), sample(inflated))

    def test_a_controlnet_follows_labels_and_windows(
        self, scene, sample, inflate, windowed, travelled, negative, tmp_path
    ):
        """An SDXL ControlNet is told the labels too."""
        path = write_controlnet(tmp_path / "control.safetensors", size=SDXL)
        control = scene.host.module("comfy.controlnet").load_controlnet(str(path))
        hints = torch.rand(FRAMES, 64, 64, 3, generator=torch.Generator().manual_seed(0))
        apply = scene.host.module("nodes").ControlNetApplyAdvanced().apply_controlnet
        model = inflate(motion=scene.motion("sdxl-beta", zero=True))

        def run(model, positive):
            positive, other = apply(positive, negative, control, hints, 1.0, 0.0, 1.0)
            return sample(model, positive=positive, negative=other)

        positive = travelled(f"0: {CAT}\n8: {DOG}", interpolation="hold", **SIZES)
        clips = [run(model, of_frames(positive, [frame] * FRAMES)) for frame in (0, 15)]
        expected = torch.cat([clips[0][:8], clips[1][8:]])
        assert_close(run(model, positive), expected)
        assert_close(run(windowed(model, ContextWindowSettings(6, 2, freenoise=False)), positive), expected)
        assert_differs(expected, sample(model, positive=positive))


class TestMotionLoRA:
    @pytest.fixture(scope="class")
    @classmethod
    def lora(cls, tmp_path_factory):
        return read_motion_lora(
            read_tensor_file(write_motion_lora(tmp_path_factory.mktemp("lora") / "mine.safetensors", SDXL_CHANNELS))
        )

    @pytest.fixture
    def apply(self, host):
        from motiongraft.host.loras import apply_motion_lora

        return apply_motion_lora

    def weights(self, scene, motion):
        scene.host.module("comfy.model_management").load_models_gpu([motion.patcher])
        return {name: weight.clone() for name, weight in motion.patcher.model.state_dict().items()}

    def test_every_changed_weight_equals_the_float64_merge(self, scene, apply, lora):
        motion = scene.motion("sdxl-beta")
        originals = self.weights(scene, motion)
        changes, left_out = fit(lora, {name: tuple(weight.shape) for name, weight in originals.items()}, "sdxl")
        assert (len(changes), left_out) == (15 * 2 * 4, 0)
        found = self.weights(scene, apply(motion, lora, 0.8))
        for name, weight in originals.items():
            expected = merged(weight, [(change, 0.8) for change in changes if change.target == name])
            assert (found[name].double() - expected).abs().max() <= MERGE_TOLERANCE * expected.abs().max(), name

    def test_it_changes_the_clip_by_layer_and_by_step(self, scene, apply, lora, inflate, at):
        motion = scene.motion("sdxl-beta")
        plain, whole = at(inflate()), at(inflate(motion=apply(motion, lora, 0.8)))
        assert_differs(whole, plain)
        assert_differs(at(inflate(motion=apply(motion, lora, 0.8, "up_blocks.2: 0"))), whole)
        course = inflate(motion=apply(motion, lora, 0.8, schedule="0: 1, 0.5: 0"))
        assert torch.equal(at(course, 200), at(inflate(), 200))
        assert_differs(at(course, 900), at(inflate(), 900))

    def test_a_camera_motion_of_sd15_is_refused(self, scene, host, tmp_path, monkeypatch):
        from motiongraft.host.camera_presets import apply_camera_motion

        folder = empty_model_folders(host, tmp_path, monkeypatch)["animatediff_motion_lora"]
        write_motion_lora(folder / "v2_lora_ZoomIn.safetensors", middle=True)
        with pytest.raises(IncompatibleModelError, match="for another base model"):
            apply_camera_motion(scene.motion("sdxl-beta"), "zoom in", 1.0)


class TestDomainAdapter:
    """A LoRA of SDXL's attention, as each program names its layers."""

    LAYOUTS = ("animatediff", "old-diffusers", "diffusers", "kohya", "kohya for SDXL")

    @pytest.fixture(scope="class")
    @classmethod
    def layers(cls, scene):
        """ComfyUI's name of each attention's linear layer by diffusers' name."""
        names = unet_names(scene.host, SDXL.multipliers, SDXL.depths)
        linear = [f".{attention}.{leaf}" for attention in ("attn1", "attn2") for leaf in ("to_q", "to_v", "to_out.0")]
        state = scene.sdxl.model.model.state_dict()
        return {
            theirs.removesuffix(".weight"): ours.removesuffix(".weight")
            for theirs, ours in names.items()
            if theirs.removesuffix(".weight").endswith(tuple(linear)) and f"diffusion_model.{ours}" in state
        }

    def adapter(self, scene, layers, program):
        state, tensors = scene.sdxl.model.model.state_dict(), {}
        layout = {each.name: each for each in (ANIMATEDIFF, OLD_DIFFUSERS, PEFT, KOHYA)}.get(program)
        generator = torch.Generator().manual_seed(0)
        for theirs, ours in layers.items():
            outputs, inputs = state[f"diffusion_model.{ours}.weight"].shape
            for factor, shape in (("down", (RANK, inputs)), ("up", (outputs, RANK))):
                # kohya's LoRAs for SDXL name the layers of the published checkpoint, as ComfyUI does.
                name = f"lora_unet_{ours.replace('.', '_')}.lora_{factor}.weight"
                name = name if layout is None else layout.write(canonical_name(theirs, factor))
                tensors[name] = torch.randn(shape, generator=generator) * shape[-1] ** -0.5
        return TensorFile(Path(f"{program}.safetensors"), tensors)

    @pytest.fixture
    def adapt(self, host):
        from motiongraft.host.loras import apply_domain_adapter

        return apply_domain_adapter

    @pytest.mark.parametrize("program", LAYOUTS)
    def test_every_layer_is_changed_from_every_layout(self, scene, layers, adapt, inflate, sample, caplog, program):
        adapter = self.adapter(scene, layers, program)
        adapted = adapt(scene.sdxl.model, adapter, 0.6)
        assert len(adapted.patches) == len(layers) == 6 * (2 * (1 + 2) + 3 * (1 + 2) + 2)
        assert "have no place" not in caplog.text
        kohya = self.adapter(scene, layers, "kohya for SDXL").tensors
        host_loaded, _ = scene.host.module("comfy.sd").load_lora_for_models(scene.sdxl.model, None, kohya, 0.6, 0)
        found = sample(inflate(model=adapted))
        assert torch.equal(found, sample(inflate(model=host_loaded)))
        assert_differs(found, sample(inflate()))

    def test_before_and_after_inflation_are_the_same(self, scene, layers, adapt, inflate, sample):
        adapter = self.adapter(scene, layers, "animatediff")
        before = sample(inflate(model=adapt(scene.sdxl.model, adapter, 1.0)))
        assert torch.equal(before, sample(adapt(inflate(), adapter, 1.0)))

    def test_strength_zero_is_bitwise_the_plain_model(self, scene, layers, adapt, sample):
        adapted = adapt(scene.sdxl.model, self.adapter(scene, layers, "animatediff"), 0.0)
        assert torch.equal(sample(adapted), sample(scene.sdxl.model))


class TestHotshotXL:
    @pytest.fixture
    def file(self, tmp_path):
        """A toy of the published file: its own names, 24 positions, and nothing that says what it is."""
        changes = {"num_positions": 24, "base_norms_over_frames": True, "motion_norm_over_frames": False}
        module = random_module(toy_spec("sdxl-beta", **changes))
        form = written_form(published(module.state_dict()), module.spec, "hotshotxl")
        write_tensor_file(tmp_path / "hsxl_temporal_layers.safetensors", form.tensors, {})
        return tmp_path / "hsxl_temporal_layers.safetensors"

    @pytest.fixture
    def motion(self, host, file):
        from motiongraft.host.motion_modules import load_motion_module

        return load_motion_module(file)

    def test_its_own_file_is_that_module_under_the_names_of_animatediff(self, scene, motion, inflate, at):
        assert (motion.spec.generation, motion.spec.trained_frames) == ("hotshotxl", 8)
        changes = {"num_positions": 24, "base_norms_over_frames": True, "motion_norm_over_frames": False}
        assert torch.equal(at(inflate(motion=motion)), at(inflate(motion=scene.motion("sdxl-beta", **changes))))

    def test_it_keeps_the_noise_of_sdxl_itself(self, scene, motion, inflate):
        found, plain = (
            model.get_model_object("model_sampling").sigmas
            for model in (inflate(motion=motion, schedule="auto"), scene.sdxl.model)
        )
        assert_close(found, plain)

    def test_clips_of_eight_frames_and_windows_of_eight(self, sample, motion, inflate, windowed, caplog):
        model = inflate(motion=motion, schedule="auto")
        assert torch.isfinite(sample(model, 8)).all()
        assert torch.isfinite(sample(windowed(model, ContextWindowSettings(8, 2)), 20)).all()
        assert "was trained on clips" not in caplog.text

    def test_more_frames_than_positions_ask_for_windows_of_what_it_was_trained_on(self, sample, motion, inflate):
        with pytest.raises(SettingsError, match="ContextWindow node with length 8"):
            sample(inflate(motion=motion), 25)


class TestBeside:
    def test_its_text_encoder_scores_clips_by_the_projection_that_it_has(self, scene):
        """SDXL's pooled states are CLIP-G's projected ones, which EvaluateAnimation compares pictures with."""
        from motiongraft.host.clip_embeddings import embed_text

        found = embed_text(scene.sdxl.clip, CAT, 32).vector
        ((_, entry),) = scene.host.encode(scene.sdxl.clip, CAT)
        assert torch.equal(found, entry["pooled_output"][0])

    def test_an_image_for_a_module_that_takes_none_is_refused(self, scene):
        from motiongraft.host.image_input import condition_on_image

        with pytest.raises(IncompatibleModelError, match="only a module of PIA"):
            condition_on_image(scene.motion("sdxl-beta"), {"samples": torch.zeros(1, 4, 8, 8)}, "small motion", 0)

    @pytest.mark.parametrize("layout", ["animatediff", "diffusers"])
    def test_a_saved_module_is_the_same_module(self, scene, host, inflate, at, tmp_path, monkeypatch, layout):
        empty_model_folders(host, tmp_path, monkeypatch)
        from motiongraft.host.motion_modules import load_motion_module
        from motiongraft.host.saving import save_motion_module

        path = save_motion_module(scene.motion("sdxl-beta"), "mine", layout, "fp32")
        again = load_motion_module(path)
        assert again.spec == scene.motion("sdxl-beta").spec
        assert torch.equal(at(inflate(motion=again)), at(inflate()))

    def test_every_way_to_sample_gives_one_clip(self, scene, inflate, positive, negative):
        """SampleAnimation, KSampler's function and a custom sampler with a guider."""
        nodes = scene.host.module("comfy_extras.nodes_custom_sampler")
        from motiongraft.host import sampling

        model, latent = inflate(schedule="auto"), {"samples": scene.latent()}
        noise = sampling.frame_noise(latent["samples"], 3, None)
        batch_noise = type("Noise", (), {"seed": 3, "generate_noise": lambda self, _: noise})()
        (guider,) = nodes.CFGGuider.execute(model, positive, negative, 7.5).args
        (sigmas,) = nodes.BasicScheduler.execute(model, "ddim_uniform", 3, 1.0).args
        sampler = scene.host.module("comfy.samplers").sampler_object("euler")
        custom = nodes.SamplerCustomAdvanced.execute(batch_noise, guider, sampler, sigmas, latent).args[0]["samples"]
        shown = []
        preview = type("Preview", (), {"show": lambda self, x0, step, steps: shown.append((x0, step, steps))})()
        settings = (3, 3, 7.5, "euler", "ddim_uniform", 1.0)
        found = sampling.sample_animation(model, positive, negative, latent, *settings, preview=preview)["samples"]
        assert torch.equal(found, custom)
        assert [(step, steps) for _, step, steps in shown] == [(1, 3), (2, 3), (3, 3)]
        assert_close(shown[-1][0], model.model.process_latent_in(found))
