"""Random weights of a whole CLIP, text and vision, in the names of the published file that holds both.

Source of the names: transformers CLIPModel, as openai/clip-vit-large-patch14 `model.safetensors` has them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .random_weights import RandomWeights
from .text_weights import TextSize, add_text_encoder


@dataclass(frozen=True)
class VisionSize:
    """What a vision model's configuration file says, as far as it varies here."""

    width: int
    layers: int
    projection: int
    """Width of the space that pictures share with words."""
    image: int = 32
    patch: int = 8
    heads: int = 2


TEXT = TextSize(width=32, layers=2)
"""ComfyUI tells CLIP-L by its second layer."""
VISION = VisionSize(width=48, layers=2, projection=32)


def add_vision_model(weights: RandomWeights, size: VisionSize) -> None:
    """A vision model with its projection."""
    prefix, width = "vision_model.", size.width
    weights.normal(f"{prefix}embeddings.class_embedding", (width,), 1.0)
    patch = (width, 3, size.patch, size.patch)
    weights.normal(f"{prefix}embeddings.patch_embedding.weight", patch, (3 * size.patch**2) ** -0.5)
    weights.normal(f"{prefix}embeddings.position_embedding.weight", ((size.image // size.patch) ** 2 + 1, width), 0.2)
    for index in range(size.layers):
        layer = f"{prefix}encoder.layers.{index}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            weights.linear(f"{layer}.self_attn.{projection}", width, width)
        weights.linear(f"{layer}.mlp.fc1", width, 2 * width)
        weights.linear(f"{layer}.mlp.fc2", 2 * width, width)
        for norm in ("layer_norm1", "layer_norm2"):
            weights.norm(f"{layer}.{norm}", width)
    weights.norm(f"{prefix}pre_layrnorm", width)
    weights.norm(f"{prefix}post_layernorm", width)
    weights.linear("visual_projection", width, size.projection, bias=False)


def write_tiny_clip(path: Path, seed: int = 0, *, text_projection: bool = True, vision: VisionSize = VISION) -> Path:
    """Both halves of a CLIP in one file, as OpenAI's is; without the text projection, as CLIP-L of SD3 and Flux is."""
    weights = RandomWeights(seed)
    add_text_encoder(weights, "text_model.", TEXT)
    if text_projection:
        weights.linear("text_projection", TEXT.width, TEXT.width, bias=False)
    add_vision_model(weights, vision)
    weights.tensors["logit_scale"] = torch.tensor(4.6)
    path.parent.mkdir(parents=True, exist_ok=True)
    # ComfyUI holds text encoders in fp16: a file in it means the same to every reader.
    save_file({name: tensor.half() for name, tensor in weights.tensors.items()}, path, {"format": "pt"})
    return path


def vision_configuration(size: VisionSize = VISION) -> dict[str, Any]:
    """The vision half's. Source of the names: comfy/clip_vision_config_vitl.json."""
    return {
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": 2 * size.width,
        "hidden_act": "quick_gelu",
        "image_size": size.image,
        "patch_size": size.patch,
        "num_channels": 3,
        "projection_dim": size.projection,
        "model_type": "clip_vision_model",
    }
