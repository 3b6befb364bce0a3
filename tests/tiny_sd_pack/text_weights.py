"""Random weights of CLIP text encoders, in the names of the published checkpoints.

Source of the names: transformers CLIPTextModel (SD 1.5, CLIP-L of SDXL), mlfoundations/open_clip (CLIP-G of SDXL).
"""

from dataclasses import dataclass

from .random_weights import RandomWeights

VOCABULARY = 49408
POSITIONS = 77
EMBEDDING_DEVIATION = 0.5


@dataclass(frozen=True)
class TextSize:
    """What a text encoder's configuration file says, as far as it varies here."""

    width: int
    layers: int
    heads: int = 2


CLIP_L_SD15 = TextSize(width=32, layers=1)
CLIP_L_SDXL = TextSize(width=32, layers=3)
CLIP_G_SDXL = TextSize(width=32, layers=3)
"""SDXL reads the last layer but one, and ComfyUI asks for more than two layers to do so."""


def add_text_encoder(weights: RandomWeights, prefix: str, size: TextSize) -> None:
    """A text encoder in the names of transformers."""
    width = size.width
    weights.normal(f"{prefix}embeddings.token_embedding.weight", (VOCABULARY, width), EMBEDDING_DEVIATION)
    weights.normal(f"{prefix}embeddings.position_embedding.weight", (POSITIONS, width), EMBEDDING_DEVIATION)
    for index in range(size.layers):
        layer = f"{prefix}encoder.layers.{index}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            weights.linear(f"{layer}.self_attn.{projection}", width, width)
        weights.linear(f"{layer}.mlp.fc1", width, 2 * width)
        weights.linear(f"{layer}.mlp.fc2", 2 * width, width)
        for norm in ("layer_norm1", "layer_norm2"):
            weights.norm(f"{layer}.{norm}", width)
    weights.norm(f"{prefix}final_layer_norm", width)


def add_open_clip(weights: RandomWeights, prefix: str, size: TextSize) -> None:
    """A text encoder with its projection, in the names of OpenCLIP."""
    width = size.width
    weights.normal(f"{prefix}token_embedding.weight", (VOCABULARY, width), EMBEDDING_DEVIATION)
    weights.normal(f"{prefix}positional_embedding", (POSITIONS, width), EMBEDDING_DEVIATION)
    weights.normal(f"{prefix}text_projection", (width, width), width**-0.5)
    for index in range(size.layers):
        layer = f"{prefix}transformer.resblocks.{index}"
        weights.normal(f"{layer}.attn.in_proj_weight", (3 * width, width), width**-0.5)
        weights.normal(f"{layer}.attn.in_proj_bias", (3 * width,), width**-0.5)
        weights.linear(f"{layer}.attn.out_proj", width, width)
        weights.linear(f"{layer}.mlp.c_fc", width, 2 * width)
        weights.linear(f"{layer}.mlp.c_proj", 2 * width, width)
        for norm in ("ln_1", "ln_2"):
            weights.norm(f"{layer}.{norm}", width)
    weights.norm(f"{prefix}ln_final", width)
