"""The text encoders of single-file checkpoints: their tensors under the names of transformers, and their sizes.

Source: CompVis/stable-diffusion and stability-ai/generative-models checkpoints; mlfoundations/open_clip
transformer.py; huggingface/transformers CLIPTextModel.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

HEAD_WIDTH = 64
"""Of every published CLIP text encoder. Source: openai/clip-vit-large-patch14 and OpenCLIP ViT-bigG, config.json."""
TOY_HEADS = 2
_LAYER = re.compile(r"^transformer\.resblocks\.(\d+)\.(.+)$")
_OPEN_CLIP_OUTER = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_OPEN_CLIP_LAYER = {
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
}
_IN_PROJECTION = "attn.in_proj_"
PROJECTION = "text_projection.weight"


def clip_tensors(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The encoder that a checkpoint keeps in transformers' own names, without what stands in front of them."""
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    stripped = {key.removeprefix("text_model."): tensor for key, tensor in own.items()}
    return {key: tensor for key, tensor in stripped.items() if key.startswith(("embeddings.", "encoder.", "final_"))}


def open_clip_tensors(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The encoder that a checkpoint keeps in OpenCLIP's names, with q, k and v apart, and its projection.

    Shapes: `text_projection` of OpenCLIP multiplies from the right: `w p` -> `p w`
    """
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix):
            continue
        if name in _OPEN_CLIP_OUTER:
            found[_OPEN_CLIP_OUTER[name]] = tensor
        elif name == "text_projection":
            found[PROJECTION] = tensor.T.contiguous()
        elif layer := _LAYER.match(name):
            found |= _of_layer(f"encoder.layers.{layer[1]}", layer[2], tensor)
    return found


def _of_layer(stem: str, name: str, tensor: Tensor) -> dict[str, Tensor]:
    if name.startswith(_IN_PROJECTION):
        kind = name.removeprefix(_IN_PROJECTION)
        return {f"{stem}.self_attn.{part}_proj.{kind}": rows for part, rows in zip("qkv", tensor.chunk(3), strict=True)}
    layer, _, kind = name.rpartition(".")
    return {f"{stem}.{_OPEN_CLIP_LAYER[layer]}.{kind}": tensor} if layer in _OPEN_CLIP_LAYER else {}


def clip_config(tensors: Mapping[str, Tensor], activation: str) -> dict[str, Any]:
    """The arguments of transformers' CLIPTextConfig for an encoder's tensors."""
    vocabulary, width = tensors["embeddings.token_embedding.weight"].shape
    layers = {key.split(".")[2] for key in tensors if key.startswith("encoder.layers.")}
    projection = tensors.get(PROJECTION)
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": tensors["encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else TOY_HEADS,
        "max_position_embeddings": tensors["embeddings.position_embedding.weight"].shape[0],
        "hidden_act": activation,
        "projection_dim": width if projection is None else projection.shape[0],
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": 0,
    }


def as_named_by(model: torch.nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as this version of transformers calls them: some put `text_model.` in front."""
    is_nested = any(key.startswith("text_model.") for key in model.state_dict())
    return {f"text_model.{key}" if is_nested and key != PROJECTION else key: tensor for key, tensor in tensors.items()}
