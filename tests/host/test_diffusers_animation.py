"""A clip without ComfyUI against ComfyUI's own: text states, sampling with windows and LoRAs, pictures."""

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("diffusers", reason="diffusers is not installed (make setup installs it)")

from motiongraft.core.tensor_files import read_tensor_file
from motiongraft.lora.motion_lora import read_motion_lora
from motiongraft.sampling.beta_schedules import BETA_SCHEDULES
from motiongraft.sampling.context_windows import ContextWindowSettings
from motiongraft.standalone.animation import AnimationSettings, Prompts, animate
from motiongraft.standalone.autoencoders import load_autoencoder
from motiongraft.standalone.diffusers_base import load_base
from motiongraft.standalone.diffusers_denoiser import DiffusersDenoiser
from motiongraft.standalone.motion_files import (
    add_motion_lora,
    load_domain_adapter,
    load_motion_lora,
    load_motion_module,
    with_domain_adapter,
)
from motiongraft.standalone.text_encoders import load_prompt_encoder
from motiongraft.tests.helpers.random_modules import random_module, toy_spec
from motiongraft.tests.tiny_sd_pack.checkpoints import write_domain_adapter, write_motion_lora
from motiongraft.training.noise_schedule import signal_shares

CPU = torch.device("cpu")
RELATIVE = 1e-3  # float32, some hundred layers for each of several steps
PROMPTS = ("a cat on the moon", "blurry")
LONG = "a slow pan over " + "a very long street with many small houses and a river " * 12


@pytest.fixture(scope="module")
def files(scene, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return {
        "sd15": scene.folder / "tiny.safetensors",
        "sdxl": scene.folder / "tiny_sdxl.safetensors",
        "adapter": write_domain_adapter(folder / "adapter.safetensors"),
        "lora": write_motion_lora(folder / "lora.safetensors"),
        "tokenizer": scene.host.path / "comfy" / "sd1_tokenizer",
    }


def checkpoint_of(scene, family):
    return scene.sdxl if family == "sdxl" else scene.checkpoint


def encoder_of(files, family):
    return load_prompt_encoder(files[family], {"sd15": "SD 1.5", "sdxl": "SDXL"}[family], files["tokenizer"], CPU)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("prompt", [*PROMPTS, "", "It's 4 o'clock, (really)!"])
def test_text_states_are_comfyuis(scene, files, family, prompt):
    from motiongraft.host.caching import literal

    ((expected, details),) = scene.host.encode(checkpoint_of(scene, family).clip, literal(prompt))
    found = encoder_of(files, family).encode(prompt)
    assert found.states.shape == expected[0].shape
    assert torch.allclose(found.states, expected[0].float().cpu(), atol=1e-4)
    if family == "sdxl":
        assert torch.allclose(found.pooled, details["pooled_output"][0].float().cpu(), atol=1e-4)


def test_a_long_prompt_has_as_many_sections_as_in_comfyui(scene, files):
    ((expected, _),) = scene.host.encode(scene.checkpoint.clip, LONG)
    found = encoder_of(files, "sd15").encode(LONG)
    assert found.states.shape == expected[0].shape
    assert torch.allclose(found.states[:77], expected[0][:77].float(), atol=1e-4)


def test_pictures_are_comfyuis(scene, files):
    for family in ("sd15", "sdxl"):
        checkpoint = checkpoint_of(scene, family)
        latents = torch.randn(3, 4, 8, 6)
        base = load_base(files[family])
        found = load_autoencoder(files[family], base.latent_scale, CPU).decode(latents * base.latent_scale)
        expected = checkpoint.vae.decode(latents)
        assert (found.float() / 255 - expected.cpu()).abs().max() < 1 / 255 + 1e-3


def test_pictures_of_a_published_autoencoder_are_comfyuis(scene, tmp_path):
    """Of the design that real checkpoints hold, at toy width."""
    sizes = {
        "double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    theirs = scene.host.module("comfy.ldm.models.autoencoder").AutoencoderKL(embed_dim=4, ddconfig=sizes)
    generator = torch.Generator().manual_seed(0)
    for weight in theirs.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.data = 1 + 0.1 * noise if weight.ndim == 1 else noise * weight[0].numel() ** -0.5
    tensors = {f"first_stage_model.{name}": tensor for name, tensor in theirs.state_dict().items()}
    save_file(tensors, tmp_path / "vae.safetensors")
    ours = load_autoencoder(tmp_path / "vae.safetensors", 0.5, CPU)
    latents = torch.randn(2, 4, 6, 5, generator=generator)
    with torch.no_grad():
        expected = theirs.decode(latents)
        found = ours.module.decode(latents).sample
    assert (found - expected).abs().max() < 1e-5 * max(1, expected.abs().max())
    pictures = ours.decode(latents * 0.5)
    assert (pictures.float() - (expected.clamp(-1, 1) + 1).permute(0, 2, 3, 1) * 127.5).abs().max() <= 0.6


def prompts_of(files, family):
    encoder = encoder_of(files, family)
    return Prompts(*(encoder.encode(prompt) for prompt in PROMPTS))


def conditionings(scene, family):
    clip = checkpoint_of(scene, family).clip
    return [scene.host.encode(clip, prompt) for prompt in PROMPTS]


def on_comfyui(scene, family, model, settings):
    from motiongraft.host.sampling import frame_noise
    from motiongraft.host.windows import set_context_window

    if settings.is_windowed:
        model = set_context_window(model, settings.windows)
    latent = torch.zeros(settings.frames, 4, settings.height // 8, settings.width // 8)
    positive, negative = conditionings(scene, family)
    sampled = scene.host.module("comfy.sample").sample(
        model, frame_noise(latent, settings.seed, None), settings.steps, settings.cfg, "euler", "normal",
        positive, negative, latent, disable_pbar=True, seed=settings.seed,
    )  # fmt: skip
    return model.model.process_latent_in(sampled)


def assert_same(found, expected):
    difference = float((found - expected).abs().max())
    assert difference < RELATIVE * float(expected.abs().max()), difference


@pytest.mark.parametrize(
    ("generation", "windows"),
    [
        ("v1", None),
        ("v3", ContextWindowSettings(4, 1)),
        ("v2", ContextWindowSettings(4, 2, 2, "looped", "flat", True)),
        ("v3", ContextWindowSettings(4, 1, 1, "static", "relative", freenoise=False)),
        ("sdxl-beta", None),
    ],
)
def test_a_clip_is_comfyuis(scene, files, generation, windows):
    from motiongraft.host.inflate import inflate_model
    from motiongraft.host.motion_modules import load_motion_module as load_on_comfyui

    family = "sdxl" if generation == "sdxl-beta" else "sd15"
    frames = 4 if windows is None else 9
    settings = AnimationSettings(frames, 64, 80, 3, 7.5, 42, "euler", windows or ContextWindowSettings())
    path = scene.save(quiet(random_module(toy_spec(generation))), f"quiet-{generation}")
    model = inflate_model(checkpoint_of(scene, family).model, load_on_comfyui(path), "auto")
    base, module = load_base(files[family]), load_motion_module(path)
    denoiser = DiffusersDenoiser(base, CPU, torch.float32, module)
    shares = signal_shares(BETA_SCHEDULES[module.spec.beta_schedule])
    found = animate(denoiser, shares, prompts_of(files, family), settings)
    assert_same(found, on_comfyui(scene, family, model, settings))


def test_loras_and_adapters_change_a_clip_as_they_do_in_comfyui(scene, files):
    from motiongraft.host.inflate import inflate_model
    from motiongraft.host.loras import apply_domain_adapter, apply_motion_lora
    from motiongraft.host.motion_modules import load_motion_module as load_on_comfyui

    settings = AnimationSettings(4, 64, 64, 2, 5.0, 7, "euler")
    path = scene.save(quiet(random_module(toy_spec("v3"))), "quiet-v3")
    adapted = apply_domain_adapter(scene.model, read_tensor_file(files["adapter"]), 0.7)
    motion = apply_motion_lora(load_on_comfyui(path), read_motion_lora(read_tensor_file(files["lora"])), -0.5)
    expected = on_comfyui(scene, "sd15", inflate_model(adapted, motion, "auto"), settings)

    module = load_motion_module(path)
    shares, prompts = signal_shares(BETA_SCHEDULES["animatediff"]), prompts_of(files, "sd15")
    plain = animate(DiffusersDenoiser(load_base(files["sd15"]), CPU, torch.float32, module), shares, prompts, settings)
    add_motion_lora(module, load_motion_lora(files["lora"]), -0.5)
    base = with_domain_adapter(load_base(files["sd15"]), load_domain_adapter(files["adapter"]), 0.7)
    found = animate(DiffusersDenoiser(base, CPU, torch.float32, module), shares, prompts, settings)
    assert (found - plain).abs().max() > 1e-2 * plain.abs().max()
    # ComfyUI rounds the changed weights of this float16 checkpoint to float16 as well.
    assert_same(found, expected)


def quiet(module):
    """Weights whose motion does not drown the picture, as a trained module's."""
    for address, _ in module.spec.sites():
        for parameter in module.at(address).proj_out.parameters():
            parameter.mul_(0.2)
    return module
