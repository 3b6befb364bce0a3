"""The same toy checkpoint through diffusers' UNet and through ComfyUI's: the same predictions, the same gradients."""

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers", reason="diffusers is not installed (make setup installs it)")

from motiongraft.standalone.diffusers_base import load_base
from motiongraft.tests.helpers.cached_sets import write_toy_cache
from motiongraft.tests.helpers.random_modules import random_module, toy_spec
from motiongraft.tests.helpers.training_runs import quick_settings
from motiongraft.training.batches import TrainingData
from motiongraft.training.denoiser import VELOCITY
from motiongraft.training.loss import Objective

STAGES = ("domain adapter", "motion module", "motion LoRA")
TOLERANCE = 1e-4  # float32, two hundred layers in another order of operations, weights of a toy in float16
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches")
    return {
        "sd15": write_toy_cache(folder / "sd15", num_clips=4, frames=4),
        "sdxl": write_toy_cache(folder / "sdxl", num_clips=4, frames=4, width=12, text_width=64, pooled_width=32),
    }


def module_of(generation):
    return random_module(toy_spec(generation))


def on_comfyui(scene, model, stage, module):
    from motiongraft.host import stages
    from motiongraft.host.training_base import copy_base, place_on_device

    base = copy_base(model)
    place_on_device(base, torch.float32)
    if stage == "domain adapter":
        return stages.prepare_domain_adapter(base, torch.float32, 4, 0)
    if stage == "motion module":
        return stages.prepare_motion_module(base, torch.float32, module, "toy")
    return stages.prepare_motion_lora(base, torch.float32, module, "toy", 4, 0)


def on_diffusers(path, stage, module):
    from motiongraft.standalone import diffusers_stages as stages

    base = load_base(path)
    if stage == "domain adapter":
        return stages.prepare_domain_adapter(base, CPU, torch.float32, 4, 0)
    if stage == "motion module":
        return stages.prepare_motion_module(base, CPU, torch.float32, module, "toy")
    return stages.prepare_motion_lora(base, CPU, torch.float32, module, "toy", 4, 0)


def shake(trainee):
    """Weights as training leaves them; at its start the gradient of every `down` is zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in trainee.parameters.values():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)


def batch_of(cached, trainee, denoiser):
    data = TrainingData(cached, quick_settings(), trainee.single_frames)
    return data.batch(data.draws(3), denoiser)


def predictions(prepared, cached):
    trainee, denoiser = prepared
    batch = batch_of(cached, trainee, denoiser)
    with torch.no_grad():
        return denoiser.predict(batch.latents, batch.timesteps, batch.conditioning, batch.num_frames)


def gradients(trainee, denoiser, cached):
    Objective(trainee.shares).losses(denoiser, batch_of(cached, trainee, denoiser)).mean().backward()
    return {name: weight.grad for name, weight in trainee.parameters.items()}


@pytest.mark.parametrize("generation", ["v1", "v2", "v3", "sdxl-beta"])
def test_predictions_equal_those_on_comfyui(scene, caches, generation):
    family = "sdxl" if generation == "sdxl-beta" else "sd15"
    model = scene.sdxl.model if family == "sdxl" else scene.model
    path = scene.folder / ("tiny_sdxl.safetensors" if family == "sdxl" else "tiny.safetensors")
    theirs = predictions(on_comfyui(scene, model, "motion module", module_of(generation)), caches[family])
    ours = predictions(on_diffusers(path, "motion module", module_of(generation)), caches[family])
    assert float((ours - theirs).abs().max()) < TOLERANCE * float(theirs.abs().max())


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("stage", STAGES)
def test_gradients_equal_those_on_comfyui(scene, caches, stage, family):
    generation = {"sd15": "v2", "sdxl": "sdxl-beta"}[family]
    model = scene.sdxl.model if family == "sdxl" else scene.model
    path = scene.folder / ("tiny_sdxl.safetensors" if family == "sdxl" else "tiny.safetensors")
    found = []
    for trainee, denoiser in (
        on_comfyui(scene, model, stage, module_of(generation)),
        on_diffusers(path, stage, module_of(generation)),
    ):
        shake(trainee)
        found.append((gradients(trainee, denoiser, caches[family]), trainee))
    (theirs, _), (ours, _) = found
    assert ours.keys() == theirs.keys()
    largest = max(float(grad.abs().max()) for grad in theirs.values())
    for name, grad in theirs.items():
        assert float((ours[name] - grad).abs().max()) < TOLERANCE * largest, name


def test_both_hosts_publish_a_domain_adapter_under_the_same_names(scene):
    theirs, _ = on_comfyui(scene, scene.model, "domain adapter", None)
    ours, _ = on_diffusers(scene.folder / "tiny.safetensors", "domain adapter", None)
    published = [
        each.publish({name: weight.detach() for name, weight in each.parameters.items()}) for each in (ours, theirs)
    ]
    assert list(published[0]) == list(published[1])
    assert all(torch.equal(published[0][name], tensor) for name, tensor in published[1].items())


def test_a_base_of_v_prediction_with_zero_terminal_snr_is_the_same_on_both(scene, caches, tmp_path):
    assert scene.sdxl
    said = {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}
    path = tmp_path / "v.safetensors"
    save_file({**load_file(scene.folder / "tiny_sdxl.safetensors"), **said}, path)
    model = scene.host.load_checkpoint(path).model
    trainees, found = [], []
    for trainee, denoiser in (
        on_comfyui(scene, model, "motion module", module_of("sdxl-beta")),
        on_diffusers(path, "motion module", module_of("sdxl-beta")),
    ):
        assert denoiser.predicts == VELOCITY
        trainees.append((trainee.shares, denoiser.base_alphas))
        found.append(gradients(trainee, denoiser, caches["sdxl"]))
    for theirs, ours in zip(*trainees, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)
        assert ours[-1] < 1e-6
    largest = max(float(grad.abs().max()) for grad in found[0].values())
    assert all(float((found[1][name] - grad).abs().max()) < TOLERANCE * largest for name, grad in found[0].items())


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_both_hosts_see_the_same_base(scene, family):
    from motiongraft.host.denoiser import ComfyDenoiser
    from motiongraft.host.stages import shape_of
    from motiongraft.host.training_base import copy_base

    model = scene.sdxl.model if family == "sdxl" else scene.model
    theirs = copy_base(model)
    ours = load_base(scene.folder / ("tiny_sdxl.safetensors" if family == "sdxl" else "tiny.safetensors"))
    assert (ours.shape.family, ours.shape.channels) == (
        {"sd15": "SD 1.5", "sdxl": "SDXL"}[family],
        shape_of(theirs).channels,
    )
    denoiser = ComfyDenoiser(theirs, torch.float32)
    assert ours.predicts == denoiser.predicts
    assert float((ours.alphas / denoiser.base_alphas - 1).abs().max()) < 1e-6
    latents = torch.randn(2, 4, 8, 8)
    assert torch.allclose(latents * ours.latent_scale, denoiser.scale_latents(latents))
