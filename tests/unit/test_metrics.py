"""The log of a run's measurements: every step once, whatever ended the process."""

import json
import math
import sys

import pytest
import torch

from motiongraft.core.errors import RunError
from motiongraft.training.runs.metrics import MetricsLog
from motiongraft.training.runs.tensorboard_scalars import TensorBoardScalars


@pytest.fixture
def metrics(tmp_path):
    return MetricsLog(tmp_path / "metrics.jsonl")


def log_steps(metrics, *steps):
    for step in steps:
        metrics.append("step", step, loss=step / 3)


def steps_of(metrics):
    return [record["step"] for record in metrics.read()]


def test_lines_come_back_as_they_were_appended(metrics):
    metrics.append("step", 1, loss=0.1, learning_rate=1e-4)
    metrics.append("validation", 1, loss=1 / 3, by_timestep={50: 0.5}, note="ü", nothing=None)
    assert metrics.read() == [
        {"kind": "step", "step": 1, "loss": 0.1, "learning_rate": 1e-4},
        {"kind": "validation", "step": 1, "loss": 1 / 3, "by_timestep": {"50": 0.5}, "note": "ü", "nothing": None},
    ]


def test_a_log_that_was_never_written_is_empty(metrics):
    assert metrics.read() == []
    metrics.cut_after(3)
    assert not metrics.path.exists()


def test_every_line_is_in_the_file_at_once(metrics):
    log_steps(metrics, 1)
    assert json.loads(metrics.path.read_text(encoding="utf-8"))["step"] == 1


def test_numbers_that_json_lacks_come_back_and_any_json_reader_takes_them(metrics):
    metrics.append("step", 1, loss=math.nan, norms=[math.inf, -math.inf, 1.0])

    def refuse(name):
        raise AssertionError(name)

    json.loads(metrics.path.read_text(encoding="utf-8"), parse_constant=refuse)
    record = metrics.read()[0]
    assert math.isnan(record["loss"])
    assert record["norms"] == [math.inf, -math.inf, 1.0]


@pytest.mark.parametrize("torn", [b'{"kind": "step", "st', b"\0\0\0\0", b'{"kind": "step", "step": 3}'])
def test_a_torn_last_line_is_ignored_then_cut(metrics, torn):
    log_steps(metrics, 1, 2)
    with metrics.path.open("ab") as file:
        file.write(torn)
    assert steps_of(metrics) == [1, 2]
    log_steps(metrics, 3)
    assert steps_of(metrics) == [1, 2, 3]
    assert torn + b"{" not in metrics.path.read_bytes()


def test_a_file_that_is_one_torn_line_begins_anew(metrics):
    metrics.path.write_bytes(b'{"ki')
    log_steps(metrics, 1)
    assert steps_of(metrics) == [1]


def test_a_damaged_line_in_the_middle_is_left_out_with_a_warning(metrics, caplog):
    log_steps(metrics, 1)
    with metrics.path.open("ab") as file:
        file.write(b"\xff\xfe odd\n")
    log_steps(metrics, 2)
    assert steps_of(metrics) == [1, 2]
    assert "line 2" in caplog.text


def test_later_steps_are_cut_and_earlier_lines_kept_byte_for_byte(metrics):
    log_steps(metrics, 1, 2)
    whole = metrics.path.read_bytes()
    log_steps(metrics, 3, 4)
    metrics.cut_after(2)
    assert metrics.path.read_bytes() == whole
    log_steps(metrics, 3)
    assert steps_of(metrics) == [1, 2, 3]
    assert [path.name for path in metrics.path.parent.iterdir()] == ["metrics.jsonl"]


def test_a_tensor_is_refused_by_name(metrics):
    with pytest.raises(RunError, match=r"step\.loss should be a number or text, found a Tensor"):
        metrics.append("step", 1, loss=torch.zeros(()))
    assert metrics.read() == []


def test_a_line_that_the_disk_refuses_is_an_error_in_words(tmp_path):
    metrics = MetricsLog(tmp_path / "gone" / "metrics.jsonl")
    with pytest.raises(RunError, match="A line of metrics could not be written to"):
        metrics.append("step", 1)


@pytest.fixture
def event_accumulator():
    return pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard")


def curve(event_accumulator, folder, name):
    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path, event_accumulator):
    folder = tmp_path / "tensorboard"
    first = MetricsLog(tmp_path / "metrics.jsonl", TensorBoardScalars(folder))
    for step in (1, 2, 3):
        first.append("step", step, loss=float(step), by_timestep={50: 0.5}, note="text")
    first.close()
    second = MetricsLog(tmp_path / "metrics.jsonl", TensorBoardScalars(folder))
    second.cut_after(1)
    second.append("step", 2, loss=20.0)
    second.close()
    assert curve(event_accumulator, folder, "step/loss") == [(1, 1.0), (2, 20.0)]
    assert curve(event_accumulator, folder, "step/by_timestep/50") == [(1, 0.5)]


def test_a_missing_tensorboard_costs_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.delattr(torch.utils, "tensorboard", raising=False)
    metrics = MetricsLog(tmp_path / "metrics.jsonl", TensorBoardScalars(tmp_path / "tensorboard"))
    log_steps(metrics, 1, 2)
    metrics.close()
    assert steps_of(metrics) == [1, 2]
    assert not (tmp_path / "tensorboard").exists()
    assert "failed" not in caplog.text


def test_a_failing_tensorboard_is_left_out_with_a_warning(tmp_path, caplog):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    metrics = MetricsLog(tmp_path / "metrics.jsonl", TensorBoardScalars(tmp_path / "tensorboard"))
    log_steps(metrics, 1, 2)
    assert steps_of(metrics) == [1, 2]
    assert caplog.text.count("TensorBoard failed") == 1
