"""Where a run lives, what `resume` makes of an earlier one, and its result."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from motiongraft.core.errors import RunError, SettingsError
from motiongraft.core.tensor_files import read_tensor_file
from motiongraft.training.runs import run_lock
from motiongraft.training.runs.checkpoints import Checkpoint
from motiongraft.training.runs.job import Job
from motiongraft.training.runs.run_folder import open_run
from motiongraft.training.settings import TrainingSettings

FINAL = {"w": torch.arange(6.0).reshape(2, 3)}


def a_job(resume="auto", stage="motion module", paths=None, versions=None, rank=4, **settings):
    structure = {"rank": rank, "base": "abc"}
    return Job(stage, structure, TrainingSettings(resume=resume, **settings), paths or {}, versions or {})


@pytest.fixture
def root(tmp_path):
    return tmp_path / "motiongraft"


def train(root, job, until, name="zoom", finish=False):
    """A run that saves every hundred steps until a step, and is then left."""
    with open_run(root, name, job) as run:
        checkpoint = run.load_checkpoint()
        first = checkpoint.step if checkpoint else 0
        for step in range(first + 1, until + 1):
            run.metrics.append("step", step, loss=1 / step)
            if step % 100 == 0:
                run.save_checkpoint(at_step(step))
        if finish:
            run.write_final(FINAL, {"kind": "toy"})
        return run


def at_step(step):
    return Checkpoint(step, {"weights": {"w": torch.full((2,), float(step))}}, {"step": step})


def opened(root, job, name="zoom"):
    """What `open_run` decides: folder name, step, whether finished, and the messages."""
    with open_run(root, name, job) as run:
        checkpoint = run.load_checkpoint()
        return run.path.name, checkpoint and checkpoint.step, run.is_finished, " | ".join(run.messages)


def folders(root):
    return sorted(path.name for path in root.iterdir())


@pytest.mark.parametrize("resume", ["new", "auto"])
def test_a_free_name_is_used_and_its_job_written(root, resume):
    name, step, is_finished, messages = opened(root, a_job(resume))
    assert (name, step, is_finished) == ("zoom", None, False)
    assert "starts the new run" in messages
    text = (root / "zoom" / "job.json").read_text(encoding="utf-8")
    assert Job.from_json(text) == a_job(resume)
    assert (root / "zoom" / "samples").is_dir()


@pytest.mark.parametrize("name", ["zoom", "Zoom in 2", "a.b_c-d", "推镜头", "x" * 80])
def test_plain_names_are_taken(root, name):
    assert opened(root, a_job(), name)[0] == name


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", " a", "a ", "a.", "a\n", "a\0b", "x" * 81])
def test_names_with_odd_ends_are_refused(root, name):
    with pytest.raises(SettingsError, match="Choose another name"):
        open_run(root, name, a_job())
    assert not root.exists()


@pytest.mark.parametrize("name", ["a/b", "a\\b", "../up", "a:b", "a*", 'a"b', "caches", "Caches", "con", "NUL.txt"])
def test_other_names_are_refused_before_anything_is_made(root, name):
    with pytest.raises(SettingsError, match=r"Choose another name"):
        open_run(root, name, a_job())
    assert not root.exists()


def test_new_never_goes_on(root):
    train(root, a_job("new"), 100)
    train(root, a_job("new"), 100)
    assert opened(root, a_job("new"))[:2] == ("zoom-3", None)
    assert folders(root) == ["zoom", "zoom-2", "zoom-3"]


def test_auto_goes_on_at_the_newest_checkpoint(root):
    train(root, a_job(), 250)
    name, step, is_finished, messages = opened(root, a_job())
    assert (name, step, is_finished) == ("zoom", 200, False)
    assert f"continues at step 200 of {root / 'zoom'}" in messages


def test_a_checkpoint_comes_back_exactly(root):
    train(root, a_job(), 200)
    with open_run(root, "zoom", a_job()) as run:
        checkpoint = run.load_checkpoint()
    assert checkpoint is not None
    assert torch.equal(checkpoint.tensors["weights"]["w"], torch.full((2,), 200.0))
    assert checkpoint.state == {"step": 200}


def test_auto_returns_the_result_of_a_finished_run(root):
    train(root, a_job(), 250, finish=True)
    before = (root / "zoom" / "metrics.jsonl").read_bytes()
    name, _, is_finished, messages = opened(root, a_job())
    assert (name, is_finished) == ("zoom", True)
    assert "is finished" in messages
    assert (root / "zoom" / "metrics.jsonl").read_bytes() == before


def test_auto_takes_the_newest_of_equal_runs(root):
    train(root, a_job("new"), 200)
    train(root, a_job("new"), 100)
    assert opened(root, a_job())[:2] == ("zoom-2", 100)


def test_auto_finds_an_equal_run_behind_a_newer_one(root):
    train(root, a_job(), 100)
    train(root, a_job(learning_rate=5e-5), 100)
    assert opened(root, a_job())[:2] == ("zoom", 100)
    assert opened(root, a_job(learning_rate=5e-5))[:2] == ("zoom-2", 100)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": 5e-5}, "learning_rate 0.0001 → 5e-05"),
        ({"rank": 8}, "rank 4 → 8"),
        ({"stage": "motion lora"}, 'stage "motion module" → "motion lora"'),
    ],
)
def test_a_change_starts_another_run_under_auto_and_is_named(root, change, words):
    train(root, a_job(), 100)
    name, step, _, messages = opened(root, a_job(**change))
    assert (name, step) == ("zoom-2", None)
    assert words in messages
    assert opened(root, a_job())[:2] == ("zoom", 100)


def test_auto_starts_over_where_no_checkpoint_is_left(root):
    train(root, a_job(), 50)
    name, step, _, messages = opened(root, a_job())
    assert (name, step) == ("zoom", None)
    assert "starts over" in messages
    with open_run(root, "zoom", a_job()) as run:
        assert run.metrics.read() == []


def test_moved_files_and_other_versions_are_the_same_run_and_are_told(root):
    train(root, a_job(paths={"base": "/a"}, versions={"torch": "2.7"}), 100)
    moved = a_job(paths={"base": "/b"}, versions={"torch": "2.8"})
    name, step, _, messages = opened(root, moved)
    assert (name, step) == ("zoom", 100)
    assert 'base "/a" → "/b"' in messages
    assert Job.from_json((root / "zoom" / "job.json").read_text()).paths == {"base": "/b"}
    assert Job.from_json((root / "zoom" / "job-1.json").read_text()).paths == {"base": "/a"}


def test_must_goes_on_with_changed_settings_and_keeps_the_old_job(root):
    train(root, a_job(), 200)
    name, step, _, messages = opened(root, a_job("must", learning_rate=5e-5))
    assert (name, step) == ("zoom", 200)
    assert "settings differ: learning_rate 0.0001 → 5e-05" in messages
    opened(root, a_job("must", learning_rate=2e-5))
    rates = {file: json.loads((root / "zoom" / file).read_text())["settings"]["learning_rate"]
             for file in ("job.json", "job-1.json", "job-2.json")}  # fmt: skip
    assert rates == {"job.json": 2e-5, "job-1.json": 1e-4, "job-2.json": 5e-5}


def test_must_with_more_steps_goes_on_with_a_finished_run(root):
    train(root, a_job(steps=200), 200, finish=True)
    old = (root / "zoom" / "final.safetensors").read_bytes()
    assert opened(root, a_job("must", steps=200))[2]
    name, step, is_finished, messages = opened(root, a_job("must", steps=300))
    assert (name, step, is_finished) == ("zoom", 200, False)
    assert "steps 200 → 300" in messages
    assert (root / "zoom" / "final.safetensors").read_bytes() == old
    train(root, a_job("must", steps=300), 300, finish=True)
    assert opened(root, a_job("auto", steps=300))[:3] == ("zoom", 300, True)


def test_fewer_steps_than_were_taken_are_told(root):
    train(root, a_job(steps=200), 200)
    assert "more than the 100 that are set" in opened(root, a_job("must", steps=100))[3]


def test_must_takes_the_newest_run_of_the_name(root):
    train(root, a_job(), 200)
    train(root, a_job("new"), 100)
    assert opened(root, a_job("must"))[:2] == ("zoom-2", 100)


def test_a_numbered_run_can_be_named_itself(root):
    train(root, a_job(), 100)
    train(root, a_job("new"), 200)
    assert opened(root, a_job("must"), "zoom-2")[:2] == ("zoom-2", 200)
    assert opened(root, a_job("new"), "zoom-2")[0] == "zoom-2-2"


def test_must_without_a_run_is_refused(root):
    with pytest.raises(RunError, match="there is no run zoom in"):
        open_run(root, "zoom", a_job("must"))
    assert folders(root) == []


def test_must_without_a_whole_checkpoint_is_refused_and_changes_nothing(root):
    train(root, a_job(), 50)
    before = (root / "zoom" / "job.json").read_bytes()
    with pytest.raises(RunError, match="has no whole checkpoint"):
        open_run(root, "zoom", a_job("must", learning_rate=5e-5))
    assert (root / "zoom" / "job.json").read_bytes() == before
    assert len(train(root, a_job(), 50).metrics.read()) == 50


def test_must_refuses_another_structure_by_name_with_both_values(root):
    train(root, a_job(), 100)
    with pytest.raises(RunError, match="rank is 4 there and 8 here"):
        open_run(root, "zoom", a_job("must", rank=8))
    with pytest.raises(RunError, match='stage is "motion module" there and "motion lora" here; rank is'):
        open_run(root, "zoom", a_job("must", stage="motion lora", rank=8))
    assert folders(root) == ["zoom"]


def foreign_folder(root):
    (root / "zoom").mkdir(parents=True)
    (root / "zoom" / "photo.png").write_bytes(b"png")


def foreign_job(root):
    (root / "zoom").mkdir(parents=True)
    (root / "zoom" / "job.json").write_text('{"render": 1}')


def foreign_bytes(root):
    (root / "zoom").mkdir(parents=True)
    (root / "zoom" / "job.json").write_bytes(b"\xff\xfe\x00")


def foreign_file(root):
    root.mkdir()
    (root / "zoom").write_text("a file")


def contents(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("foreign", [foreign_folder, foreign_job, foreign_bytes, foreign_file])
def test_what_is_no_run_of_ours_is_left_alone(root, foreign):
    foreign(root)
    before = contents(root)
    with pytest.raises(RunError, match=r"cannot go on.*zoom"):
        open_run(root, "zoom", a_job("must"))
    assert contents(root) == before
    assert opened(root, a_job("new"))[0] == "zoom-2"
    name, _, _, messages = opened(root, a_job("auto"))
    assert name == "zoom-2"
    assert "continues" not in messages
    assert {path: path.read_bytes() for path in before} == before


def test_what_was_passed_over_is_told(root):
    foreign_folder(root)
    assert "zoom is no run" in opened(root, a_job())[3]


def test_an_empty_folder_is_no_run_and_no_obstacle(root):
    train(root, a_job(), 100)
    (root / "zoom-2" / "samples").mkdir(parents=True)
    (root / "zoom-2" / "run.lock").write_text("")
    assert opened(root, a_job("must"))[:2] == ("zoom", 100)
    assert opened(root, a_job("new"))[0] == "zoom-3"


def test_names_that_only_begin_alike_are_other_runs(root):
    for name in ("zoom-in", "zoom-02", "zoom-0", "zoom-1", "zoomed", "zoom-2x"):
        train(root, a_job("new"), 100, name)
    with pytest.raises(RunError, match="there is no run zoom in"):
        open_run(root, "zoom", a_job("must"))
    assert opened(root, a_job())[0] == "zoom"


def test_metrics_after_the_checkpoint_are_cut_and_come_again_once(root):
    train(root, a_job(), 250)
    run = train(root, a_job(), 300)
    assert [line["step"] for line in run.metrics.read()] == list(range(1, 301))


def test_a_step_back_within_a_run_cuts_its_metrics_too(root):
    with open_run(root, "zoom", a_job()) as run:
        run.save_checkpoint(at_step(100), is_best=True)
        run.metrics.append("step", 100, loss=1.0)
        run.metrics.append("step", 101, loss=float("nan"))
        assert run.load_best().step == 100
        assert len(run.metrics.read()) == 2
        assert run.load_checkpoint().step == 100
        assert [line["step"] for line in run.metrics.read()] == [100]


def test_each_step_back_checks_the_checkpoint_again(root):
    train(root, a_job(), 200)
    with open_run(root, "zoom", a_job()) as run:
        assert run.load_checkpoint().step == 200
        (root / "zoom" / "checkpoints" / "step-00000200" / "state.json").unlink()
        assert run.load_checkpoint().step == 100


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(root, caplog):
    train(root, a_job(), 200)
    (root / "zoom" / "checkpoints" / "step-00000200" / "weights.safetensors").write_bytes(b"odd")
    _, step, _, messages = opened(root, a_job())
    assert step == 100
    assert "continues at step 100" in messages
    assert "step-00000200 is damaged" in caplog.text


def test_the_result_is_read_back_exactly(root):
    run = train(root, a_job(), 100, finish=True)
    file = read_tensor_file(run.final_path)
    assert torch.equal(file.tensors["w"], FINAL["w"])
    assert file.metadata == {"kind": "toy"}
    assert run.is_finished


def test_a_result_that_changed_is_no_result(root):
    run = train(root, a_job(), 100, finish=True)
    run.final_path.write_bytes(run.final_path.read_bytes()[:-1] + b"\1")
    assert opened(root, a_job())[:3] == ("zoom", 100, False)
    run.final_path.unlink()
    assert opened(root, a_job())[:3] == ("zoom", 100, False)


def test_a_result_that_is_not_finite_is_not_written(root):
    with open_run(root, "zoom", a_job()) as run:
        with pytest.raises(RunError, match="w of the motion module holds NaN"):
            run.write_final({"w": torch.tensor([float("nan")])}, {})
        assert not run.is_finished
        assert not run.final_path.exists()


def test_a_result_that_the_disk_refuses_leaves_the_older_one(root, monkeypatch):
    train(root, a_job(), 100, finish=True)
    before = (root / "zoom" / "final.safetensors").read_bytes()
    with open_run(root, "zoom", a_job()) as run, monkeypatch.context() as patch:

        def refuse(path, target):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(Path, "replace", refuse)
        with pytest.raises(RunError, match=r"The result of the run could not be written.*disk is full"):
            run.write_final({"w": torch.ones(1)}, {})
    assert (root / "zoom" / "final.safetensors").read_bytes() == before
    assert opened(root, a_job())[2]
    assert not list((root / "zoom").glob(".*"))


def test_a_result_without_its_manifest_is_no_result(root, monkeypatch):
    train(root, a_job(), 100, finish=True)
    with open_run(root, "zoom", a_job()) as run, monkeypatch.context() as patch:

        def refuse(path, value):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr("motiongraft.training.runs.run_folder.write_json", refuse)
        with pytest.raises(RunError, match="disk is full"):
            run.write_final({"w": torch.ones(1)}, {})
    assert opened(root, a_job())[:3] == ("zoom", 100, False)


def test_a_run_whose_job_cannot_be_written_leaves_no_folder(root, monkeypatch):
    def refuse(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("motiongraft.training.runs.durable_files.flush_file", refuse)
        with pytest.raises(RunError, match="disk is full"):
            open_run(root, "zoom", a_job())
    assert folders(root) == []
    assert opened(root, a_job())[0] == "zoom"


def test_a_folder_that_cannot_be_written_is_refused_first(root):
    root.parent.joinpath("motiongraft").write_text("a file where the folder should be")
    with pytest.raises(RunError, match="could not be written to"):
        open_run(root, "zoom", a_job())


def test_a_run_in_use_is_refused_until_it_is_closed(root):
    train(root, a_job(), 100)
    with open_run(root, "zoom", a_job()):
        for resume in ("auto", "must"):
            with pytest.raises(RunError, match=f"in use by process {os.getpid()}, which is this one"):
                open_run(root, "zoom", a_job(resume))
        assert opened(root, a_job("new"))[0] == "zoom-2"
    assert opened(root, a_job("auto"), "zoom-2")[0] == "zoom-2"


def test_another_live_process_is_named_and_a_dead_one_is_not_waited_for(root):
    train(root, a_job(), 100)
    hold = f"import fcntl, os; f = open({str(root / 'zoom' / 'run.lock')!r}, 'r+'); fcntl.flock(f, fcntl.LOCK_EX)"
    hold += "; f.write(str(os.getpid())); f.flush(); print('held', flush=True); input()"
    pytest.importorskip("fcntl", reason="locks are made otherwise here")
    process = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(RunError, match=f"is in use by process {process.pid}\\. Wait"):
            open_run(root, "zoom", a_job())
    finally:
        process.kill()
        process.communicate()
    assert (root / "zoom" / "run.lock").read_text() == str(process.pid)
    assert opened(root, a_job())[:2] == ("zoom", 100)


@pytest.mark.parametrize("left", ["4194999", str(os.getpid()), "", "odd"])
def test_the_lock_file_of_a_dead_process_is_taken_over_even_with_a_number_in_use_again(root, left):
    train(root, a_job(), 100)
    (root / "zoom" / "run.lock").write_text(left)
    assert opened(root, a_job())[:2] == ("zoom", 100)


def test_a_disk_that_knows_no_locks_is_told_and_nothing_there_is_cleaned_up(root, monkeypatch, caplog):
    train(root, a_job(), 100)
    (root / "zoom" / "checkpoints" / ".step-00000200.tmp-1").mkdir()

    def refuse(handle):
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(run_lock, "_lock_file", refuse)
        assert opened(root, a_job())[:2] == ("zoom", 100)
    assert "cannot be locked" in caplog.text
    assert (root / "zoom" / "checkpoints" / ".step-00000200.tmp-1").exists()


def test_what_a_dead_process_left_half_written_is_removed(root):
    train(root, a_job(), 100)
    run = root / "zoom"
    (run / ".final.tmp-4194999").mkdir()
    (run / ".final.tmp-4194999" / ".tmpAbCdEf").write_bytes(b"half")
    (run / ".metrics.jsonl.tmp-4194999").write_text("half")
    (run / "checkpoints" / ".step-00000200.tmp-4194999").mkdir()
    assert opened(root, a_job())[:2] == ("zoom", 100)
    assert not list(run.rglob(".*"))


def test_a_failed_opening_lets_go_of_the_run(root):
    train(root, a_job(), 50)
    for _ in range(2):
        with pytest.raises(RunError, match="no whole checkpoint"):
            open_run(root, "zoom", a_job("must"))
