"""Gradients on ComfyUI's own UNet: right to float64, the same with checkpointing, and in the trained weights alone."""

from dataclasses import replace

import pytest
import torch

from motiongraft.tests.helpers.cached_sets import write_toy_cache
from motiongraft.tests.helpers.training_runs import quick_settings
from motiongraft.training.batches import TrainingData
from motiongraft.training.loss import Objective

STAGES = ("domain adapter", "motion module", "motion LoRA")
STEP = 1e-5
"""Of the central difference: small enough for a smooth loss, far above float64's rounding."""


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    return write_toy_cache(tmp_path_factory.mktemp("caches") / "toy", num_clips=4, frames=4)


def prepared(scene, stage, generation="v3", precision=torch.float32):
    """A trainee in place in a private copy of the tiny base, and its denoiser."""
    from motiongraft.host import stages
    from motiongraft.host.training import _own_copy
    from motiongraft.host.training_base import copy_base, place_on_device

    base = copy_base(scene.model)
    place_on_device(base, precision)
    if stage == "domain adapter":
        return *stages.prepare_domain_adapter(base, precision, 4, 0), base
    module = _own_copy(scene.motion(generation))
    if stage == "motion module":
        return *stages.prepare_motion_module(base, precision, module, "toy"), base
    return *stages.prepare_motion_lora(base, precision, module, "toy", 4, 0), base


def loss_of(trainee, denoiser, cached):
    data = TrainingData(cached, quick_settings(), trainee.single_frames)
    batch = data.batch(data.draws(3), denoiser)
    exact = replace(batch, latents=batch.latents.to(denoiser._precision), noise=batch.noise.to(denoiser._precision))
    return Objective(trainee.shares).losses(denoiser, exact).mean()


def gradients(trainee, denoiser, cached):
    for weight in trainee.parameters.values():
        weight.grad = None
    loss_of(trainee, denoiser, cached).backward()
    return {name: weight.grad for name, weight in trainee.parameters.items()}


def shake(trainee):
    """Weights as training leaves them; at its start the gradient of every `down` is zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in trainee.parameters.values():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)


def compute_in_float64(trainee, denoiser, base):
    base.unet.double()
    trainee.module.double()
    if denoiser._motion is not None:
        denoiser._motion.module.double()
    denoiser._precision = torch.float64


@pytest.mark.parametrize("stage", STAGES)
def test_gradient_is_the_slope_of_the_loss_in_float64(scene, cached, stage):
    trainee, denoiser, base = prepared(scene, stage)
    shake(trainee)
    compute_in_float64(trainee, denoiser, base)
    generator = torch.Generator().manual_seed(1)
    directions = {
        name: torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        for name, weight in trainee.parameters.items()
    }
    found = gradients(trainee, denoiser, cached)
    slope = sum(float((found[name] * direction).sum()) for name, direction in directions.items())
    losses = []
    with torch.no_grad():
        for sign in (1, -2):
            for name, weight in trainee.parameters.items():
                weight += sign * STEP * directions[name]
            losses.append(float(loss_of(trainee, denoiser, cached)))
    assert slope == pytest.approx((losses[0] - losses[1]) / (2 * STEP), rel=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_float32_gradients_equal_float64_ones(scene, cached, stage):
    trainee, denoiser, base = prepared(scene, stage)
    shake(trainee)
    single = {name: grad.clone() for name, grad in gradients(trainee, denoiser, cached).items()}
    compute_in_float64(trainee, denoiser, base)
    double = gradients(trainee, denoiser, cached)
    largest = max(float(grad.abs().max()) for grad in double.values())
    for name, grad in double.items():
        assert float((single[name] - grad).abs().max()) < 1e-4 * largest, name


@pytest.mark.parametrize(("stage", "generation"), [*((stage, "v3") for stage in STAGES), ("motion LoRA", "v1")])
def test_checkpointing_leaves_gradients_equal_bit_for_bit(scene, cached, stage, generation):
    trainee, denoiser, _ = prepared(scene, stage, generation)
    shake(trainee)
    kept = {name: grad.clone() for name, grad in gradients(trainee, denoiser, cached).items()}
    denoiser.checkpointing = True
    again = gradients(trainee, denoiser, cached)
    assert all(torch.equal(kept[name], grad) for name, grad in again.items())
    assert any(float(grad.abs().max()) > 0 for grad in again.values())


@pytest.mark.parametrize("stage", STAGES)
def test_no_other_weight_gets_a_gradient(scene, cached, stage):
    trainee, denoiser, base = prepared(scene, stage)
    gradients(trainee, denoiser, cached)
    trained = {id(weight) for weight in trainee.parameters.values()}
    others = [weight for weight in base.unet.parameters() if id(weight) not in trained]
    assert others
    assert all(weight.grad is None for weight in others)
    assert all(weight.grad is not None for weight in trainee.parameters.values())


def test_predictions_are_those_of_the_animation_graph(scene, cached):
    """The splice that trains is the splice that samples."""
    from motiongraft.tests.helpers.host_models import predict_noise

    _, denoiser, _ = prepared(scene, "motion module")
    data = TrainingData(cached, quick_settings(batch_size=1), single_frames=False)
    batch = data.batch(data.draws(0), denoiser)
    with torch.no_grad():
        ours = denoiser.predict(batch.latents, batch.timesteps, batch.conditioning, batch.num_frames)
    model = scene.inflated("v3")
    (theirs,) = predict_noise(
        scene.host, model, batch.latents, int(batch.timesteps[0]), batch.conditioning.texts[0].states[None].float()
    )
    assert float((ours - theirs).abs().max()) < 1e-4 * float(theirs.abs().max())
