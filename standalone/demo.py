"""The demo: an animation from toy weights, made by a headless ComfyUI in well under a minute without a GPU."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..client.comfy_client import ComfyClient, Workflow
from ..client.errors import ClientError
from ..client.run import show_progress
from ..core.errors import MotionError
from ..tests.tiny_sd_pack.checkpoints import write_motion_module, write_tiny_sd15
from .headless import HeadlessComfyUI
from .host_installation import find_or_install_host
from .host_location import CHECKOUT
from .stop_signals import Stopped, stop_signals_raise

FOLDER = CHECKOUT / ".demo"
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


def main() -> int:
    """Print the path of a new animation as the last line; 1 with the reason on stderr if there is none."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # toy tensors lose time to threads; ComfyUI inherits this
    try:
        with stop_signals_raise():
            print(animate(FOLDER))  # noqa: T201 - the command's answer
    except Stopped as stop:
        sys.stderr.write(f"\nstopped by {stop}\n")
        return stop.exit_status
    except (MotionError, ClientError) as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    return 0


def animate(folder: Path) -> Path:
    """The animation that the example workflow makes of toy weights, in `folder`/output.

    Raises: HostError if ComfyUI is missing or does not start, ClientError if the workflow fails.
    """
    host = find_or_install_host()
    sys.stderr.write(f"ComfyUI from {host}\n")
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
