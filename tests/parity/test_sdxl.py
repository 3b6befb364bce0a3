"""SDXL in ComfyUI's own UNet against diffusers' AnimateDiffSDXLPipeline, on the same random weights.

True for diffusers 0.42. What SDXL is told beside the text, its pooled states, sizes and crops, goes one way to ComfyUI,
in a CONDITIONING, and another to the pipeline, in its arguments.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (make setup installs it)")

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: E402
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # noqa: E402
from diffusers.models.unets.unet_motion_model import MotionAdapter, UNetMotionModel  # noqa: E402
from diffusers.pipelines.animatediff.pipeline_animatediff_sdxl import AnimateDiffSDXLPipeline  # noqa: E402
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler  # noqa: E402

from motiongraft.core.tensor_files import write_tensor_file  # noqa: E402
from motiongraft.tests.helpers.comparison import assert_close, assert_differs  # noqa: E402
from motiongraft.tests.helpers.host_models import model_of_unet, predict_noise  # noqa: E402
from motiongraft.tests.helpers.random_modules import randomise  # noqa: E402
from motiongraft.tests.tiny_sd_pack.model_folders import SDXL_CHECKPOINT  # noqa: E402
from motiongraft.tests.tiny_sd_pack.unet_weights import SDXL  # noqa: E402

pytestmark = pytest.mark.host

FRAMES, HEIGHT, WIDTH = 16, 64, 96
POOLED = 32
SITES = 15
AFTER_FOUR_STEPS = 3e-5
"""Of the largest value: guidance enlarges the differences of both predictions, and steps add them up."""
KEY = "motiongraft.0"
UNET = {
    "block_out_channels": SDXL.channels,
    "cross_attention_dim": SDXL.context_width,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (1, 1, 2),  # which diffusers reads as the number of heads: 64 channels each, as in SDXL
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": SDXL.label_width,
}
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.020, "beta_schedule": "scaled_linear"}
"""Source: guoyww/AnimateDiff, branch `sdxl`, configs/inference/inference.yaml."""
PUBLISHED_SPACING = {"timestep_spacing": "leading", "steps_offset": 1}
"""Source: the same branch, scripts/animate.py."""
SIZES = {"width": 768, "height": 512, "crop_w": 24, "crop_h": 8, "target_width": 1344, "target_height": 832}
OTHER_SIZES = {"width": 640, "height": 1024, "crop_w": 0, "crop_h": 48, "target_width": 832, "target_height": 1216}

SCHEDULERS_WARNING = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
"""Of EulerDiscreteScheduler on numpy 2."""


def own_unet(middle=False):
    """diffusers' motion UNet, put together as its pipeline does it from a plain SDXL UNet and a motion adapter."""
    plain = randomise(UNet2DConditionModel(**UNET), seed=1)
    adapter = MotionAdapter(block_out_channels=SDXL.channels, use_motion_mid_block=middle)
    return UNetMotionModel.from_unet2d(plain, randomise(adapter, seed=2)).eval().requires_grad_(False)


def weights_of(unet):
    """The weights of the base and those of the motion modules."""
    weights = unet.state_dict()
    return ({name: t for name, t in weights.items() if ("motion_modules" in name) == own} for own in (False, True))


@pytest.fixture(scope="module")
def theirs():
    return own_unet()


@pytest.fixture
def inflated(host, tmp_path):
    """ComfyUI's SDXL with the weights of one of diffusers' motion UNets."""
    from motiongraft.host.inflate import inflate_model
    from motiongraft.host.motion_modules import load_motion_module

    def inflate(unet, generation="auto", schedule="auto"):
        base, motion = weights_of(unet)
        write_tensor_file(tmp_path / "motion.safetensors", motion, {})
        plain = model_of_unet(host, base, SDXL.multipliers, SDXL.depths)
        return inflate_model(plain, load_motion_module(tmp_path / "motion.safetensors", generation), schedule)

    return inflate


@pytest.fixture(scope="module")
def clip(host):
    """The tiny SDXL's two text encoders."""
    return host.load_checkpoint(host.base_directory / "models" / "checkpoints" / SDXL_CHECKPOINT).clip


def random_conditioning(seed, sizes):
    """CONDITIONING of one prompt, from no text encoder."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(1, 77, SDXL.context_width, generator=generator)
    return [[states, {"pooled_output": torch.randn(1, POOLED, generator=generator), **sizes}]]


def time_ids(entry):
    """The six numbers in the order in which diffusers' pipeline joins original_size, crops and target_size."""
    height, width = entry.get("height", HEIGHT), entry.get("width", WIDTH)
    target = entry.get("target_height", height), entry.get("target_width", width)
    return [height, width, entry.get("crop_h", 0), entry.get("crop_w", 0), *target]


def labels_of(clips):
    """What the pipeline hands to its UNet beside the text states: one row for each clip."""
    pooled = torch.cat([entry["pooled_output"] for ((_, entry),) in clips])
    return {"text_embeds": pooled, "time_ids": torch.tensor([time_ids(entry) for ((_, entry),) in clips]).float()}


def noisy(num_frames=FRAMES):
    return torch.randn(num_frames, 4, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(3))


def expected_noise(unet, x, timestep, clips):
    """What diffusers predicts for clips in one batch, called as its pipeline calls it. Shapes: -> `b f c h w`"""
    states = torch.cat([entry[0] for (entry,) in clips]).repeat_interleave(len(x), dim=0)
    with torch.inference_mode():
        both = x.transpose(0, 1).expand(len(clips), -1, -1, -1, -1)
        found = unet(both, timestep, encoder_hidden_states=states, added_cond_kwargs=labels_of(clips))
    return found.sample.transpose(1, 2)


def assert_same_prediction(host, model, unet, clips, timestep=407):
    x = noisy()
    found = torch.stack(predict_noise(host, model, x, timestep, *clips))
    assert_close(found, expected_noise(unet, x, timestep, clips))
    assert_differs(found[0], found[1])


@pytest.mark.parametrize("middle", [False, True])
@pytest.mark.parametrize("generation", ["diffusers", "sdxl-beta", "auto"])
def test_two_clips_in_one_batch_equal_those_of_diffusers_motion_unet(host, inflated, generation, middle):
    """diffusers takes the motion norm over all frames; so do the SDXL beta and what diffusers trains."""
    unet = own_unet(middle)
    clips = [random_conditioning(seed, sizes) for seed, sizes in ((4, SIZES), (5, OTHER_SIZES))]
    assert_same_prediction(host, inflated(unet, generation), unet, clips)


@pytest.mark.parametrize("middle", [False, True])
def test_all_fifteen_sites_are_spliced_and_the_middle_if_the_file_has_one(host, inflated, middle):
    model, ran = inflated(own_unet(middle)), []
    module = model.get_additional_models_with_key(KEY)[0].model
    for address, _ in module.spec.sites():
        module.at(address).register_forward_hook(lambda *_, address=address: ran.append(address.prefix))
    predict_noise(host, model, noisy(), 407, random_conditioning(4, SIZES))
    expected = [f"down_blocks.{level}.motion_modules.{layer}" for level in range(3) for layer in range(2)]
    expected += ["mid_block.motion_modules.0"] * middle
    expected += [f"up_blocks.{level}.motion_modules.{layer}" for level in range(3) for layer in range(3)]
    assert [name.removesuffix(".temporal_transformer") for name in ran] == expected
    assert len(expected) == SITES + middle


def test_every_site_counts(host, inflated, theirs):
    """A transformer that adds nothing changes the prediction, wherever it is."""
    model, x, conditioning = inflated(theirs), noisy(), random_conditioning(4, SIZES)
    module = model.get_additional_models_with_key(KEY)[0].model
    (whole,) = predict_noise(host, model, x, 407, conditioning)
    for address, _ in module.spec.sites():
        handle = module.at(address).register_forward_hook(lambda _, given, __: given[0])
        (found,) = predict_noise(host, model, x, 407, conditioning)
        handle.remove()
        assert_differs(found, whole)


class TestSizes:
    """The sizes and crops that SDXL was trained with reach the inflated UNet, of each clip its own."""

    def encoded(self, host, clip, text, sizes):
        node = host.module("comfy_extras.nodes_clip_sdxl").CLIPTextEncodeSDXL
        return node.execute(clip, text_g=text, text_l=text, **sizes).args[0]

    def test_those_of_clip_text_encode_sdxl_are_diffusers_time_ids(self, host, inflated, theirs, clip):
        clips = [
            self.encoded(host, clip, text, sizes)
            for text, sizes in (("a boat on a lake", SIZES), ("blurry", OTHER_SIZES))
        ]
        assert_same_prediction(host, inflated(theirs), theirs, clips)

    def test_a_plain_prompt_is_told_the_size_of_the_clip(self, host, inflated, theirs, clip):
        """As the pipeline takes height and width where no sizes are given."""
        clips = [host.encode(clip, text) for text in ("a boat on a lake", "blurry")]
        assert time_ids(clips[0][0][1]) == [HEIGHT, WIDTH, 0, 0, HEIGHT, WIDTH]
        assert_same_prediction(host, inflated(theirs), theirs, clips)

    def test_every_frame_of_a_clip_gets_its_label_and_no_other(self, host, inflated, theirs, clip):
        """The label is the pooled text and six numbers of 256 features each, in diffusers' order."""
        seen = []

        def record(executor, x, timesteps, context, y, control, options, **kwargs):
            seen.extend(zip(options["cond_or_uncond"], y.chunk(len(options["cond_or_uncond"])), strict=True))
            return executor(x, timesteps, context, y, control, options, **kwargs)

        model = inflated(theirs)
        model.add_wrapper_with_key("diffusion_model", "record", record)
        clips = [self.encoded(host, clip, text, sizes) for text, sizes in (("a boat", SIZES), ("", OTHER_SIZES))]
        predict_noise(host, model, noisy(), 407, *clips)
        assert sorted(index for index, _ in seen) == [0, 1]
        labels = labels_of(clips)
        numbers = theirs.add_time_proj(labels["time_ids"].flatten()).view(2, -1)
        expected = torch.cat([labels["text_embeds"], numbers], dim=1)
        for index, rows in seen:
            assert rows.shape == (FRAMES, SDXL.label_width)
            assert_close(rows, expected[index].expand(FRAMES, -1))

    @pytest.mark.parametrize("name", SIZES)
    def test_each_of_the_six_numbers_counts(self, host, inflated, theirs, name):
        model, x = inflated(theirs), noisy()
        clips = [random_conditioning(4, sizes) for sizes in (SIZES, {**SIZES, name: SIZES[name] + 400})]
        first, second = predict_noise(host, model, x, 407, *clips)
        assert_differs(first, second)


class TestSchedule:
    """The SDXL beta's noise, and the steps that its authors take through it."""

    def sampling(self, inflated, theirs):
        return inflated(theirs, "sdxl-beta").get_model_object("model_sampling")

    def test_sigmas_are_those_of_diffusers_euler_scheduler(self, inflated, theirs):
        passed = EulerDiscreteScheduler(**SCHEDULE).alphas_cumprod
        found = self.sampling(inflated, theirs).sigmas
        assert_close(found, ((1 - passed) / passed).sqrt())
        assert found[-1] == pytest.approx(65.9, abs=0.05)

    @SCHEDULERS_WARNING
    @pytest.mark.parametrize("steps", [25, 40, 50, 100])
    def test_ddim_uniform_takes_the_published_steps(self, host, inflated, theirs, steps):
        scheduler = EulerDiscreteScheduler(**SCHEDULE, **PUBLISHED_SPACING)
        scheduler.set_timesteps(steps)
        sampling = self.sampling(inflated, theirs)
        found = host.module("comfy.samplers").calculate_sigmas(sampling, "ddim_uniform", steps)
        assert_close(found, scheduler.sigmas)
        assert_close(sampling.timestep(found[:-1]), scheduler.timesteps)


@SCHEDULERS_WARNING
def test_a_clip_equals_that_of_the_whole_pipeline(host, inflated, theirs):
    """Guidance, micro-conditioning of both prompts, noise schedule and Euler's steps: SampleAnimation's way of each."""
    from motiongraft.host import sampling

    settings = {"steps": 4, "cfg": 7.5, "sampler_name": "euler", "scheduler": "ddim_uniform", "denoise": 1.0}
    positive, negative = random_conditioning(4, SIZES), random_conditioning(5, OTHER_SIZES)
    model = inflated(theirs, "sdxl-beta")
    latent = {"samples": torch.zeros(FRAMES, 4, HEIGHT // 8, WIDTH // 8)}
    unseen = SimpleNamespace(show=lambda *_: None)
    found = sampling.sample_animation(model, positive, negative, latent, 7, preview=unseen, **settings)["samples"]

    scheduler = EulerDiscreteScheduler(**SCHEDULE, **PUBLISHED_SPACING)
    scheduler.set_timesteps(settings["steps"])
    # diffusers makes the first noise sqrt(σ² + 1) large, ComfyUI σ, where a schedule does not begin at its largest.
    first = scheduler.sigmas[0] / scheduler.init_noise_sigma
    noise = sampling.frame_noise(latent["samples"], 7, None) * first
    expected = pipeline_around(theirs)(
        **prompts_of(positive, negative), latents=noise.transpose(0, 1)[None], num_inference_steps=settings["steps"]
    )
    in_model = model.model.process_latent_in(found)
    assert_close(in_model, expected.frames[0].transpose(0, 1), AFTER_FOUR_STEPS)


def pipeline_around(unet):
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    parts: dict[str, Any] = {
        **dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "motion_adapter")),
        "vae": AutoencoderKL.from_config({"block_out_channels": (32,) * 4, **blocks}),
        "unet": unet,
        "scheduler": EulerDiscreteScheduler(**SCHEDULE, **PUBLISHED_SPACING),
    }
    pipeline = AnimateDiffSDXLPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def prompts_of(positive, negative):
    """The pipeline's arguments for two of ComfyUI's conditionings."""
    arguments = {"num_frames": FRAMES, "height": HEIGHT, "width": WIDTH, "guidance_scale": 7.5, "output_type": "latent"}
    for prefix, ((states, entry),) in (("", positive), ("negative_", negative)):
        height, width, top, left, target_height, target_width = time_ids(entry)
        arguments |= {
            f"{prefix}prompt_embeds": states,
            f"{prefix}pooled_prompt_embeds": entry["pooled_output"],
            f"{prefix}original_size": (height, width),
            f"{prefix}crops_coords_top_left": (top, left),
            f"{prefix}target_size": (target_height, target_width),
        }
    return arguments


def with_hotshots_norms(unet):
    """diffusers' motion UNet with the norms of HotshotXL: the base's over all frames, those of motion frame by frame.

    Source: hotshotco/Hotshot-XL resnet.py, transformer_temporal.py and unet.py.
    """

    def over_frames(norm, x):
        clips = x.view(-1, FRAMES, *x.shape[1:]).transpose(1, 2)
        normed = F.group_norm(clips, norm.num_groups, norm.weight, norm.bias, norm.eps)
        return normed.transpose(1, 2).reshape(x.shape)

    def by_frame(norm, x):
        frames = x.transpose(1, 2).flatten(0, 1)
        normed = F.group_norm(frames, norm.num_groups, norm.weight, norm.bias, norm.eps)
        return normed.view(-1, FRAMES, *normed.shape[1:]).transpose(1, 2)

    for name, layer in unet.named_modules():
        if isinstance(layer, torch.nn.GroupNorm):
            in_motion, in_spatial_attention = "motion_modules" in name, ".attentions." in name
            if in_motion or not in_spatial_attention:
                layer.forward = partial(by_frame if in_motion else over_frames, layer)
    return unet


def test_hotshotxl_equals_diffusers_motion_unet_with_its_norms(host, inflated):
    unet = own_unet()
    model = inflated(unet, "hotshotxl")
    clips = [random_conditioning(seed, sizes) for seed, sizes in ((4, SIZES), (5, OTHER_SIZES))]
    before = expected_noise(unet, noisy(), 407, clips)
    assert_same_prediction(host, model, with_hotshots_norms(unet), clips)
    assert_differs(expected_noise(unet, noisy(), 407, clips), before)
