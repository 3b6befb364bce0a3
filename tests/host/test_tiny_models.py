"""The toy weight files load in ComfyUI as what they imitate, and give images worth comparing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from motiongraft.tests.tiny_sd_pack import model_folders
from motiongraft.tests.tiny_sd_pack.checkpoints import write_tiny_sd15
from motiongraft.tests.tiny_sd_pack.in_process import LoadedCheckpoint

STEPS = 4
LEAST_CONTRAST = 0.02
VISIBLE = 1e-3


@pytest.fixture(scope="module")
def sd15(host: Any) -> LoadedCheckpoint:
    return host.load_checkpoint(host.base_directory / "models" / "checkpoints" / model_folders.SD15_CHECKPOINT)


@pytest.fixture(scope="module")
def sdxl(host: Any) -> LoadedCheckpoint:
    return host.load_checkpoint(host.base_directory / "models" / "checkpoints" / model_folders.SDXL_CHECKPOINT)


def animate(host: Any, checkpoint: LoadedCheckpoint, prompt: str = "a red ball", **changes: Any) -> torch.Tensor:
    positive, negative = host.encode(checkpoint.clip, prompt), host.encode(checkpoint.clip, "")
    model = changes.pop("model", checkpoint.model)
    positive = [[changes_of(part, changes) if isinstance(part, dict) else part for part in positive[0]]]
    return host.sample(model, positive, negative, torch.zeros(4, 4, 8, 8), steps=STEPS)


def changes_of(part: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {**part, **changes}


@pytest.mark.parametrize(("name", "kind"), [("sd15", "BaseModel"), ("sdxl", "SDXL")])
def test_checkpoint_loads_as_the_model_it_imitates(request: pytest.FixtureRequest, name: str, kind: str) -> None:
    checkpoint = request.getfixturevalue(name)
    assert type(checkpoint.model.model).__name__ == kind


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_images_are_neither_flat_nor_broken_and_follow_the_prompt(
    host: Any, request: pytest.FixtureRequest, name: str
) -> None:
    checkpoint = request.getfixturevalue(name)
    latents = animate(host, checkpoint)
    images = checkpoint.vae.decode(latents)
    assert torch.isfinite(images).all()
    assert images.std(dim=(1, 2)).min() > LEAST_CONTRAST
    assert (latents - animate(host, checkpoint, "a blue cube")).abs().max() > VISIBLE


def test_encoded_images_are_latents_of_ordinary_size(sd15: LoadedCheckpoint) -> None:
    latents = sd15.vae.encode(torch.rand(2, 64, 64, 3))
    assert latents.shape == (2, 4, 8, 8)
    assert 0.01 < latents.std() < 20


def test_controlnet_changes_the_image(host: Any, sd15: LoadedCheckpoint) -> None:
    path = host.base_directory / "models" / "controlnet" / model_folders.CONTROLNET
    control = host.module("comfy.controlnet").load_controlnet(str(path))
    control = control.copy().set_cond_hint(torch.rand(4, 3, 64, 64), 1.0)
    controlled = animate(host, sd15, control=control, control_apply_to_uncond=False)
    assert (controlled - animate(host, sd15)).abs().max() > VISIBLE


def test_domain_adapter_patches_every_attention_of_the_unet(host: Any, sd15: LoadedCheckpoint) -> None:
    adapter = load_file(host.base_directory / "models" / "loras" / model_folders.DOMAIN_ADAPTER)
    model, _ = host.module("comfy.sd").load_lora_for_models(sd15.model, None, adapter, 1.0, 0.0)
    assert len(model.patches) == len(adapter) // 2
    assert (animate(host, sd15, model=model) - animate(host, sd15)).abs().max() > VISIBLE


def test_same_seed_writes_the_same_file_and_another_seed_does_not(tmp_path: Path) -> None:
    first, again, other = (
        write_tiny_sd15(tmp_path / f"{index}.safetensors", seed) for index, seed in enumerate((1, 1, 2))
    )
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()
