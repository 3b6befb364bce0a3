"""What a run is, and when two runs are the same."""

import json
from dataclasses import replace

import pytest
import torch

from motiongraft.core.errors import RunError
from motiongraft.training.runs.job import Job, setting_differences, structural_differences
from motiongraft.training.settings import TrainingSettings


def a_job(**changes):
    parts = {
        "stage": "motion module",
        "structure": {"layout": "v3", "base": "abc", "widths": [320, 640], "start": None},
        "settings": TrainingSettings(steps=10),
        "paths": {"base": "/models/a.safetensors", "adapter": None},
        "versions": {"torch": "2.7"},
    }
    return Job(**{**parts, **changes})


def edited(job, **changes):
    return json.dumps({**json.loads(job.to_json()), **changes})


def test_a_job_comes_back_from_its_text():
    job = a_job(settings=TrainingSettings(steps=7, learning_rate=5e-5, ema=0.999, resume="must"))
    assert Job.from_json(job.to_json()) == job
    assert Job.from_json(job.to_json()).identity == job.identity


@pytest.mark.parametrize(
    "change",
    [{"paths": {"base": "/elsewhere"}}, {"versions": {}}, {"settings": TrainingSettings(steps=10, resume="new")}],
)
def test_paths_versions_and_resume_are_not_part_of_the_identity(change):
    assert a_job(**change).identity == a_job().identity


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "motion lora"},
        {"structure": {"layout": "v2"}},
        {"settings": TrainingSettings(steps=11)},
        {"settings": TrainingSettings(steps=10, seed=1)},
    ],
)
def test_stage_structure_and_settings_are_the_identity(change):
    assert a_job(**change).identity != a_job().identity


def test_the_order_of_fields_and_the_type_of_a_round_rate_change_no_identity():
    assert a_job(structure={"a": 1, "b": 2}).identity == a_job(structure={"b": 2, "a": 1}).identity
    whole, fraction = (a_job(settings=TrainingSettings(weight_decay=decay)) for decay in (1, 1.0))
    assert whole.identity == fraction.identity


def test_processes_that_share_a_batch_are_the_same_run_and_those_that_enlarge_it_are_not():
    def identity(**settings):
        return a_job(settings=TrainingSettings(steps=10, **settings)).identity

    assert identity(batch_size=4, processes=2) == identity(batch_size=8) == identity(batch_size=1, processes=8)
    assert identity(batch_size=4, processes=2) != identity(batch_size=4)
    assert identity(batch_size=4, accumulation=2) != identity(batch_size=8)


def test_an_identity_is_the_one_of_runs_that_were_begun_before():
    assert a_job().identity == "dc621745170dc7c42813c803195c4051e57ab6fd3111262dcac0aecb80036cbf"


def test_hashes_of_files_come_back_and_are_not_part_of_the_identity():
    job = a_job(files={"base": {"bytes": 3, "sha256": "ab"}})
    assert Job.from_json(job.to_json()) == job
    assert job.identity == a_job().identity
    older = json.loads(job.to_json())
    del older["files"]
    assert Job.from_json(json.dumps(older)) == a_job()


def test_an_older_text_without_a_newer_setting_has_its_default():
    settings = json.loads(a_job().to_json())["settings"]
    del settings["sample_every"]
    assert Job.from_json(edited(a_job(), settings=settings)) == a_job()


@pytest.mark.parametrize("value", [torch.zeros(2), {1, 2}, {"inner": torch.float32}, {3: "three"}])
def test_a_job_holds_nothing_that_json_does_not(value):
    with pytest.raises(RunError, match=r"structure\.odd"):
        a_job(structure={"odd": value})


def test_tuples_are_lists_so_that_a_stored_job_equals_a_new_one():
    job = a_job(structure={"widths": (320, 640)})
    assert structural_differences(Job.from_json(job.to_json()), job) == []


def test_differences_name_the_field_and_both_values():
    before, after = a_job(structure={"rank": 64, "base": "abc"}), a_job(structure={"rank": 32, "base": "abc", "x": 1})
    assert [str(difference) for difference in structural_differences(before, after)] == [
        "rank 64 → 32",
        "x nothing → 1",
    ]
    slower = a_job(settings=TrainingSettings(steps=10, learning_rate=5e-5, resume="must"))
    assert [str(difference) for difference in setting_differences(a_job(), slower)] == ["learning_rate 0.0001 → 5e-05"]
    assert str(structural_differences(a_job(), replace(a_job(), stage="motion lora"))[0]).startswith("stage")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": 1}, "unknown fields colour"),
        ({"schema": 2}, "schema 1, found 2"),
        ({"stage": 5}, "odd values for stage"),
        ({"structure": []}, "odd values for structure"),
        ({"settings": {"steps": 10, "colour": 1}}, "setting colour is unknown"),
        ({"settings": {"steps": "many"}}, "steps should be of type int"),
        ({"settings": {"steps": 0}}, "steps should be 1 or more"),
    ],
)
def test_a_text_that_is_no_job_is_refused_with_the_field(changes, words):
    with pytest.raises(RunError, match=f"run/job.json.*{words}"):
        Job.from_json(edited(a_job(), **changes), "run/job.json")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_a_text_that_is_no_object_is_refused(text):
    with pytest.raises(RunError, match=r"job\.json should be a JSON object"):
        Job.from_json(text)


def test_a_missing_field_is_named():
    content = json.loads(a_job().to_json())
    del content["versions"]
    with pytest.raises(RunError, match="lacks versions"):
        Job.from_json(json.dumps(content))
