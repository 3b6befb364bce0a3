"""The host of diffusers' UNets: loading without a network, a splice without a trace, gradients under checkpointing."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers", reason="diffusers is not installed (make setup installs it)")

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from motiongraft.core.errors import CheckpointError, HostError, IncompatibleModelError
from motiongraft.standalone import diffusers_stages
from motiongraft.standalone.diffusers_base import base_of, load_base, own_unet, with_zero_terminal_share
from motiongraft.standalone.diffusers_denoiser import DiffusersDenoiser
from motiongraft.standalone.motion_splice import MotionSplice
from motiongraft.tests.helpers.cached_sets import write_toy_cache
from motiongraft.tests.helpers.random_modules import random_module, toy_spec
from motiongraft.tests.helpers.training_runs import quick_settings
from motiongraft.tests.tiny_sd_pack.checkpoints import write_motion_module, write_tiny_sd15, write_tiny_sdxl
from motiongraft.training.batches import TrainingData
from motiongraft.training.cache.cached_clips import TextStates
from motiongraft.training.denoiser import VELOCITY, Conditioning
from motiongraft.training.loss import Objective
from motiongraft.training.noise_schedule import signal_shares

CPU = torch.device("cpu")
STAGES = ("domain adapter", "motion module", "motion LoRA")
FRAMES = 3


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bases")


@pytest.fixture(scope="module")
def checkpoint(folder):
    return write_tiny_sd15(folder / "tiny_sd15.safetensors")


@pytest.fixture(scope="module")
def base(checkpoint):
    return load_base(checkpoint)


@pytest.fixture(scope="module")
def sdxl(folder):
    return load_base(write_tiny_sdxl(folder / "tiny_sdxl.safetensors"))


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    return write_toy_cache(tmp_path_factory.mktemp("caches") / "toy", num_clips=4, frames=FRAMES)


def prepared(base, stage, generation="v3", precision=torch.float32):
    module = random_module(toy_spec(generation))
    if stage == "domain adapter":
        return diffusers_stages.prepare_domain_adapter(base, CPU, precision, 4, 0)
    if stage == "motion module":
        return diffusers_stages.prepare_motion_module(base, CPU, precision, module, "toy")
    return diffusers_stages.prepare_motion_lora(base, CPU, precision, module, "toy", 4, 0)


def shake(trainee):
    """Weights as training leaves them; at its start the gradient of every `down` is zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in trainee.parameters.values():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)


def losses(trainee, denoiser, cached, step=3):
    data = TrainingData(cached, quick_settings(), trainee.single_frames)
    return Objective(trainee.shares).losses(denoiser, data.batch(data.draws(step), denoiser))


def gradients(trainee, denoiser, cached):
    for weight in trainee.parameters.values():
        weight.grad = None
    losses(trainee, denoiser, cached).mean().backward()
    return {name: weight.grad.clone() for name, weight in trainee.parameters.items()}


def told(width=32, clips=1, pooled=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    texts = [TextStates(torch.randn(7, width, generator=generator), pooled) for _ in range(clips)]
    return Conditioning(tuple(texts), ((64, 64),) * clips)


def predict(denoiser, clips=1, frames=FRAMES, dtype=torch.float32, **conditioning):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(clips * frames, 4, 8, 8, generator=generator).to(dtype)
    with torch.no_grad():
        return denoiser.predict(x, torch.arange(clips) * 100 + 5, told(clips=clips, **conditioning), frames)


class TestLoading:
    def test_a_single_file_tells_its_family_sizes_and_scale(self, base, sdxl):
        assert (base.shape.family, base.shape.channels, base.text_width, base.pooled_width) == (
            "SD 1.5",
            (32, 64, 128, 128),
            32,
            None,
        )
        assert (sdxl.shape.family, sdxl.shape.channels, sdxl.text_width, sdxl.pooled_width) == (
            "SDXL",
            (32, 64, 128),
            64,
            32,
        )
        assert (base.latent_scale, sdxl.latent_scale) == (0.18215, 0.13025)

    def test_a_published_width_gets_the_published_heads(self):
        from motiongraft.standalone.unet_topology import _heads

        assert _heads((320, 640, 1280, 1280), "SD 1.5", None) == (8, 8, 8, 8)
        assert _heads((320, 640, 1280), "SDXL", None) == (5, 10, 20)
        assert _heads((64, 128, 128, 128), "SD 1.5", 4) == (4, 4, 4, 4)

    def test_every_weight_of_a_single_file_arrives_once(self, base, checkpoint):
        own = [name for name in load_file(checkpoint) if name.startswith("model.diffusion_model.")]
        assert len(own) == len(base.unet.state_dict())
        assert not any(weight.is_meta or weight.requires_grad for weight in base.unet.parameters())

    def test_a_pickled_checkpoint_and_a_bare_unet_load_as_the_checkpoint(self, base, checkpoint, tmp_path):
        tensors = load_file(checkpoint)
        torch.save({"state_dict": tensors}, tmp_path / "tiny.ckpt")
        prefix = "model.diffusion_model."
        bare = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
        save_file(bare, tmp_path / "unet.safetensors")
        for path in (tmp_path / "tiny.ckpt", tmp_path / "unet.safetensors"):
            found = load_base(path).unet.state_dict()
            assert all(torch.equal(found[name], weight) for name, weight in base.unet.state_dict().items())

    @pytest.mark.parametrize("place", ["pipeline", "unet"])
    def test_a_diffusers_folder_loads_as_the_single_file_it_was_saved_from(self, base, tmp_path, place):
        unet = own_unet(base.unet, dtype=torch.float32)
        unet.save_pretrained(tmp_path / "unet")
        (tmp_path / "scheduler").mkdir()
        schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
        found = load_base(tmp_path if place == "pipeline" else tmp_path / "unet")
        assert found.shape == base.shape
        assert torch.equal(found.alphas, base.alphas)
        assert torch.equal(
            predict(DiffusersDenoiser(found, CPU, torch.float32)), predict(DiffusersDenoiser(base, CPU, torch.float32))
        )

    def test_a_folder_says_what_it_predicts_and_on_which_schedule(self, base, tmp_path):
        own_unet(base.unet).save_pretrained(tmp_path / "unet")
        (tmp_path / "scheduler").mkdir()
        schedule = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
        found = load_base(tmp_path)
        assert found.predicts == VELOCITY
        assert found.alphas[-1] < 1e-6 < base.alphas[-1]
        assert found.alphas[0] == pytest.approx(float(base.alphas[0]))

    def test_a_stretched_schedule_is_that_of_diffusers(self, base):
        from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

        from motiongraft.sampling.beta_schedules import BETA_SCHEDULES

        schedule = BETA_SCHEDULES["linear"]
        betas = torch.linspace(schedule.first**0.5, schedule.last**0.5, 1000, dtype=torch.float64) ** 2
        expected = torch.cumprod(1 - rescale_zero_terminal_snr(betas), 0)
        found = with_zero_terminal_share(signal_shares(schedule))
        assert torch.allclose(found[:-1], expected[:-1], rtol=1e-6)

    def test_a_checkpoint_of_v_prediction_says_so(self, checkpoint, tmp_path):
        save_file({**load_file(checkpoint), "v_pred": torch.zeros(1)}, tmp_path / "v.safetensors")
        assert load_base(tmp_path / "v.safetensors").predicts == VELOCITY

    def test_motion_files_and_missing_ones_are_refused_in_words(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"SD 1.5 or SDXL, found a motion module"):
            load_base(write_motion_module(tmp_path / "mm.safetensors"))
        with pytest.raises(CheckpointError, match="found nothing"):
            load_base(tmp_path / "none.safetensors")
        with pytest.raises(CheckpointError, match=r"config\.json, which is missing"):
            load_base(tmp_path)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ("inpainting", "takes 9 channels"),
            ("sd2", "like Stable Diffusion 2's"),
            ("refiner", "like SDXL's refiner"),
            ("cut", "2 missing"),
            ("foreign", "of another design"),
            ("wide", "1 of another shape"),
            ("fp8", "found float8_e4m3fn"),
            ("edm", "another noise"),
        ],
    )
    def test_a_checkpoint_of_another_design_is_refused_in_words(self, checkpoint, tmp_path, change, words):
        tensors = load_file(checkpoint)
        prefix = "model.diffusion_model."
        attention = [name for name in tensors if name.startswith(prefix) and name.endswith("proj_in.weight")]
        if change == "inpainting":
            tensors[f"{prefix}input_blocks.0.0.weight"] = torch.zeros(32, 9, 3, 3)
        if change == "sd2":
            tensors |= {name: tensors[name].flatten(1) for name in attention}
        if change == "refiner":
            tensors[f"{prefix}label_emb.0.0.weight"] = torch.zeros(128, 64)
        if change == "cut":
            for kind in ("weight", "bias"):
                del tensors[f"{prefix}input_blocks.5.0.out_layers.3.{kind}"]
        if change == "foreign":
            tensors[f"{prefix}input_blocks.1.7.weight"] = torch.zeros(3)
        if change == "wide":
            tensors[f"{prefix}out.0.weight"] = torch.zeros(64)
        if change == "fp8":
            tensors[f"{prefix}out.0.weight"] = tensors[f"{prefix}out.0.weight"].to(torch.float8_e4m3fn)
        if change == "edm":
            tensors["edm_mean"] = torch.zeros(4)
        save_file(tensors, tmp_path / "odd.safetensors")
        with pytest.raises(CheckpointError, match=words):
            load_base(tmp_path / "odd.safetensors")

    def test_a_folder_of_another_model_is_refused_in_words(self, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
        with pytest.raises(CheckpointError, match="a folder of FluxTransformer2DModel"):
            load_base(tmp_path)

    def test_a_unet_that_exists_keeps_its_mode_and_its_gradients(self):
        unet = UNet2DConditionModel(
            block_out_channels=(32, 64),
            cross_attention_dim=16,
            attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ).train()
        found = base_of(unet)
        assert found.shape.channels == (32, 64)
        assert unet.training
        assert all(weight.requires_grad for weight in unet.parameters())
        with torch.no_grad():
            unet.conv_in.weight += 1  # the next step of its own training
        assert torch.equal(found.unet.conv_in.weight, unet.conv_in.weight)


class TestSplice:
    def test_a_module_that_adds_nothing_is_bitwise_the_plain_model(self, base):
        module = random_module(toy_spec("v3"))
        module.zero_outputs()
        plain = predict(DiffusersDenoiser(base, CPU, torch.float32), clips=2)
        assert torch.equal(predict(DiffusersDenoiser(base, CPU, torch.float32, module), clips=2), plain)

    @pytest.mark.parametrize("generation", ["v1", "v2", "v3"])
    def test_motion_is_added_to_a_unet_of_ones_own_alone(self, base, generation):
        plain = DiffusersDenoiser(base, CPU, torch.float32)
        before = predict(plain)
        moving = predict(DiffusersDenoiser(base, CPU, torch.float32, random_module(toy_spec(generation))))
        assert (moving - before).abs().max() > 1e-2
        assert torch.equal(predict(plain), before)
        assert torch.equal(predict(DiffusersDenoiser(base, CPU, torch.float32)), before)

    @pytest.mark.parametrize("generation", ["v1", "v2"])
    def test_a_removed_splice_leaves_no_trace(self, base, generation):
        denoiser = DiffusersDenoiser(base, CPU, torch.float32)
        before, hooks = predict(denoiser), hooks_of(denoiser.unet)
        splice = MotionSplice(denoiser.unet, random_module(toy_spec(generation)))
        assert hooks_of(denoiser.unet) != hooks
        splice.remove()
        assert hooks_of(denoiser.unet) == hooks
        assert torch.equal(predict(denoiser), before)

    def test_clips_in_one_call_do_not_see_each_other(self, base):
        denoiser = DiffusersDenoiser(base, CPU, torch.float32, random_module(toy_spec("v1")))
        x = torch.randn(2 * FRAMES, 4, 8, 8)
        both, times = told(clips=2), torch.tensor([5, 700])
        with torch.no_grad():
            found = denoiser.predict(x, times, both, FRAMES).chunk(2)
            for clip in range(2):
                one = Conditioning(both.texts[clip : clip + 1], both.sizes[:1])
                alone = denoiser.predict(x.chunk(2)[clip], times[clip : clip + 1], one, FRAMES)
                assert torch.allclose(found[clip], alone, atol=1e-5)

    def test_frames_see_each_other_only_through_motion(self, base):
        plain = DiffusersDenoiser(base, CPU, torch.float32)
        assert torch.allclose(predict(plain, frames=4)[:1], predict(plain, frames=1)[:1], atol=1e-5)

    def test_a_unet_called_without_frames_says_so(self, base):
        denoiser = DiffusersDenoiser(base, CPU, torch.float32, random_module(toy_spec("v3")))
        with pytest.raises(HostError, match="its frames are unknown"):
            denoiser.unet(torch.zeros(2, 4, 8, 8), 5, encoder_hidden_states=torch.zeros(2, 7, 32))

    def test_an_exception_in_a_call_leaves_nothing_behind(self, base):
        denoiser = DiffusersDenoiser(base, CPU, torch.float32, random_module(toy_spec("v1")))
        denoiser.checkpointing = True
        before, layers = predict(denoiser), list(denoiser.unet.modules())
        with pytest.raises(RuntimeError):
            denoiser.predict(torch.zeros(3, 4, 8, 8), torch.tensor([5]), told(width=31), 3)
        assert list(denoiser.unet.modules()) == layers
        assert torch.equal(predict(denoiser), before)

    def test_a_module_for_another_base_is_refused_in_words(self, base, sdxl):
        with pytest.raises(IncompatibleModelError, match=r"toy is for SDXL: 3 levels .* has 4 levels"):
            DiffusersDenoiser(base, CPU, torch.float32, random_module(toy_spec("sdxl-beta")), "toy")
        with pytest.raises(IncompatibleModelError, match=r"toy is for SD 1\.5"):
            DiffusersDenoiser(sdxl, CPU, torch.float32, random_module(toy_spec("v3")), "toy")
        wide = random_module(replace(toy_spec("v3"), down_channels=(32, 64, 64, 128)))
        with pytest.raises(IncompatibleModelError, match=r"64 wide at down_blocks\.2, .* has 128"):
            DiffusersDenoiser(base, CPU, torch.float32, wide, "toy")

    def test_sdxl_is_told_its_pooled_text_and_sizes(self, sdxl):
        denoiser = DiffusersDenoiser(sdxl, CPU, torch.float32)
        first = predict(denoiser, width=64, pooled=torch.zeros(32))
        assert (predict(denoiser, width=64, pooled=torch.ones(32)) - first).abs().max() > 1e-3
        with pytest.raises(IncompatibleModelError, match="pooled"):
            predict(denoiser, width=64)


class TestGradients:
    @pytest.mark.parametrize(
        ("stage", "generation"), [*((stage, "v3") for stage in STAGES), ("motion LoRA", "v1"), ("motion module", "v2")]
    )
    def test_checkpointing_leaves_gradients_equal_bit_for_bit(self, base, cached, stage, generation):
        trainee, denoiser = prepared(base, stage, generation)
        shake(trainee)
        kept = gradients(trainee, denoiser, cached)
        denoiser.checkpointing = True
        again = gradients(trainee, denoiser, cached)
        assert all(torch.equal(kept[name], grad) for name, grad in again.items())
        assert any(float(grad.abs().max()) > 0 for grad in again.values())

    def test_checkpointing_remembers_the_frames_of_a_call_when_another_follows(self, base, cached):
        """Two forward passes of different lengths before one backward pass."""
        trainee, denoiser = prepared(base, "motion LoRA", "v1")
        shake(trainee)

        def gradient():
            for weight in trainee.parameters.values():
                weight.grad = None
            long = denoiser.predict(torch.ones(4, 4, 8, 8), torch.tensor([5]), told(), 4)
            short = denoiser.predict(torch.ones(4, 4, 8, 8), torch.tensor([5, 9]), told(clips=2), 2)
            (long.square().mean() + short.square().mean()).backward()
            return [weight.grad.clone() for weight in trainee.parameters.values()]

        kept = gradient()
        denoiser.checkpointing = True
        assert all(torch.equal(one, other) for one, other in zip(kept, gradient(), strict=True))

    def test_checkpointing_keeps_less(self, base, cached):
        from motiongraft.training.memory_plan import kept_bytes

        trainee, denoiser = prepared(base, "motion module")
        kept = []
        for denoiser.checkpointing in (False, True):
            kept.append(kept_bytes(lambda: losses(trainee, denoiser, cached)))
        assert kept[1] < kept[0] / 4

    @pytest.mark.parametrize("stage", STAGES)
    def test_no_other_weight_gets_a_gradient(self, base, cached, stage):
        trainee, denoiser = prepared(base, stage)
        gradients(trainee, denoiser, cached)
        assert all(weight.grad is None for weight in base.unet.parameters())
        assert all(weight.grad is None for weight in denoiser.unet.parameters())
        assert all(weight.grad is not None for weight in trainee.parameters.values())

    @pytest.mark.parametrize("stage", STAGES)
    def test_mixed_precision_trains_float32_weights_on_a_half_base(self, base, cached, stage):
        trainee, denoiser = prepared(base, stage, precision=torch.bfloat16)
        shake(trainee)
        exact, exact_denoiser = prepared(base, stage)
        shake(exact)
        found, expected = gradients(trainee, denoiser, cached), gradients(exact, exact_denoiser, cached)
        largest = max(float(grad.abs().max()) for grad in expected.values())
        for name, grad in found.items():
            assert grad.dtype == torch.float32
            assert float((grad - expected[name]).abs().max()) < 0.1 * largest, name

    def test_stage_one_starts_from_the_unchanged_base(self, base):
        _, denoiser = prepared(base, "domain adapter")
        assert torch.equal(predict(denoiser), predict(DiffusersDenoiser(base, CPU, torch.float32)))

    def test_attention_layers_have_published_stems(self, base):
        layers = diffusers_stages.attention_layers(base.unet)
        assert len(layers) == 16 * 2 * 4
        stem = "mid_block.attentions.0.transformer_blocks.0.attn2.processor"
        assert layers[f"{stem}.to_out"] is base.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_out[0]
        assert layers[f"{stem}.to_k"].in_features == 32
        with pytest.raises(IncompatibleModelError):
            diffusers_stages.attention_layers(base.unet.conv_in)


def hooks_of(unet):
    return [(len(layer._forward_hooks), len(layer._forward_pre_hooks)) for layer in unet.modules()]


def test_memory_of_this_machine_is_known(base):
    assert 2**20 < DiffusersDenoiser(base, CPU, torch.float32).free_memory() < 2**50
