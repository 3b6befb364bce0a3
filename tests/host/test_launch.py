"""Runs that leave ComfyUI and come back: into processes of their own, and onto a machine without it."""

import argparse
import json
import sys
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed (make setup installs it)")

from motiongraft.core.errors import HostError, RunError, SettingsError
from motiongraft.core.tensor_files import read_tensor_file
from motiongraft.standalone import train as train_command
from motiongraft.tests.helpers.cached_sets import write_toy_cache
from motiongraft.tests.helpers.training_runs import Stopped, Witness, quick_settings
from motiongraft.training.runs.durable_files import file_hash
from motiongraft.training.runs.run_folder import reopen_run

ACROSS_HOSTS = 1e-3
"""Relative difference of losses: two libraries' float32 sums, over some steps of Adam."""


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    return write_toy_cache(tmp_path_factory.mktemp("caches") / "toy", num_clips=4, frames=2)


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


def train(scene, cached, *, stage="motion LoRA", run_name="run", model=None, adapter=None, **settings):
    """The artefact and losses of a stage, as its node trains it."""
    from motiongraft.host import training

    settings = quick_settings(**{"steps": 3, "learning_rate": 1e-3, **settings})
    request = training.TrainingRequest(model or scene.model, cached, settings, run_name)
    with torch.inference_mode():
        if stage == "domain adapter":
            return training.train_domain_adapter(request, 4)
        if stage == "motion module":
            return training.train_motion_module(request, "v3", adapter, None)
        return training.train_motion_lora(request, scene.motion("v3"), 4, adapter)


def train_elsewhere(run, *words):
    """The exit status of the command line, for a run that ComfyUI has begun."""
    parser = argparse.ArgumentParser()
    train_command.add_arguments(parser)
    with torch.inference_mode(False):
        return train_command.main(parser.parse_args([str(run), "--device", "cpu", *words]))


def job_of(run):
    return json.loads((run / "job.json").read_text())


def losses_of(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


@pytest.mark.parametrize("stage", ["domain adapter", "motion module", "motion LoRA"])
def test_a_run_begun_in_the_editor_goes_on_without_it_and_comes_back(scene, cached, runs, witness, stage):
    _, through = train(scene, cached, stage=stage, run_name="through")
    witness.steps.clear()
    witness.stop_after = 1
    with pytest.raises(Stopped):
        train(scene, cached, stage=stage)
    assert train_elsewhere(runs / "run") == 0
    assert losses_of(runs / "run") == pytest.approx(through["loss"], rel=ACROSS_HOSTS)
    witness.steps.clear()
    _, losses = train(scene, cached, stage=stage)
    assert witness.steps == []
    assert losses["loss"] == losses_of(runs / "run")
    said = read_tensor_file(runs / "run" / "final.safetensors").metadata
    here = read_tensor_file(runs / "through" / "final.safetensors").metadata
    assert {**said, "training": {**said["training"], "run": "through"}} == here


def test_a_base_with_a_lora_and_a_domain_adapter_travel_with_the_run(scene, cached, runs, witness):
    from motiongraft.host.loras import apply_unet_lora

    adapter, _ = train(scene, cached, stage="domain adapter", run_name="adapter", learning_rate=3e-2)
    styled = apply_unet_lora(scene.model, {name: 2 * tensor for name, tensor in adapter.items()}, 1.0, "style")
    _, plain = train(scene, cached, run_name="plain")
    _, through = train(scene, cached, run_name="through", model=styled, adapter=adapter)
    assert through["loss"] != pytest.approx(plain["loss"], rel=10 * ACROSS_HOSTS)
    witness.steps.clear()
    witness.stop_after = 1
    with pytest.raises(Stopped):
        train(scene, cached, model=styled, adapter=adapter)
    job = job_of(runs / "run")
    names = ("base", "domain_adapter", "motion_module", "noise_schedule")
    assert {name: job["paths"][name] for name in names} == {name: f"inputs/{name}.safetensors" for name in names}
    assert job["files"].keys() == set(names)
    moved = (runs / "run").rename(runs / "elsewhere")
    assert train_elsewhere(moved) == 0
    assert losses_of(moved) == pytest.approx(through["loss"], rel=ACROSS_HOSTS)


def test_a_plain_base_stays_where_it_is_and_inputs_are_written_once(scene, cached, runs, witness):
    train(scene, cached, steps=1)
    job = job_of(runs / "run")
    assert job["paths"]["base"] == str(scene.folder / "tiny.safetensors")
    assert job["paths"]["domain_adapter"] is None
    assert {path.stem for path in (runs / "run" / "inputs").iterdir()} == {"motion_module", "noise_schedule"}
    written = (runs / "run" / "inputs" / "motion_module.safetensors").stat().st_mtime_ns
    (runs / "run" / "final.json").unlink()
    train(scene, cached, steps=1)
    assert (runs / "run" / "inputs" / "motion_module.safetensors").stat().st_mtime_ns == written


def test_an_input_that_was_damaged_is_written_again(scene, cached, runs, witness):
    train(scene, cached, steps=1)
    damaged = runs / "run" / "inputs" / "motion_module.safetensors"
    whole = {name: tensor.clone() for name, tensor in read_tensor_file(damaged).tensors.items()}  # not a mapped file
    damaged.write_bytes(damaged.read_bytes()[:-7])
    (runs / "run" / "final.json").unlink()
    train(scene, cached, steps=1)
    again = read_tensor_file(damaged).tensors
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    assert job_of(runs / "run")["files"]["motion_module"]["sha256"] == file_hash(damaged)


def test_two_processes_train_as_one_with_twice_the_batch(scene, cached, runs, witness):
    settings: dict[str, Any] = {"steps": 4, "validate_every": 2, "sample_every": 4}
    _, alone = train(scene, cached, run_name="alone", batch_size=4, **settings)
    witness.__init__()
    lora, losses = train(scene, cached, batch_size=2, processes=2, **settings)
    assert losses["loss"] == pytest.approx(alone["loss"], rel=ACROSS_HOSTS)
    assert lora.metadata["training"]["settings"]["processes"] == 2
    assert [report.step for report in witness.steps] == [1, 2, 3, 4]
    assert [report.step for report in witness.validations] == [0, 2, 4]
    assert witness.samples == [(4, (2, 4, 8, 8))]
    assert any("trains in 2 processes" in text for text in witness.texts)
    assert not scene.host.module("comfy.model_management").current_loaded_models


def test_a_cancelled_launch_saves_leaves_no_process_and_goes_on_inside(scene, cached, runs, witness):
    witness.stop_after = 2
    with pytest.raises(Stopped):
        train(scene, cached, steps=5000, batch_size=2, processes=2)
    with reopen_run(runs / "run") as run:  # its lock is free: nobody is left
        checkpoint = run.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.step >= 2
    witness.steps.clear()
    witness.stop_after = checkpoint.step + 1
    with pytest.raises(Stopped):
        train(scene, cached, steps=5000, batch_size=4)
    assert [report.step for report in witness.steps] == [checkpoint.step + 1]
    assert [path.name for path in runs.iterdir()] == ["run"]


@pytest.mark.parametrize(("code", "words"), [("exit(3)", "ended with status 3"), ("pass", "without a result")])
def test_processes_that_fail_or_leave_nothing_are_reported_with_their_last_words(
    scene, cached, runs, witness, monkeypatch, code, words
):
    from motiongraft.host import launch

    talk = f"for line in range(80): print('line', line, flush=True)\n{code}"
    monkeypatch.setattr(launch, "_command", lambda *_: [sys.executable, "-c", talk])
    with pytest.raises(RunError, match=words) as failure:
        train(scene, cached, processes=2)
    assert "line 79" in str(failure.value)
    assert "line 30" in str(failure.value)
    assert "line 29" not in str(failure.value)


class TestBeforeAnythingStarts:
    @pytest.fixture(autouse=True)
    def nothing_starts(self, runs, witness):
        yield
        assert not runs.exists()

    def test_diffusers_is_missing(self, scene, cached, monkeypatch):
        from motiongraft.host import launch

        monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(HostError, match=r"pip install diffusers`, or set processes to 1"):
            train(scene, cached, processes=2)

    def test_there_are_fewer_gpus(self, scene, cached, monkeypatch):
        from motiongraft.host import launch

        monkeypatch.setattr(launch, "_device", lambda: "cuda")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        with pytest.raises(SettingsError, match="this machine has 1"):
            train(scene, cached, processes=2)
