"""The command `train`: what a node has begun goes on without ComfyUI, in any number of processes."""

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed (make setup installs it)")

from motiongraft.core.tensor_files import read_tensor_file, write_tensor_file
from motiongraft.lora.motion_lora import read_motion_lora
from motiongraft.standalone import console_observer, train
from motiongraft.tests.helpers.cached_sets import write_toy_cache
from motiongraft.tests.helpers.rank_processes import in_processes
from motiongraft.tests.helpers.toy_jobs import COMMAND, train_command, write_toy_job
from motiongraft.tests.helpers.training_runs import quick_settings
from motiongraft.training.runs.checkpoints import CheckpointFolder
from motiongraft.training.runs.job import Job
from motiongraft.training.trainee import DOMAIN_ADAPTER, MOTION_MODULE

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="a process cannot be forked here"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
ENDS_WITHIN_S = 60


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run that was begun, to copy."""
    torch.set_num_threads(1)
    return write_toy_job(tmp_path_factory.mktemp("begun"), steps=4, batch_size=4, learning_rate=1e-3)


@pytest.fixture
def run(begun, tmp_path):
    return Path(shutil.copytree(begun, tmp_path / "run"))


def train_here(run, processes=1, prepare=lambda rank: None, **options):
    """Exit status, standard output and standard error of each process."""
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    words = [str(run), "--device", "cpu", *(f"--{name}={value}" for name, value in options.items())]
    parsed = parser.parse_args(words)

    def work():
        prepare(int(os.environ.get("RANK", "0")))
        with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(io.StringIO()) as complained:
            status = train.main(parsed)
        return status, said.getvalue(), complained.getvalue()

    return in_processes(processes, work)


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "step"}


def final(run):
    return read_tensor_file(run / "final.safetensors")


def edit(run, **changes):
    content = json.loads((run / "job.json").read_text())
    (run / "job.json").write_text(json.dumps({**content, **changes}))


def refused(run, words, **options):
    """Asserts that a run is refused in one sentence, and that nothing of it was trained."""
    ((status, _, complaint),) = train_here(run, **options)
    assert status == 1
    assert words in complaint
    assert complaint.count("\n") == 1
    assert not (run / "metrics.jsonl").exists()


def test_one_and_two_processes_end_with_the_same_lora(run, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "other"))
    ((status, said, complaint),) = train_here(run)
    assert (status, complaint) == (0, "")
    assert "step 4 of 4" in said
    first, second = train_here(other, processes=2)
    assert (first[0], second) == (0, (0, "", ""))
    assert losses(other) == pytest.approx(losses(run), rel=1e-5)
    lora = read_motion_lora(final(run))
    assert (lora.metadata["training"]["run"], lora.metadata["training"]["rank"]) == ("run", 4)
    one, two = (torch.cat([tensor.flatten() for tensor in final(each).tensors.values()]) for each in (run, other))
    assert float((one - two).norm()) < 1e-3 * float(one.norm())


@pytest.mark.parametrize("stage", [DOMAIN_ADAPTER, MOTION_MODULE])
def test_the_other_stages_train_and_say_what_they_are(tmp_path, stage):
    run = write_toy_job(tmp_path, stage, steps=1, sample_every=1)
    ((status, _, complaint),) = train_here(run)
    assert (status, complaint) == (0, "")
    assert final(run).metadata["kind"] == stage
    assert read_tensor_file(run / "samples" / "step-00000001.safetensors").tensors["latents"].shape[1:] == (4, 8, 8)


def stop_at(step, number=signal.SIGTERM):
    """Sends this process a signal after a step."""

    def prepare(rank):
        on_step = console_observer.ConsoleObserver.on_step

        def stopping(self, report):
            on_step(self, report)
            if report.step == step and rank == 0:
                os.kill(os.getpid(), number)

        console_observer.ConsoleObserver.on_step = stopping

    return prepare


def test_a_signal_saves_and_the_run_goes_on_in_another_number_of_processes(run, tmp_path):
    through = Path(shutil.copytree(run, tmp_path / "through"))
    train_here(through)
    for processes, step, number, statuses in ((1, 1, signal.SIGTERM, [143]), (3, 2, signal.SIGINT, [130, 1, 1])):
        results = train_here(run, processes, stop_at(step, number))
        assert [status for status, _, _ in results] == statuses
        assert (run / "checkpoints" / f"step-{step:08}" / "manifest.json").is_file()
        assert not (run / "final.safetensors").exists()
    ((status, said, _),) = train_here(run)
    assert status == 0
    assert "continues at step 2" in said
    assert losses(run) == pytest.approx(losses(through), rel=1e-5)


def test_a_run_stops_when_the_process_that_watches_it_has_ended(run):
    gone = subprocess.Popen(["true"])
    gone.wait()
    ((status, _, complaint),) = train_here(run, **{"while-process": gone.pid})
    assert (status, complaint) == (1, "")
    assert not losses_were_written(run)
    ((status, _, _),) = train_here(run, **{"while-process": os.getpid()})
    assert status == 0


def losses_were_written(run):
    return (run / "metrics.jsonl").exists() and bool(losses(run))


def test_a_finished_run_is_left_as_it_is(run):
    train_here(run)
    before = (run / "final.safetensors").stat().st_mtime_ns
    results = train_here(run, processes=2)
    assert [status for status, _, _ in results] == [0, 0]
    assert "finished" in results[0][1]
    assert (run / "final.safetensors").stat().st_mtime_ns == before


def test_job_json_stays_as_it_was_written(run):
    before = (run / "job.json").read_text()
    train_here(run)
    assert (run / "job.json").read_text() == before


def children_of(process):
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def wait_for(condition, what, process):
    limit = time.monotonic() + ENDS_WITHIN_S
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode} before {what}"
        assert time.monotonic() < limit, what
        time.sleep(0.1)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are found in /proc")
def test_a_killed_process_ends_torchrun_with_a_whole_checkpoint_from_which_one_process_goes_on(tmp_path):
    run = write_toy_job(tmp_path, steps=1000, batch_size=2, processes=2, save_every=2)
    (tmp_path / "any name").symlink_to(COMMAND.parents[1])
    words, environment = train_command(
        run / "job.json", processes=2, command=tmp_path / "any name" / "standalone" / "__main__.py"
    )
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        saved = run / "checkpoints" / "step-00000002"
        wait_for(saved.exists, "the first checkpoint", process)
        first = int((run / "run.lock").read_text())
        (other,) = set(children_of(process.pid)) - {first}
        os.kill(other, signal.SIGKILL)
        output, _ = process.communicate(timeout=ENDS_WITHIN_S)
    finally:
        process.kill()
    assert process.returncode == 1, output
    assert "Signal 9 (SIGKILL)" in output
    newest = CheckpointFolder(run / "checkpoints").find_newest()
    assert newest is not None
    step = int(newest.name.removeprefix("step-"))
    assert step >= max(losses(run)), "a step was lost"
    ((status, said, _),) = train_here(run, prepare=stop_at(step + 1))
    assert status == 143
    assert f"continues at step {step}" in said


class TestBadInput:
    def test_no_run(self, tmp_path):
        refused(tmp_path, "expected a run with its job.json")

    def test_a_base_that_is_gone_and_one_that_is_elsewhere(self, run, begun, tmp_path):
        content = json.loads((run / "job.json").read_text())
        edit(run, paths={**content["paths"], "base": str(tmp_path / "gone.safetensors")})
        refused(run, "the base model of this run is not at")
        ((status, _, _),) = train_here(run, base=begun.parent / "base.safetensors")
        assert status == 0

    def test_an_input_that_was_changed(self, run):
        path = run / "inputs" / "motion_module.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        refused(run, "the motion module at")

    def test_an_input_of_another_size(self, run):
        with (run / "inputs" / "motion_module.safetensors").open("ab") as file:
            file.write(b"more")
        refused(run, "is not the one that this run was begun with")

    def test_other_clips(self, run, tmp_path):
        clips = write_toy_cache(tmp_path / "others", num_clips=3, frames=2)
        refused(run, "are not those that this run was begun with", clips=clips.folder)

    def test_a_base_that_is_none(self, run, tmp_path):
        path = tmp_path / "none.safetensors"
        write_tensor_file(path, {"some.weight": torch.zeros(2)}, {})
        content = json.loads((run / "job.json").read_text())
        from motiongraft.training.cache.clip_identity import ContentDigests
        from motiongraft.training.runs.job_files import file_record

        record = file_record(path, ContentDigests(tmp_path))
        edit(
            run,
            paths={**content["paths"], "base": str(path)},
            files={**content["files"], "base": record},
        )
        refused(run, "expected a base model of SD 1.5 or SDXL")

    def test_a_checkpoint_of_another_stage(self, run, tmp_path):
        other = write_toy_job(tmp_path / "other", DOMAIN_ADAPTER, steps=1)
        train_here(other)
        shutil.copytree(other / "checkpoints", run / "checkpoints")
        ((status, _, complaint),) = train_here(run)
        assert status == 1
        assert "is not one of this motion LoRA" in complaint

    def test_a_job_without_hashes(self, run):
        edit(run, files={})
        refused(run, "Queue it once in the editor")

    def test_a_run_that_is_in_use(self, run):
        from motiongraft.training.runs.run_folder import reopen_run

        with reopen_run(run):
            refused(run, "is in use by process")

    def test_only_the_first_of_two_processes_complains(self, run):
        edit(run, files={})
        first, second = train_here(run, processes=2)
        assert (first[0], second) == (1, (1, "", ""))
        assert "Queue it once in the editor" in first[2]

    def test_what_only_the_second_process_finds_is_said_by_the_first(self, run):
        def prepare(rank):
            if rank == 1:
                (run / "job.json").rename(run / "away.json")

        first, second = train_here(run, processes=2, prepare=prepare)
        assert (first[0], second) == (1, (1, "", ""))
        assert "expected a run with its job.json" in first[2]

    def test_processes_that_disagree_on_versions(self, run):
        def prepare(rank):
            version = importlib.metadata.version
            importlib.metadata.version = lambda name: "1.0" if rank and name == "torch" else version(name)

        first, second = train_here(run, processes=2, prepare=prepare)
        assert (first[0], second) == (1, (1, "", ""))
        assert f"torch {importlib.metadata.version('torch')} and 1.0" in first[2]

    def test_a_port_in_use(self, run):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            port = listener.getsockname()[1]

            def prepare(rank):
                os.environ |= {"MASTER_PORT": str(port), "WORLD_SIZE": "2"}

            refused(run, f"the port of 127.0.0.1:{port} is in use", prepare=prepare)


def test_a_moved_run_finds_its_inputs(run, tmp_path):
    moved = run.rename(tmp_path / "moved")
    ((status, _, _),) = train_here(moved)
    assert status == 0


def test_the_job_of_a_run_that_came_back_has_the_identity_that_the_editor_looks_for(run):
    settings = quick_settings(steps=4, batch_size=2, processes=2, learning_rate=1e-3)
    job = Job.from_json((run / "job.json").read_text())
    train_here(run)
    identity = json.loads((run / "final.json").read_text())["identity"]
    assert identity == job.identity == Job(job.stage, job.structure, settings, {}, {}).identity
