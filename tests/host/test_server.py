"""A running ComfyUI with this checkout as custom node, driven as a program would drive it."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from motiongraft.client.comfy_client import ComfyClient, Progress
from motiongraft.client.errors import CancelledError, ExecutionError, WorkflowError
from motiongraft.standalone.headless import HeadlessComfyUI
from motiongraft.tests.helpers.toy_videos import RATE, write_video
from motiongraft.tests.tiny_sd_pack import model_folders
from motiongraft.tests.tiny_sd_pack.checkpoints import write_motion_lora

WORKFLOWS = Path(__file__).resolve().parents[2] / "example_workflows" / "api"
FRAMES = 4
STEPS = 2
LONG = 10_000
RUN_TIMEOUT_S = 120.0
TOY_SETTINGS: dict[str, dict[str, Any]] = {
    "CheckpointLoaderSimple": {"ckpt_name": model_folders.SD15_CHECKPOINT},
    "LoadMotionModule": {"motion_module": model_folders.MOTION_MODULE_V3},
    "EmptyLatentImage": {"width": 64, "height": 64, "batch_size": FRAMES},
    "SampleAnimation": {"steps": STEPS},
}


def workflow(name: str = "animate", **changes: dict[str, Any]) -> dict[str, Any]:
    """An example workflow at toy size; `ClassName={input: value}` changes more of it."""
    nodes: dict[str, Any] = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    for node in nodes.values():
        kind = node["class_type"]
        node["inputs"].update({**TOY_SETTINGS.get(kind, {}), **changes.get(kind, {})})
    return copy.deepcopy(nodes)


def animation_of(client: ComfyClient, nodes: dict[str, Any], folder: Path) -> Path:
    """The file that a workflow saves."""
    prompt_id = client.queue(nodes)
    client.wait(prompt_id, timeout_s=RUN_TIMEOUT_S)
    files = [client.download(output, folder) for output in client.outputs(prompt_id)]
    return next(path for path in files if path.suffix == ".webp")


def test_example_workflow_becomes_an_animation_of_all_frames(client: ComfyClient, tmp_path: Path) -> None:
    steps: list[Progress] = []
    prompt_id = client.queue(workflow(SampleAnimation={"seed": 1}))
    client.wait(prompt_id, steps.append, RUN_TIMEOUT_S)
    (output,) = client.outputs(prompt_id)
    with Image.open(client.download(output, tmp_path)) as animation:
        assert (animation.size, getattr(animation, "n_frames", 1)) == ((64, 64), FRAMES)
    assert Progress("7", "SampleAnimation", STEPS, STEPS) in steps


def test_the_long_loop_becomes_an_animation_longer_than_a_window(client: ComfyClient, tmp_path: Path) -> None:
    changes = {
        "MotionGraft_PromptTravel": {"prompts": "0: a cat\n10: a dog", "num_frames": 20},
        "EmptyLatentImage": {"batch_size": 20, "width": 64, "height": 64},
    }
    with Image.open(animation_of(client, workflow("long_loop", **changes), tmp_path)) as animation:
        assert getattr(animation, "n_frames", 1) == 20


def test_sdxl_becomes_an_animation_of_all_frames(client: ComfyClient, tmp_path: Path) -> None:
    changes = {
        "CheckpointLoaderSimple": {"ckpt_name": model_folders.SDXL_CHECKPOINT},
        "LoadMotionModule": {"motion_module": model_folders.MOTION_MODULE_SDXL},
    }
    with Image.open(animation_of(client, workflow("sdxl", **changes), tmp_path)) as animation:
        assert (animation.size, getattr(animation, "n_frames", 1)) == ((64, 64), FRAMES)


def test_both_camera_motions_of_the_mix_move_the_clip(
    server: HeadlessComfyUI, client: ComfyClient, tmp_path: Path
) -> None:
    folder = server.base_directory / "models" / "animatediff_motion_lora"
    for seed, name in enumerate(("ZoomIn", "PanLeft")):
        write_motion_lora(folder / f"v2_lora_{name}.safetensors", seed=seed, middle=True)
    nodes = workflow("motion_lora_mix", LoadMotionModule={"motion_module": model_folders.MOTION_MODULE_V2})
    clips = []
    for without in ("3", "4", None):
        changed = copy.deepcopy(nodes)
        if without:
            changed[without]["inputs"]["strength"] = 0
        with Image.open(animation_of(client, changed, tmp_path / str(without))) as animation:
            assert getattr(animation, "n_frames", 1) == FRAMES
            clips.append(animation.convert("RGB").tobytes())
    assert len(set(clips)) == 3


def test_a_video_guides_a_clip_whose_prompt_travels(
    server: HeadlessComfyUI, client: ComfyClient, tmp_path: Path
) -> None:
    """In windows, at the video's own speed."""
    frames = 20
    write_video(server.base_directory / "input" / "video.mp4", 24)
    changes = {
        "MotionGraft_PromptTravel": {"prompts": "0: a cat\n10: a dog", "num_frames": frames},
        "EmptyLatentImage": {"batch_size": frames, "width": 64, "height": 64},
        "ImageFromBatch": {"length": frames},
        "ImageScale": {"width": 64, "height": 64},
        "ControlNetLoader": {"control_net_name": model_folders.CONTROLNET},
    }
    path = animation_of(client, workflow("prompt_travel_controlnet", **changes), tmp_path)
    with Image.open(path) as animation:
        animation.load()
        assert (animation.size, getattr(animation, "n_frames", 1)) == ((64, 64), frames)
        assert animation.info["duration"] == pytest.approx(1000 / RATE, abs=1)


def image_to_video(**changes: dict[str, Any]) -> dict[str, Any]:
    """The example workflow at toy size, with a toy file of SparseCtrl."""
    loaded = {"sparsectrl": model_folders.SPARSECTRL, **changes.pop("MotionGraft_LoadSparseCtrl", {})}
    return workflow("image_to_video", MotionGraft_LoadSparseCtrl=loaded, **changes)


@pytest.fixture
def picture(server: HeadlessComfyUI) -> str:
    """The name of a picture in ComfyUI's input folder, of another shape than the clip."""
    folder = server.base_directory / "input"
    folder.mkdir(exist_ok=True)
    Image.linear_gradient("L").convert("RGB").resize((96, 80)).save(folder / "picture.png")
    return "picture.png"


def test_the_image_to_video_example_becomes_an_animation(client: ComfyClient, picture: str, tmp_path: Path) -> None:
    with Image.open(animation_of(client, image_to_video(LoadImage={"image": picture}), tmp_path)) as animation:
        assert (animation.size, getattr(animation, "n_frames", 1)) == ((64, 64), FRAMES)


def test_images_and_frames_that_differ_in_number_fail_at_apply_controlnet(client: ComfyClient, picture: str) -> None:
    nodes = image_to_video(LoadImage={"image": picture}, MotionGraft_LoadSparseCtrl={"frames": "0, -1"})
    with pytest.raises(ExecutionError, match=r"2 frames .* and 1 image") as failed:
        client.wait(client.queue(nodes), timeout_s=RUN_TIMEOUT_S)
    assert failed.value.node_type == "ControlNetApplyAdvanced"


def test_prompts_for_another_number_of_frames_are_refused_in_words(client: ComfyClient) -> None:
    prompt_id = client.queue(workflow("long_loop"))
    with pytest.raises(ExecutionError, match="48"):
        client.wait(prompt_id, timeout_s=RUN_TIMEOUT_S)


@pytest.mark.parametrize("sampler", ["SampleAnimation", "KSampler"])
def test_the_steps_of_free_init_are_counted_over_all_iterations(client: ComfyClient, sampler: str) -> None:
    nodes = workflow(SampleAnimation={"seed": 11})
    settings = {"iterations": 3, "filter": "butterworth", "order": 4, "spatial_stop": 0.25, "temporal_stop": 0.25}
    nodes["10"] = {"class_type": "MotionGraft_FreeInit", "inputs": {"model": ["3", 0], **settings}}
    shared = {"kind": "mixed", "length": 16, "overlap": 4, "share": 0.2, "seeds": "2-3: 5"}
    nodes["11"] = {"class_type": "MotionGraft_FrameNoise", "inputs": {"seed": 3, **shared}}
    nodes["7"]["inputs"] |= {"model": ["10", 0], "noise": ["11", 0]}
    if sampler == "KSampler":
        inputs = nodes["7"]["inputs"]
        inputs["latent_image"] = inputs.pop("latent")
        del inputs["noise"]
        nodes["7"]["class_type"] = sampler
    steps: list[Progress] = []
    client.wait(client.queue(nodes), steps.append, RUN_TIMEOUT_S)
    seen = [(each.value, each.maximum) for each in steps if each.node_id == "7"][1:]
    assert seen == sorted(seen)
    assert {maximum for _, maximum in seen} == {3 * STEPS}
    assert seen[-1] == (3 * STEPS, 3 * STEPS)


def test_a_call_saved_before_an_input_came_still_runs(client: ComfyClient) -> None:
    nodes = workflow(SampleAnimation={"seed": 4})
    del nodes["2"]["inputs"]["generation"]
    client.wait(client.queue(nodes), timeout_s=RUN_TIMEOUT_S)


def test_second_run_reports_what_the_cache_held(client: ComfyClient) -> None:
    for seed in (2, 3):
        prompt_id = client.queue(workflow(SampleAnimation={"seed": seed}))
        client.wait(prompt_id, timeout_s=RUN_TIMEOUT_S)
    assert {"1", "2", "3", "6"} <= client.cached_nodes(prompt_id)
    assert "7" not in client.cached_nodes(prompt_id)


def test_file_that_is_not_there_is_refused_with_its_node(client: ComfyClient) -> None:
    with pytest.raises(WorkflowError, match=r"node 1 \(CheckpointLoaderSimple\).*missing\.safetensors") as refused:
        client.queue(workflow(CheckpointLoaderSimple={"ckpt_name": "missing.safetensors"}))
    assert set(refused.value.node_errors) >= {"1"}


def test_module_for_another_model_fails_at_its_node_in_words(client: ComfyClient) -> None:
    prompt_id = client.queue(workflow(LoadMotionModule={"motion_module": model_folders.MOTION_MODULE_SDXL}))
    with pytest.raises(ExecutionError, match="IncompatibleModelError") as failed:
        client.wait(prompt_id, timeout_s=RUN_TIMEOUT_S)
    assert failed.value.node_type == "InflateModel"


def wait_and_cancel(client: ComfyClient, prompt_id: str) -> None:
    """Wait for a run, and cancel it at its first step."""

    def cancel(progress: Progress) -> None:
        if progress.node_type == "SampleAnimation" and progress.value == 1:
            client.cancel(prompt_id)

    client.wait(prompt_id, cancel, RUN_TIMEOUT_S)


def test_running_animation_can_be_cancelled(client: ComfyClient) -> None:
    prompt_id = client.queue(workflow(SampleAnimation={"steps": LONG, "seed": 4}))
    with pytest.raises(CancelledError, match="interrupted at node 7"):
        wait_and_cancel(client, prompt_id)


def test_queued_animation_can_be_cancelled(client: ComfyClient) -> None:
    running = client.queue(workflow(SampleAnimation={"steps": LONG, "seed": 5}))
    waiting = client.queue(workflow(SampleAnimation={"seed": 6}))
    client.cancel(waiting)
    with pytest.raises(CancelledError, match="neither queued nor finished"):
        client.wait(waiting, timeout_s=RUN_TIMEOUT_S)
    with pytest.raises(CancelledError, match="interrupted"):
        wait_and_cancel(client, running)
