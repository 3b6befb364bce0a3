"""ComfyUI's own CLIP and CLIP Vision at toy width. Runs inside ComfyUI."""

from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.sd
import comfy.utils

from .models import text_config
from .vision_weights import TEXT, VISION, VisionSize, vision_configuration


def load_tiny_text(path: Path) -> Any:
    """A CLIP as Load CLIP loads it, told the toy size. ComfyUI itself adds the positions to this configuration.

    Source: comfy/text_encoders/long_clipl.py, `model_options_long_clip`.
    """
    return comfy.sd.load_clip([str(path)], model_options={"model_config": text_config(TEXT, "quick_gelu")})


def load_tiny_vision(path: Path, size: VisionSize = VISION) -> Any:
    """A CLIP_VISION of ComfyUI's own class. Its loader tells sizes by the number of layers, and knows no toy size."""
    model = comfy.clip_vision.ClipVisionModel(vision_configuration(size))
    weights = comfy.utils.load_torch_file(str(path))
    model.load_sd({name: tensor for name, tensor in weights.items() if name.startswith("visi") or "visual" in name})
    return model
