"""Toy versions of SD 1.5 and SDXL for ComfyUI's model detection. Runs inside ComfyUI."""

from typing import Any, ClassVar

import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import torch

from . import text_weights, unet_weights
from .text_weights import TextSize


def text_config(size: TextSize, activation: str) -> dict[str, Any]:
    """The part of a CLIP text encoder's config.json that ComfyUI reads.

    Source of the names: comfy/sd1_clip_config.json, comfy/clip_config_bigg.json.
    """
    return {
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": 2 * size.width,
        "hidden_act": activation,
        "max_position_embeddings": text_weights.POSITIONS,
        "vocab_size": text_weights.VOCABULARY,
        "eos_token_id": text_weights.VOCABULARY - 1,
    }


class TinyClipL(comfy.sd1_clip.SDClipModel):
    """The text encoder of the tiny SD 1.5."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
        super().__init__(
            device=device,
            dtype=dtype,
            model_options=model_options or {},
            return_projected_pooled=False,
            textmodel_json_config=text_config(text_weights.CLIP_L_SD15, "quick_gelu"),
        )


class TinySD15ClipModel(comfy.sd1_clip.SD1ClipModel):
    """What ComfyUI calls CLIP for the tiny SD 1.5."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
        super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=TinyClipL)


class TinySDXLClipModel(comfy.sdxl_clip.SDXLClipModel):
    """What ComfyUI calls CLIP for the tiny SDXL: both text encoders at toy width."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
        sizes = {
            "clip_l_model_config": text_config(text_weights.CLIP_L_SDXL, "quick_gelu"),
            "clip_g_model_config": text_config(text_weights.CLIP_G_SDXL, "gelu"),
        }
        super().__init__(device=device, dtype=dtype, model_options={**(model_options or {}), **sizes})


class TinySD15(comfy.supported_models.SD15):
    """SD 1.5 at a tenth of the width."""

    unet_config: ClassVar[dict[str, Any]] = {
        **comfy.supported_models.SD15.unet_config,
        "model_channels": unet_weights.SD15.width,
        "context_dim": unet_weights.SD15.context_width,
    }
    unet_extra_config: ClassVar[dict[str, Any]] = {"num_heads": 2, "num_head_channels": -1}

    def clip_target(self, state_dict: dict[str, torch.Tensor] | None = None) -> Any:
        return comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, TinySD15ClipModel)


class TinySDXL(comfy.supported_models.SDXL):
    """SDXL at a tenth of the width and a fifth of the depth."""

    unet_config: ClassVar[dict[str, Any]] = {
        **comfy.supported_models.SDXL.unet_config,
        "model_channels": unet_weights.SDXL.width,
        "context_dim": unet_weights.SDXL.context_width,
        "adm_in_channels": unet_weights.SDXL.label_width,
        "transformer_depth": [depth for depth in unet_weights.SDXL.depths for _ in range(2)],
    }

    def clip_target(self, state_dict: dict[str, torch.Tensor] | None = None) -> Any:
        return comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, TinySDXLClipModel)


def register() -> None:
    """Let ComfyUI recognise checkpoints of both toy models."""
    for model in (TinySD15, TinySDXL):
        if model not in comfy.supported_models.models:
            comfy.supported_models.models.append(model)
