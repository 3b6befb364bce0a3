"""Models of the real topologies with random weights: nothing to download, and every activation finite."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.supported_models
from comfy.model_patcher import ModelPatcher
from safetensors.torch import save_file

from ..tests.tiny_sd_pack.motion_weights import add_motion_modules
from ..tests.tiny_sd_pack.random_weights import RandomWeights
from ..tests.tiny_sd_pack.unet_weights import UnetSize, add_unet
from .settings import WIDTH, Settings

TOPOLOGIES = {
    "sd15": UnetSize(WIDTH, (1, 2, 4, 4), (1, 1, 1, 0), context_width=768, linear_projection=False),
    "sdxl": UnetSize(WIDTH, (1, 2, 4), (0, 2, 10), context_width=2048, linear_projection=True, label_width=2816),
}
"""Source: comfy/supported_models.py, SD15 and SDXL."""
POSITIONS = {"v1": 24, "v2": 32, "v3": 32, "sdxl-beta": 32}
SEED = 0


def random_base(settings: Settings) -> ModelPatcher:
    """A UNet as ComfyUI's own loader makes it, in the types that it chooses for this machine."""
    size = topology(settings)
    if settings.width != WIDTH:
        _let_comfyui_detect(settings)
    weights = RandomWeights(SEED)
    add_unet(weights, "", size)
    model = comfy.sd.load_diffusion_model_state_dict(weights.tensors)
    assert model is not None
    return model


def write_motion_module(folder: Path, generation: str, settings: Settings) -> Path:
    """The file of a random motion module in the published layout, written unless it is there already."""
    path = folder / f"random_{generation}_{settings.width}.safetensors"
    if not path.exists():
        weights = RandomWeights(SEED + 1)
        add_motion_modules(weights, topology(settings).channels, POSITIONS[generation], middle=generation == "v2")
        save_file(weights.tensors, path)
    return path


def topology(settings: Settings) -> UnetSize:
    """The shape of the UNet that is measured."""
    return replace(TOPOLOGIES[settings.base], width=settings.width)


def _let_comfyui_detect(settings: Settings) -> None:
    """ComfyUI knows base models by their width; a narrower one for quick runs has to be made known."""
    wide = {"sd15": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}[settings.base]
    config: dict[str, Any] = {**wide.unet_config, "model_channels": settings.width}
    comfy.supported_models.models.append(type(f"Narrow{wide.__name__}", (wide,), {"unet_config": config}))
