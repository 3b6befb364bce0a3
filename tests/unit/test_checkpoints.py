"""Checkpoints are whole or not there, whatever ends the process that writes them."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from motiongraft.core.errors import RunError
from motiongraft.training.runs import checkpoints, finite_tensors
from motiongraft.training.runs.checkpoints import Checkpoint, CheckpointFolder, read_checkpoint, step_of

IDENTITY = "0" * 64
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    return CheckpointFolder(tmp_path / "checkpoints")


def a_checkpoint(step, value=None):
    generator = torch.Generator().manual_seed(step if value is None else value)
    weights = {"a": torch.randn(64, 64, generator=generator), "b": torch.randn(3, generator=generator)}
    return Checkpoint(step, {"weights": weights}, {"seen": step * 4})


def save(folder, *steps, best=()):
    for step in steps:
        folder.save(a_checkpoint(step), IDENTITY, step in best)


def steps_in(folder):
    """The steps on the disk; anything else that lies there fails."""
    names = {path.name for path in folder.path.iterdir()} - {"best.json"}
    return [step_of(folder.path / name) for name in sorted(names)]


def newest(folder):
    path = folder.find_newest()
    return None if path is None else read_checkpoint(path)


def newest_step(folder):
    path = folder.find_newest()
    return path and step_of(path)


def assert_same(found, expected):
    assert found.step == expected.step
    assert found.state == expected.state
    assert found.tensors.keys() == expected.tensors.keys()
    for group, tensors in expected.tensors.items():
        assert found.tensors[group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            back = found.tensors[group][name]
            assert back.dtype == tensor.dtype, name
            assert back.shape == tensor.shape, name
            assert torch.equal(back, tensor), name


def test_tensors_of_every_kind_and_the_state_come_back_exactly(folder):
    base = torch.randn(4, 6)
    tensors = {
        "weights": {
            "bf16": base.bfloat16(),
            "fp16": base.half(),
            "float64": base.double() / 3,
            "parameter": torch.nn.Parameter(base.clone()),
        },
        "optimizer": {
            "step": torch.tensor(1234.0),
            "count": torch.tensor(2**40 + 1),
            "indices": torch.arange(5),
            "flags": torch.tensor([True, False]),
            "none": torch.zeros(0, 3),
            "transposed": base.t(),
            "rows": base[1:3],
            "again": base,
        },
        "ema": {},
    }
    state = {"scaler": {"scale": 65536.0, "growth": 3}, "best": float("inf"), "rate": 0.1 + 0.2, "list": [1, None, "ü"]}
    checkpoint = Checkpoint(1200, tensors, state)
    path = folder.save(checkpoint, IDENTITY)
    assert path.name == "step-00001200"
    assert_same(newest(folder), checkpoint)


def test_a_state_that_json_does_not_hold_is_refused_when_it_is_made():
    with pytest.raises(RunError, match=r"state\.random"):
        Checkpoint(1, {}, {"random": torch.zeros(1)})
    with pytest.raises(RunError, match="plain name"):
        Checkpoint(1, {"../up": {}}, {})


def test_there_is_none_at_first(folder):
    assert newest(folder) is None
    assert folder.load_best() is None


def test_the_last_two_and_the_best_are_kept(folder):
    save(folder, 100, 200, 300, 400, 500, best=(100, 200))
    assert steps_in(folder) == [200, 400, 500]
    assert_same(folder.load_best(), a_checkpoint(200))
    assert_same(newest(folder), a_checkpoint(500))


def test_a_step_that_is_saved_again_is_replaced(folder):
    save(folder, 1, 2)
    again = a_checkpoint(2, value=99)
    folder.save(again, IDENTITY)
    assert_same(newest(folder), again)
    assert steps_in(folder) == [1, 2]


def test_checkpoints_that_a_run_has_left_behind_are_not_gone_on_from(folder):
    save(folder, 100, 200, 300, best=(300,))
    save(folder, 150)
    assert newest_step(folder) == 150
    assert folder.load_best() is None


def corrupt_bytes(path):
    content = bytearray((path / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "weights.safetensors").write_bytes(content)


def truncate(path):
    content = (path / "weights.safetensors").read_bytes()
    (path / "weights.safetensors").write_bytes(content[:-10])


def lose_tensors(path):
    (path / "weights.safetensors").unlink()


def change_state(path):
    (path / "state.json").write_text('{"seen": 9}\n')


def corrupt_manifest(path):
    (path / "manifest.json").write_text('{"schema": 1, "fil')


def empty_manifest(path):
    (path / "manifest.json").write_text("{}")


def odd_manifest(path):
    (path / "manifest.json").write_text('{"step": 200, "files": {"state.json": 5}}')


def lose_manifest(path):
    (path / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (corrupt_bytes, "weights.safetensors has changed"),
        (truncate, "bytes, and its manifest lists"),
        (lose_tensors, "weights.safetensors cannot be read"),
        (change_state, "state.json has 12 bytes"),
        (corrupt_manifest, "manifest is missing or damaged"),
        (empty_manifest, "manifest is of step None|manifest is missing"),
        (odd_manifest, "state.json has"),
        (lose_manifest, "manifest is missing or damaged"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(folder, caplog, damage, named):
    save(folder, 100, 200)
    damage(folder.path / "step-00000200")
    assert_same(newest(folder), a_checkpoint(100))
    assert "step-00000200 is damaged" in caplog.text
    assert any(words in caplog.text for words in named.split("|"))
    save(folder, 200)
    assert_same(newest(folder), a_checkpoint(200))


def test_a_manifest_of_another_step_does_not_count(folder, caplog):
    save(folder, 100, 200)
    (folder.path / "step-00000200").rename(folder.path / "step-00000900")
    assert newest_step(folder) == 100
    assert "manifest is of step 200" in caplog.text


def test_a_damaged_best_is_named_and_not_loaded(folder, caplog):
    save(folder, 100, 200, best=(100,))
    corrupt_bytes(folder.path / "step-00000100")
    assert folder.load_best() is None
    assert "step-00000100, is damaged" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_is_not_finite_is_never_written(folder, value, dtype):
    save(folder, 100)
    broken = Checkpoint(200, {"weights": {"good": torch.ones(2), "bad": torch.tensor([1, value], dtype=dtype)}}, {})
    with pytest.raises(RunError, match="bad of the weights at step 200 holds NaN or infinity"):
        folder.save(broken, IDENTITY)
    assert steps_in(folder) == [100]


def test_8_bit_floats_are_checked_too(folder):
    tensor = torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)
    with pytest.raises(RunError, match="holds NaN"):
        folder.save(Checkpoint(1, {"weights": {"w": tensor}}, {}), IDENTITY)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "not permitted")],
)
@pytest.mark.parametrize("place", ["tensors", "manifest", "rename"])
def test_a_disk_that_refuses_costs_that_checkpoint_alone(folder, monkeypatch, number, words, place):
    save(folder, 100, 200, best=(100,))

    def refuse(*args):
        raise OSError(number, os.strerror(number))

    def refuse_manifest(path, value):
        return refuse() if path.name == "manifest.json" else path.write_text(json.dumps(value))

    with monkeypatch.context() as patch:
        if place == "tensors":
            patch.setattr(finite_tensors, "flush_file", refuse)
        elif place == "manifest":
            patch.setattr(checkpoints, "write_json", refuse_manifest)
        else:
            patch.setattr(Path, "rename", refuse)
        with pytest.raises(RunError, match=f"The checkpoint of step 300 could not be written to .*{words}"):
            save(folder, 300, best=(300,))
    assert steps_in(folder) == [100, 200]
    assert_same(folder.load_best(), a_checkpoint(100))
    save(folder, 300)
    assert newest_step(folder) == 300


def test_a_disk_that_is_really_full_costs_that_checkpoint_alone(folder):
    resource = pytest.importorskip("resource", reason="file sizes cannot be limited here")
    save(folder, 100)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(RunError, match="larger than is allowed"):
            save(folder, 200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert steps_in(folder) == [100]


def test_a_refused_replacement_leaves_the_older_one(folder, monkeypatch):
    save(folder, 100)
    rename = Path.rename

    def refuse(path, target):
        if ".tmp-" in path.name:
            raise OSError(errno.EIO, "odd")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(RunError, match="step 100"):
            folder.save(a_checkpoint(100, value=5), IDENTITY)
    assert_same(newest(folder), a_checkpoint(100))
    assert steps_in(folder) == [100]


def test_an_interrupt_while_saving_leaves_nothing_half(folder, monkeypatch):
    save(folder, 100)

    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(finite_tensors, "flush_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(folder, 200)
    assert steps_in(folder) == [100]


def test_what_a_dead_process_left_is_removed_and_what_it_moved_aside_put_back(folder):
    save(folder, 100, 200)
    half = folder.path / ".step-00000300.tmp-4194999"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    (folder.path / "step-00000200").rename(folder.path / ".step-00000200.replaced")
    (folder.path / ".best.json.tmp-4194999").write_text("{")
    folder.clean_up()
    assert steps_in(folder) == [100, 200]
    assert_same(newest(folder), a_checkpoint(200))


KILLED_WHILE_SAVING = """
import importlib.util, os, random, signal, sys, time
from pathlib import Path

root, runs = Path(sys.argv[1]), Path(sys.argv[2])
init, folders = root / "__init__.py", [str(root)]
spec = importlib.util.spec_from_file_location("motiongraft", init, submodule_search_locations=folders)
sys.modules["motiongraft"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["motiongraft"])
import torch
from motiongraft.training.runs.checkpoints import Checkpoint
from motiongraft.training.runs.job import Job
from motiongraft.training.runs.run_folder import open_run
from motiongraft.training.settings import TrainingSettings

torch.set_num_threads(1)
job = Job("motion module", {"rank": 4}, TrainingSettings(), {}, {})


def reopen():
    run = open_run(runs, "killed", job)
    checkpoint = run.load_checkpoint()
    for name, tensor in checkpoint.tensors["weights"].items() if checkpoint else ():
        assert bool((tensor == checkpoint.step).all()), (name, checkpoint.step)
    assert checkpoint is None or checkpoint.state == {"step": checkpoint.step}
    return run, checkpoint.step if checkpoint else 0


def save_until_killed(told):
    run, step = reopen()
    while True:
        step += 1
        run.metrics.append("step", step, loss=1.0)
        weights = {f"w{n}": torch.full((200, 200), float(step)) for n in range(4)}
        run.save_checkpoint(Checkpoint(step, {"weights": weights}, {"step": step}), is_best=step % 7 == 1)
        os.write(told, b"%d\\n" % step)


generator, reached = random.Random(0), 0
for _ in range(10):
    listening, told = os.pipe()
    child = os.fork()
    if child == 0:
        save_until_killed(told)
    os.close(told)
    first = os.read(listening, 100)  # a checkpoint of this life is whole
    time.sleep(generator.uniform(0, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    said = [int(line) for line in (first + os.fdopen(listening, "rb").read()).split()]
    run, step = reopen()
    steps = [line["step"] for line in run.metrics.read()]
    run.close()
    assert step >= max([reached, *said]), (step, reached, said)
    assert steps == list(range(1, step + 1)), steps
    assert not [path for path in runs.rglob(".*")], "left behind"
    assert [path.name for path in runs.iterdir()] == ["killed"]
    reached = step
print("reached", reached)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_a_process_killed_while_it_saves_loses_no_finished_step(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_SAVING, str(ROOT), str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 10
