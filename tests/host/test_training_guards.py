"""What must not be trained is refused, and what goes wrong in a run costs what it must and no more."""

import json

import pytest
import torch

from motiongraft.core.errors import IncompatibleModelError, RunError, SettingsError, TrainingDataError
from motiongraft.tests.helpers.cached_sets import write_toy_cache
from motiongraft.tests.helpers.training_runs import Stopped, Witness, quick_settings


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    return write_toy_cache(tmp_path_factory.mktemp("caches") / "toy", num_clips=4, frames=4)


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """The folder that runs go into."""
    from motiongraft.host import training

    monkeypatch.setattr(training, "runs_folder", lambda: tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def witness(monkeypatch):
    """The observer of the next run."""
    from motiongraft.host import training

    seen = Witness()
    monkeypatch.setattr(training, "NodeObserver", lambda *_: seen)
    return seen


@pytest.fixture
def adapt(scene, cached, runs, witness):
    """Trains a domain adapter, the quickest of the stages."""
    from motiongraft.host import training

    def run(model=None, clips=None, vae=None, **settings):
        request = training.TrainingRequest(
            model or scene.model, clips or cached, quick_settings(**{"steps": 3, **settings}), "run", vae
        )
        with torch.inference_mode():
            return training.train_domain_adapter(request, 4)

    return run


def sampled_as(scene, kind):
    """The tiny base with another sampling, as a node of ComfyUI would give it."""
    sampling = scene.host.module("comfy.model_sampling")
    bases = {
        "x0": (sampling.ModelSamplingDiscrete, sampling.X0),
        "edm": (sampling.ModelSamplingContinuousEDM, sampling.EDM),
        "continuous v": (sampling.ModelSamplingContinuousV, sampling.V_PREDICTION),
        "v": (sampling.ModelSamplingDiscrete, sampling.V_PREDICTION),
    }[kind]
    model = scene.model.clone()
    model.add_object_patch("model_sampling", type("Sampling", bases, {})(model.model.model_config))
    return model


@pytest.mark.parametrize("kind", ["x0", "edm", "continuous v"])
def test_a_base_that_predicts_something_else_is_refused(scene, adapt, kind):
    with pytest.raises(IncompatibleModelError, match="predicts noise or v at 1000 timesteps"):
        adapt(sampled_as(scene, kind))


def test_another_prediction_of_the_same_weights_is_another_run(scene, adapt, runs):
    _, noise = adapt()
    _, velocity = adapt(sampled_as(scene, "v"))
    assert noise["loss"] != velocity["loss"]
    assert sorted(path.name for path in runs.iterdir()) == ["run", "run-2"]


def test_layers_that_another_node_replaced_are_refused_and_stay_untouched(scene, adapt):
    model = scene.model.clone()
    layer = torch.nn.Linear(4, 4)
    model.add_object_patch("diffusion_model.time_embed.0", layer)
    with pytest.raises(IncompatibleModelError, match=r"diffusion_model\.time_embed\.0"):
        adapt(model)
    assert layer.weight.requires_grad
    assert not layer._forward_hooks


def test_a_bypass_lora_is_refused(scene, adapt):
    model = scene.model.clone()
    model.set_injections("bypass_lora", [])
    with pytest.raises(IncompatibleModelError, match="bypass_lora"):
        adapt(model)


def test_a_base_that_hides_its_quantisation_is_refused(scene, adapt, monkeypatch):
    layer = scene.second_checkpoint.model.diffusion_model.time_embed[0]
    monkeypatch.setattr(layer, "quant_format", "float8_e4m3fn", raising=False)
    with pytest.raises(IncompatibleModelError, match="quantised to float8_e4m3fn"):
        adapt(scene.second_checkpoint)


def test_an_inpainting_base_is_refused(scene, adapt, monkeypatch):
    monkeypatch.setattr(scene.second_checkpoint.model.diffusion_model, "in_channels", 9)
    with pytest.raises(IncompatibleModelError, match="found one that takes 9"):
        adapt(scene.second_checkpoint)


def test_pooled_text_of_another_width_is_refused(scene, adapt, tmp_path):
    clips = write_toy_cache(tmp_path / "sdxl", num_clips=2, frames=4, text_width=64, pooled_width=48)
    with pytest.raises(TrainingDataError, match="pooled text states 48 wide, this base model takes 32"):
        adapt(scene.sdxl.model, clips)


@pytest.mark.parametrize("held_out", [4, 100])
def test_more_clips_held_out_than_can_be_are_refused(adapt, held_out):
    with pytest.raises(SettingsError, match=f"held_out is {held_out}.* at most 3"):
        adapt(held_out=held_out)


def test_refusals_leave_no_run_behind(scene, adapt, runs, cached):
    from motiongraft.host import training

    request = training.TrainingRequest(scene.model, cached, quick_settings(), "run")
    with pytest.raises(IncompatibleModelError, match="SDXL"):
        training.train_motion_lora(request, scene.motion("sdxl-beta"), 4, None)
    with pytest.raises(IncompatibleModelError):
        adapt(sampled_as(scene, "x0"))
    assert not runs.exists() or list(runs.iterdir()) == []


def test_a_run_whose_gradients_are_never_finite_never_ends_well(adapt, runs, monkeypatch):
    from motiongraft.training.loss import Objective

    losses = Objective.losses
    monkeypatch.setattr(Objective, "losses", lambda self, *args: losses(self, *args) * float("nan"))
    for _ in range(3):
        with pytest.raises(RunError, match="three steps in a row"):
            adapt(steps=4)
    assert list((runs / "run" / "checkpoints").glob("step-*")) == []
    assert not (runs / "run" / "final.safetensors").exists()


def test_after_bad_steps_a_run_stands_at_its_last_good_one(adapt, runs, monkeypatch):
    from motiongraft.training.loss import Objective

    losses, calls = Objective.losses, []

    def broken_later(self, *args):
        calls.append(1)
        return losses(self, *args) * (float("nan") if len(calls) > 3 else 1.0)  # one probe and two steps are good

    monkeypatch.setattr(Objective, "losses", broken_later)
    with pytest.raises(RunError, match="three steps in a row"):
        adapt(steps=9)
    assert [path.name for path in (runs / "run" / "checkpoints").glob("step-*")] == ["step-00000002"]


def test_memory_that_gets_short_in_mid_run_is_met_with_smaller_parts(adapt, witness, monkeypatch):
    from motiongraft.host.denoiser import ComfyDenoiser

    _, plenty = adapt(steps=4, seed=1)
    predict, sizes = ComfyDenoiser.predict, []

    def starved(self, noisy, timesteps, conditioning, num_frames):
        sizes.append(len(timesteps))
        if len(sizes) > 2 and len(timesteps) > 1:
            raise torch.OutOfMemoryError("no memory left")
        return predict(self, noisy, timesteps, conditioning, num_frames)

    monkeypatch.setattr(ComfyDenoiser, "predict", starved)
    _, short = adapt(steps=4, seed=1, resume="new")
    assert short["loss"] == pytest.approx(plenty["loss"], rel=1e-5)
    assert any("1 clips at a time" in text for text in witness.texts)


def test_a_sample_that_cannot_be_shown_costs_the_sample(adapt, witness, monkeypatch):
    def fails(*_):
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(witness, "on_sample", fails, raising=False)
    _, losses = adapt(sample_every=2, steps=3)
    assert len(losses["loss"]) == 3
    assert any("no sample clip at step 2" in text for text in witness.texts)


def test_what_was_due_when_a_run_was_stopped_is_made_up_for(adapt, runs, witness, monkeypatch):
    settings = {"steps": 4, "validate_every": 2, "sample_every": 2, "save_every": 2}
    adapt(**settings, seed=1)
    report = witness.on_step

    def stops_at_two(step):
        report(step)
        if step.step == 2:
            raise Stopped

    monkeypatch.setattr(witness, "on_step", stops_at_two, raising=False)
    with pytest.raises(Stopped):
        adapt(**settings, seed=1, resume="new")
    monkeypatch.undo()
    kinds = [line_kinds(runs / "run")]
    from motiongraft.host import training

    monkeypatch.setattr(training, "runs_folder", lambda: runs)
    monkeypatch.setattr(training, "NodeObserver", lambda *_: witness)
    adapt(**settings, seed=1, resume="must")
    assert line_kinds(runs / "run-2") == kinds[0]
    best = [json.loads((runs / name / "checkpoints" / "best.json").read_text()) for name in ("run", "run-2")]
    assert best[0] == best[1]


def line_kinds(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["kind"], line["step"]) for line in lines]


def test_motion_is_trained_on_the_schedule_that_it_is_sampled_on(scene):
    """Also on a base with zero terminal SNR, whose schedule InflateModel rescales."""
    from motiongraft.host.inflate import inflate_model
    from motiongraft.host.stages import prepare_motion_lora
    from motiongraft.host.training import _own_copy
    from motiongraft.host.training_base import copy_base, place_on_device

    for zsnr in (False, True):
        model = sampled_as(scene, "v")
        sampling = model.get_model_object("model_sampling")
        sampling.__init__(model.model.model_config, zsnr=zsnr)
        base = copy_base(model)
        place_on_device(base, torch.float32)
        trainee, _ = prepare_motion_lora(base, torch.float32, _own_copy(scene.motion("v3")), "toy", 4, 0)
        inflated = inflate_model(model, scene.motion("v3"), "auto").get_model_object("model_sampling")
        sampled = 1 / (1 + inflated.sigmas.double() ** 2)
        torch.testing.assert_close(trainee.shares, sampled, rtol=1e-4, atol=1e-7)
