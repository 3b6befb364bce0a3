"""What the tests on a real ComfyUI share: a tiny model that can be inflated, and files for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from motiongraft.tests.helpers.frame_wide_norms import frame_wide_norms as _frame_wide_norms
from motiongraft.tests.helpers.tiny_scene import TinyScene
from motiongraft.tests.tiny_sd_pack.checkpoints import write_motion_lora


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Layers of toy width cost less than waking a second thread for them."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def scene(host: Any, tmp_path_factory: pytest.TempPathFactory) -> TinyScene:
    """A tiny model with motion modules, to sample with."""
    return TinyScene(host, tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="session")
def lora_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MotionLoRA for the toy modules, with a middle block as the published ones have."""
    return write_motion_lora(tmp_path_factory.mktemp("lora") / "zoom.safetensors", middle=True)


@pytest.fixture
def frame_wide_norms() -> Callable[..., Any]:
    """A context in which a plain UNet takes its ResBlock and output norms over all frames of each clip."""
    return _frame_wide_norms


@pytest.fixture
def late_weights(host: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, ComfyUI builds linear layers without weights, as where it manages memory by itself."""
    try:
        management = host.module("comfy.memory_management")
    except ImportError:
        pytest.skip("this ComfyUI does not manage memory by itself")
    return lambda: monkeypatch.setattr(management, "aimdo_enabled", True, raising=False)
