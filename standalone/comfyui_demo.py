"""The demo where there is a ComfyUI: an animation from toy weights, in well under a minute without a GPU."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..client.comfy_client import ComfyClient, Workflow
from ..client.run import show_progress
from ..tests.tiny_sd_pack.checkpoints import write_motion_module, write_tiny_sd15
from .headless import HeadlessComfyUI
from .host_location import CHECKOUT

WORKFLOW = CHECKOUT / "example_workflows" / "api" / "animate.json"
CHECKPOINT = "tiny_sd15.safetensors"
MOTION_MODULE = "tiny_v3.safetensors"
TOY_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "CheckpointLoaderSimple": {"ckpt_name": CHECKPOINT},
    "LoadMotionModule": {"motion_module": MOTION_MODULE},
    "EmptyLatentImage": {"width": 128, "height": 128},
    "SampleAnimation": {"steps": 8},
}
"""What the example workflow needs changed to run on toy weights without a GPU, by node class."""


def animate(host: Path, folder: Path) -> Path:
    """The animation that the example workflow makes of toy weights in this ComfyUI, in `folder`/output.

    Raises: HostError if ComfyUI does not start, ClientError if the workflow fails.
    """
    write_tiny_sd15(folder / "models" / "checkpoints" / CHECKPOINT)
    write_motion_module(folder / "models" / "animatediff_models" / MOTION_MODULE)
    with HeadlessComfyUI(host, folder) as comfyui:
        sys.stderr.write(f"running at {comfyui.url}, log in {comfyui.log}\n")
        client = ComfyClient(comfyui.url)
        prompt_id = client.queue(toy_workflow())
        client.wait(prompt_id, show_progress)
        sys.stderr.write("\n")
        saved = [output for output in client.outputs(prompt_id) if output.folder == "output"]
        return comfyui.base_directory / "output" / saved[-1].subfolder / saved[-1].filename


def toy_workflow() -> Workflow:
    """The example workflow with the toy settings."""
    workflow: dict[str, Any] = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for node in workflow.values():
        node["inputs"].update(TOY_SETTINGS.get(node["class_type"], {}))
    return workflow
