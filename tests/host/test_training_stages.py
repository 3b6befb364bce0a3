"""Each stage on a real ComfyUI at toy width: it learns, moves its own weights alone, stops, goes on, and plugs in."""

import json
import os
import signal

import pytest
import torch

from motiongraft.core.errors import IncompatibleModelError, RunError, SettingsError, TrainingDataError
from motiongraft.tests.helpers.cached_sets import ToyEncoder, toy_clips, write_toy_cache
from motiongraft.tests.helpers.empty_model_folders import empty_model_folders
from motiongraft.tests.helpers.host_models import predict_noise
from motiongraft.tests.helpers.training_runs import Stopped, Witness, quick_settings
from motiongraft.training.cache.cache_writer import cache_clips

STAGES = ("domain adapter", "motion module", "motion LoRA")
ROUND_TRIP = 1e-4
"""What a saved file may differ from the trained weights in memory, relative to the largest value."""


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
    """The observer of the next run; `witness.stop_after` stops it."""
    from motiongraft.host import training

    seen = Witness()
    monkeypatch.setattr(training, "NodeObserver", lambda *_: seen)
    return seen


def train(scene, stage, cached, *, run_name="run", vae=None, model=None, rank=4, layout="v3", adapter=None, **settings):
    """The artefact and losses of a stage, trained under the inference mode that ComfyUI's nodes run in."""
    from motiongraft.host import training

    settings = quick_settings(**{"steps": 3, **settings})
    request = training.TrainingRequest(model or scene.model, cached, settings, run_name, vae)
    with torch.inference_mode():
        if stage == "domain adapter":
            return training.train_domain_adapter(request, rank)
        if stage == "motion module":
            return training.train_motion_module(request, layout, adapter, None)
        return training.train_motion_lora(request, scene.motion("v3"), rank, adapter)


def tensors_of(artefact):
    """Everything that was trained, by name."""
    if hasattr(artefact, "patcher"):
        return dict(artefact.patcher.model.state_dict())
    if hasattr(artefact, "changes"):
        return {f"{change.target}:{change.first_row}": change.up @ change.down for change in artefact.changes}
    return dict(artefact)


class MovingColours(ToyEncoder):
    """Clips of one colour that changes from frame to frame: what there is to learn fits into a few steps."""

    def encode_frames(self, frames, seed):
        num_frames, height, width, _ = frames.shape
        phase = 0.7 * torch.arange(num_frames).view(-1, 1) + 1.3 * torch.arange(4) + 6 * float(frames[0, 0, 0, 0])
        return 4 * phase.sin().view(num_frames, 4, 1, 1).expand(-1, -1, height // 8, width // 8).contiguous()


@pytest.mark.parametrize(
    ("stage", "steps", "rate", "fraction"),
    [("domain adapter", 30, 3e-2, 0.85), ("motion module", 30, 3e-3, 0.85), ("motion LoRA", 15, 1e-2, 0.7)],
)
def test_a_stage_learns_four_clips(scene, runs, witness, tmp_path, stage, steps, rate, fraction):
    clips = cache_clips(toy_clips(4), MovingColours(), tmp_path / "colours")
    train(scene, stage, clips, steps=steps, learning_rate=rate, validate_every=steps)
    first, last = (report.loss for report in witness.validations)
    assert last < fraction * first


@pytest.mark.parametrize("stage", STAGES)
def test_stopped_and_continued_is_the_same_bit_for_bit(scene, cached, runs, witness, stage):
    through, losses = train(scene, stage, cached, run_name="through", steps=5, ema=0.9, caption_dropout=0.3)
    witness.steps.clear()
    witness.stop_after = 2
    with pytest.raises(Stopped):
        train(scene, stage, cached, run_name="stopped", steps=5, ema=0.9, caption_dropout=0.3)
    assert "stopped after step 2" in witness.texts[-1]
    witness.stop_after = None
    resumed, resumed_losses = train(scene, stage, cached, run_name="stopped", steps=5, ema=0.9, caption_dropout=0.3)
    assert resumed_losses == losses
    expected, found = tensors_of(through), tensors_of(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process cannot be forked here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_and_continued_is_the_same_bit_for_bit(scene, cached, runs, witness):
    settings = {"steps": 5, "ema": 0.9, "save_every": 2}
    through, losses = train(scene, "motion LoRA", cached, run_name="through", **settings)
    witness.on_step = lambda report: os.kill(os.getpid(), signal.SIGKILL) if report.step == 4 else None
    child = os.fork()
    if child == 0:
        train(scene, "motion LoRA", cached, run_name="killed", **settings)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert [path.name for path in (runs / "killed" / "checkpoints").glob("step-*")] == ["step-00000002"]
    del witness.on_step
    resumed, resumed_losses = train(scene, "motion LoRA", cached, run_name="killed", **settings)
    assert resumed_losses == losses
    expected, found = tensors_of(through), tensors_of(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_but_the_stages_own_weights_moves(scene, cached, runs, witness, stage, monkeypatch):
    from motiongraft.host import training
    from motiongraft.host.fingerprints import fingerprint_module

    bases, copy_base = [], training.copy_base
    monkeypatch.setattr(training, "copy_base", lambda model: bases.append(copy_base(model)) or bases[-1])
    motion = scene.motion("v3")
    before = [fingerprint_module(scene.model.model), fingerprint_module(motion.patcher.model)]
    train(scene, stage, cached, precision="fp32")
    assert [fingerprint_module(scene.model.model), fingerprint_module(motion.patcher.model)] == before
    fresh = copy_base(scene.model).unet.state_dict()
    trained_on = bases[0].unet.state_dict()
    assert trained_on.keys() == fresh.keys()
    assert all(torch.equal(trained_on[name], fresh[name].float()) for name in fresh)


def test_a_motion_lora_leaves_its_motion_module_alone(scene, cached, runs, witness, monkeypatch):
    from motiongraft.host import training

    modules, own_copy = [], training._own_copy
    monkeypatch.setattr(training, "_own_copy", lambda motion: modules.append(own_copy(motion)) or modules[-1])
    train(scene, "motion LoRA", cached)
    fresh = own_copy(scene.motion("v3")).state_dict()
    assert all(torch.equal(weight, fresh[name]) for name, weight in modules[0].state_dict().items())


def predictions(scene, model):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 4, 8, 8, generator=generator)
    context = torch.randn(1, 77, 32, generator=generator)
    return predict_noise(scene.host, model, x, 500, context)[0]


def trained_in_memory(scene, stage, artefact, monkeypatch_denoiser):
    """The prediction of the weights as they were trained, in the run's own copy of the base."""
    x = torch.Generator().manual_seed(3)
    noisy = torch.randn(4, 4, 8, 8, generator=x)
    context = torch.randn(1, 77, 32, generator=x)
    from motiongraft.training.cache.cached_clips import TextStates
    from motiongraft.training.denoiser import Conditioning

    told = Conditioning((TextStates(context[0], None),), ((64, 64),))
    with torch.no_grad():
        return monkeypatch_denoiser.predict(noisy, torch.tensor([500]), told, 4)


@pytest.mark.parametrize("stage", STAGES)
def test_the_result_plugs_in_and_its_file_gives_what_was_trained(
    scene, cached, runs, witness, stage, monkeypatch, tmp_path
):
    from motiongraft.core.tensor_files import read_tensor_file
    from motiongraft.host import inflate, loras, saving, stages
    from motiongraft.host.motion_modules import load_motion_module
    from motiongraft.lora.domain_adapter import read_domain_adapter
    from motiongraft.lora.motion_lora import read_motion_lora

    empty_model_folders(scene.host, tmp_path, monkeypatch)
    denoisers, make = [], stages.ComfyDenoiser
    monkeypatch.setattr(stages, "ComfyDenoiser", lambda *args: denoisers.append(make(*args)) or denoisers[-1])
    artefact, _ = train(scene, stage, cached, steps=8, learning_rate=1e-2)
    in_memory = trained_in_memory(scene, stage, artefact, denoisers[0])

    def applied(artefact):
        if stage == "motion module":
            return inflate.inflate_model(scene.model, artefact, "auto")
        if stage == "motion LoRA":
            return inflate.inflate_model(
                scene.model, loras.apply_motion_lora(scene.motion("v3"), artefact, 1.0), "auto"
            )
        return loras.apply_unet_lora(scene.model, artefact, 1.0, "trained")

    plugged = predictions(scene, applied(artefact))
    assert float((plugged - in_memory).abs().max()) < ROUND_TRIP * float(in_memory.abs().max())
    untrained = scene.model if stage == "domain adapter" else scene.inflated("v3")
    assert float((plugged - predictions(scene, untrained)).abs().max()) > 1e-3
    if stage == "motion module":
        path = saving.save_motion_module(artefact, f"trained {stage}", "animatediff", "fp32")
        again = load_motion_module(path)
    elif stage == "motion LoRA":
        path = saving.save_motion_lora(artefact, f"trained {stage}", "animatediff")
        again = read_motion_lora(read_tensor_file(path))
    else:
        path = saving.save_domain_adapter(artefact, f"trained {stage}", "animatediff")
        again = read_domain_adapter(read_tensor_file(path))
    assert torch.equal(predictions(scene, applied(again)), plugged)
    assert again.metadata["training"]["run"] == "run"


def test_a_finished_run_is_not_trained_again(scene, cached, runs, witness):
    first, losses = train(scene, "motion LoRA", cached)
    witness.steps.clear()
    second, same = train(scene, "motion LoRA", cached)
    assert witness.steps == []
    assert same == losses
    assert tensors_of(first).keys() == tensors_of(second).keys()


def test_a_changed_setting_starts_a_run_of_its_own(scene, cached, runs, witness):
    train(scene, "motion LoRA", cached)
    train(scene, "motion LoRA", cached, learning_rate=2e-4)
    assert sorted(path.name for path in runs.iterdir()) == ["run", "run-2"]


def test_another_rank_cannot_go_on_with_a_run(scene, cached, runs, witness):
    train(scene, "motion LoRA", cached)
    with pytest.raises(RunError, match="rank"):
        train(scene, "motion LoRA", cached, rank=8, resume="must")


def test_an_adapter_is_in_place_and_frozen_while_motion_is_trained(scene, cached, runs, witness):
    adapter, _ = train(scene, "domain adapter", cached, steps=5, learning_rate=1e-2, run_name="adapter")
    _, plain = train(scene, "motion module", cached, run_name="plain")
    _, adapted = train(scene, "motion module", cached, run_name="adapted", adapter=adapter)
    assert plain["loss"][0] != adapted["loss"][0]


@pytest.mark.parametrize("stage", ["domain adapter", "motion module"])
def test_sdxl_trains_a_step(scene, runs, witness, tmp_path, stage):
    cached = write_toy_cache(tmp_path / "sdxl", num_clips=2, frames=4, text_width=64, pooled_width=32)
    artefact, losses = train(scene, stage, cached, model=scene.sdxl.model, steps=1)
    assert len(losses["loss"]) == 1
    if stage == "motion module":
        assert artefact.spec.motion_norm_over_frames
        assert (artefact.spec.generation, artefact.spec.beta_schedule) == ("sdxl-beta", "sdxl-beta")
    else:
        assert artefact.metadata["base"] == "SDXL"


def test_sdxl_trains_a_motion_lora_for_a_step(scene, runs, witness, tmp_path):
    from motiongraft.host import training

    cached = write_toy_cache(tmp_path / "sdxl", num_clips=2, frames=4, text_width=64, pooled_width=32)
    request = training.TrainingRequest(scene.sdxl.model, cached, quick_settings(steps=1), "run")
    lora, _ = training.train_motion_lora(request, scene.motion("sdxl-beta"), 4, None)
    assert lora.metadata["base"] == "SDXL"


def test_the_middle_block_comes_with_v2(scene, cached, runs, witness):
    motion, _ = train(scene, "motion module", cached, steps=1, layout="v2")
    assert (motion.spec.generation, motion.spec.middle_channels) == ("v2", 128)


def test_bf16_and_fp16_train_weights_that_stay_in_float32(scene, cached, runs, witness):
    for precision in ("bf16", "fp16"):
        motion, losses = train(scene, "motion module", cached, precision=precision, run_name=precision, steps=2)
        assert all(weight.dtype == torch.float32 for weight in motion.patcher.model.state_dict().values())
        assert all(0 < loss < 10 for loss in losses["loss"])


def test_a_base_that_cannot_be_loaded_again_is_copied(scene, cached, runs, witness):
    model = scene.model.clone()
    model.cached_patcher_init = None
    _, losses = train(scene, "motion module", cached, model=model, run_name="copied")
    _, same = train(scene, "motion module", cached, run_name="loaded")
    assert losses == same
    assert torch.isfinite(scene.sample(scene.model)).all()


def test_the_host_samples_as_before_after_a_run(scene, cached, runs, witness):
    before = scene.sample(scene.model)
    train(scene, "motion module", cached)
    assert not scene.host.module("comfy.model_management").in_training
    assert torch.equal(scene.sample(scene.model), before)


def test_a_lora_on_the_base_is_trained_on_and_belongs_to_the_run(scene, cached, runs, witness):
    from motiongraft.host.loras import apply_unet_lora

    adapter, _ = train(scene, "domain adapter", cached, steps=5, learning_rate=1e-2, run_name="adapter")
    _, plain = train(scene, "motion LoRA", cached)
    _, personalised = train(scene, "motion LoRA", cached, model=apply_unet_lora(scene.model, adapter, 1.0, "style"))
    assert plain != personalised
    assert len([path for path in runs.iterdir() if path.name.startswith("run")]) == 2


def test_samples_and_validation_come_when_they_are_due(scene, cached, runs, witness):
    train(scene, "motion module", cached, steps=4, sample_every=2, validate_every=2)
    assert witness.samples == [(2, (4, 4, 8, 8)), (4, (4, 4, 8, 8))]
    assert [report.step for report in witness.validations] == [0, 2, 4]
    lines = [json.loads(line) for line in (runs / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [0, 2, 4]


def test_a_gradient_that_is_not_finite_changes_nothing_and_stops_the_third_time(
    scene, cached, runs, witness, monkeypatch
):
    from motiongraft.training.loss import Objective

    losses = Objective.losses
    monkeypatch.setattr(Objective, "losses", lambda self, *args: losses(self, *args) * float("nan"))
    with pytest.raises(RunError, match=r"three steps in a row.*t = \d+"):
        train(scene, "motion module", cached, steps=9)
    assert not (runs / "run" / "final.safetensors").exists()
    assert [report.step for report in witness.steps] == [1, 2]


def test_memory_that_is_short_is_met_with_checkpointing_and_smaller_parts(scene, cached, runs, witness, monkeypatch):
    from motiongraft.host.denoiser import ComfyDenoiser

    predict, most = ComfyDenoiser.predict, 1

    def starved(self, noisy, timesteps, conditioning, num_frames):
        if len(timesteps) > most or not self.checkpointing:
            raise torch.OutOfMemoryError("no memory left")
        return predict(self, noisy, timesteps, conditioning, num_frames)

    _, plenty = train(scene, "motion module", cached, run_name="plenty", batch_size=4)
    monkeypatch.setattr(ComfyDenoiser, "predict", starved)
    _, short = train(scene, "motion module", cached, run_name="short", batch_size=4, checkpointing="auto")
    assert short["loss"] == pytest.approx(plenty["loss"], rel=1e-5)
    assert any("1 clips at a time" in text for text in witness.texts)
    most = 0
    with pytest.raises(RunError, match="not even one clip"):
        train(scene, "motion module", cached, run_name="none", batch_size=4, checkpointing="auto")


def test_a_disk_that_fails_once_costs_a_checkpoint_and_twice_the_run(scene, cached, runs, witness, monkeypatch):
    from motiongraft.training.runs.run_folder import RunFolder

    save, failures = RunFolder.save_checkpoint, []

    def failing(self, *args):
        if len(failures) < allowed:
            failures.append(1)
            raise RunError("the disk is full")
        return save(self, *args)

    monkeypatch.setattr(RunFolder, "save_checkpoint", failing)
    allowed = 1
    train(scene, "motion LoRA", cached, steps=3, save_every=1, run_name="once")
    assert any("no checkpoint at step 1" in text for text in witness.texts)
    failures.clear()
    allowed = 2
    with pytest.raises(RunError, match="disk is full"):
        train(scene, "motion LoRA", cached, steps=3, save_every=1, run_name="twice")


class TestBadInput:
    """Each is refused before the first step, in words, and leaves no run behind."""

    @pytest.fixture(autouse=True)
    def nothing_starts(self, runs, witness):
        yield
        assert witness.steps == []
        assert not list(runs.glob("*/final.safetensors"))

    def test_an_inflated_model(self, scene, cached):
        with pytest.raises(IncompatibleModelError, match="from before InflateModel"):
            train(scene, "motion module", cached, model=scene.inflated("v3"))

    def test_a_quantised_base(self, scene, cached):
        model = scene.second_checkpoint
        weight = model.model.diffusion_model.input_blocks[1][0].in_layers[2].weight
        plain = weight.data
        weight.data = plain.to(torch.float8_e4m3fn)
        with pytest.raises(IncompatibleModelError, match="quantised to float8_e4m3fn"):
            train(scene, "motion module", cached, model=model)
        weight.data = plain

    def test_clips_of_another_text_encoder(self, scene, tmp_path):
        cached = write_toy_cache(tmp_path / "wide", num_clips=2, frames=4, text_width=64)
        with pytest.raises(TrainingDataError, match=r"text states 64 wide.*takes 32"):
            train(scene, "motion module", cached)

    def test_clips_of_another_vae(self, scene, cached):
        with pytest.raises(TrainingDataError, match="another VAE"):
            train(scene, "motion module", cached, vae=scene.checkpoint.vae)

    def test_clips_of_one_frame(self, scene, tmp_path):
        cached = write_toy_cache(tmp_path / "still", num_clips=2, frames=1)
        with pytest.raises(SettingsError, match="one frame"):
            train(scene, "motion module", cached)

    def test_clips_longer_than_the_module_has_positions(self, scene, tmp_path):
        cached = write_toy_cache(tmp_path / "long", num_clips=2, frames=40)
        with pytest.raises(SettingsError, match=r"40 frames.*positions for 32"):
            train(scene, "motion LoRA", cached)

    def test_a_run_of_another_stage(self, scene, cached, runs, witness):
        train(scene, "domain adapter", cached, run_name="mine")
        (runs / "mine" / "final.safetensors").unlink()
        witness.steps.clear()
        with pytest.raises(RunError, match="domain adapter"):
            train(scene, "motion module", cached, run_name="mine", resume="must")

    def test_a_full_disk(self, scene, cached, monkeypatch):
        import shutil

        full = shutil.disk_usage("/")._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
        with pytest.raises(RunError, match="free"):
            train(scene, "motion module", cached)


def test_few_clips_for_a_motion_lora_are_said(scene, cached, runs, witness):
    train(scene, "motion LoRA", cached, steps=1)
    assert any("4 clips are few for a MotionLoRA" in text for text in witness.texts)
