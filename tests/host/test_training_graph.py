"""The whole training graph on a running ComfyUI, as a program queues it: train, cancel, go on, animate."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from motiongraft.client.comfy_client import ComfyClient, Progress
from motiongraft.client.errors import CancelledError, ExecutionError
from motiongraft.tests.helpers.toy_videos import caption, solid, write_video
from motiongraft.tests.tiny_sd_pack import model_folders

WORKFLOWS = Path(__file__).resolve().parents[2] / "example_workflows" / "api"
FRAMES = 4
TIMEOUT_S = 300.0
QUICK = {
    "steps": 2,
    "batch_size": 2,
    "precision": "fp32",
    "warmup_steps": 0,
    "validate_every": 1,
    "save_every": 1,
    "sample_every": 0,
}
TOY_SETTINGS: dict[str, dict[str, Any]] = {
    "CheckpointLoaderSimple": {"ckpt_name": model_folders.SD15_CHECKPOINT},
    "LoadMotionModule": {"motion_module": model_folders.MOTION_MODULE_V3},
    "MotionGraft_LoadTrainingClips": {
        "folder": "training_clips",
        "num_frames": FRAMES,
        "frame_stride": 2,
        "width": 64,
        "height": 64,
    },
    "MotionGraft_TrainingSettings": QUICK,
    "MotionGraft_TrainDomainAdapter": {"rank": 4},
    "MotionGraft_TrainMotionLoRA": {"rank": 4},
    "EmptyLatentImage": {"width": 64, "height": 64, "batch_size": FRAMES},
    "SampleAnimation": {"steps": 2},
}


@pytest.fixture(scope="module", autouse=True)
def clips(server):
    """Two little videos with captions, in the server's input folder."""
    folder = server.base_directory / "input" / "training_clips"
    for name, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        caption(write_video(folder / f"{name}.mp4", 12, paint=solid(colour, 96, 64)), f"a {name} wall")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def runs(server):
    """The folder of runs, emptied before each test."""
    folder = server.base_directory / "output" / "motiongraft"
    for path in folder.glob("*"):
        if path.name != "caches":
            shutil.rmtree(path)
    return folder


def workflow(name: str, **changes: dict[str, Any]) -> dict[str, Any]:
    """An example workflow at toy size; `ClassName={input: value}` changes more of it."""
    nodes: dict[str, Any] = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    for node in nodes.values():
        kind = node["class_type"]
        node["inputs"].update({**TOY_SETTINGS.get(kind, {}), **changes.get(kind.removeprefix("MotionGraft_"), {})})
    return nodes


def run(client: ComfyClient, nodes: dict[str, Any]) -> str:
    prompt_id = client.queue(nodes)
    client.wait(prompt_id, timeout_s=TIMEOUT_S)
    return prompt_id


def test_all_three_stages_and_the_animation_are_one_call(client, server, runs, tmp_path):
    prompt_id = run(client, workflow("train_all_stages"))
    (animation,) = [output for output in client.outputs(prompt_id) if output.filename.startswith("trained")]
    with Image.open(client.download(animation, tmp_path)) as picture:
        assert (picture.size, picture.n_frames) == ((64, 64), FRAMES)
    for name in ("domain_adapter", "motion_module", "zoom_in"):
        assert {path.name for path in (runs / name).iterdir()} >= {"job.json", "metrics.jsonl", "final.safetensors"}
    models = server.base_directory / "models"
    saved = ("loras/my_domain_adapter", "animatediff_models/my_motion_module", "animatediff_motion_lora/my_zoom_in")
    assert all((models / f"{name}.safetensors").is_file() for name in saved)
    listed = client.node_types()["LoadMotionModule"]["input"]["required"]["motion_module"]
    assert "my_motion_module.safetensors" in json.dumps(listed)


@pytest.mark.parametrize("name", ["train_domain_adapter", "train_motion_module", "train_motion_lora"])
def test_the_workflow_of_each_stage_runs_with_samples(client, runs, name):
    run(client, workflow(name, TrainingSettings={"sample_every": 1}))
    (result,) = [path for path in runs.iterdir() if path.name != "caches"]
    with Image.open(result / "samples" / "step-00000002.webp") as picture:
        assert picture.size == (64, 64)
        assert picture.n_frames == (1 if name == "train_domain_adapter" else FRAMES)


def test_a_cancelled_run_is_saved_and_goes_on(client, runs):
    long = workflow("train_motion_lora", TrainingSettings={"steps": 6, "validate_every": 0, "save_every": 0, "seed": 3})
    prompt_id = client.queue(long)

    def cancel(progress: Progress) -> None:
        if progress.node_type == "MotionGraft_TrainMotionLoRA" and progress.value == 2:
            client.cancel(prompt_id)

    with pytest.raises(CancelledError):
        client.wait(prompt_id, cancel, TIMEOUT_S)
    (checkpoint,) = (runs / "zoom_in" / "checkpoints").glob("step-*")
    assert not (runs / "zoom_in" / "final.safetensors").exists()
    run(client, long)
    steps = [json.loads(line) for line in (runs / "zoom_in" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if line["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert [path.name for path in runs.iterdir() if path.name.startswith("zoom_in")] == ["zoom_in"]
    assert int(checkpoint.name.removeprefix("step-")) in (2, 3)


def test_a_second_queue_trains_nothing_anew(client, runs):
    first = workflow("train_motion_lora", TrainingSettings={"seed": 4})
    run(client, first)
    final = runs / "zoom_in" / "final.safetensors"
    made = final.stat().st_mtime_ns
    run(client, first)
    assert final.stat().st_mtime_ns == made


@pytest.mark.parametrize(
    ("name", "changes", "node", "words"),
    [
        ("train_motion_lora", {"LoadTrainingClips": {"num_frames": 16}}, "LoadTrainingClips", "frames"),
        ("train_motion_lora", {"TrainMotionLoRA": {"run_name": "../out"}}, "TrainMotionLoRA", "name"),
        (
            "train_motion_lora",
            {"LoadMotionModule": {"motion_module": model_folders.MOTION_MODULE_SDXL}},
            "TrainMotionLoRA",
            "SDXL",
        ),
    ],
)
def test_what_cannot_be_trained_fails_at_its_node_in_words(client, runs, name, changes, node, words):
    prompt_id = client.queue(workflow(name, **changes))
    with pytest.raises(ExecutionError, match=words) as failed:
        client.wait(prompt_id, timeout_s=TIMEOUT_S)
    assert failed.value.node_type == f"MotionGraft_{node}"
