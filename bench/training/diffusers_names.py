"""From published names to those of diffusers' UNetMotionModel. True for diffusers 0.42 and peft 0.21."""

import re
from collections.abc import Mapping

from torch import Tensor

MOTION = (
    (".temporal_transformer.", "."),
    (".attention_blocks.0.", ".attn1."),
    (".attention_blocks.1.", ".attn2."),
    (".norms.0.", ".norm1."),
    (".norms.1.", ".norm2."),
    (".ff_norm.", ".norm3."),
)
FIRST_TABLE = ".attn1.pos_encoder.pe"
SECOND_TABLE = ".attn2.pos_encoder.pe"
THEIR_TABLE = ".pos_embed.pe"
_FACTOR = re.compile(r"\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight$")
_PEFT = {"down": "lora_A", "up": "lora_B"}


def motion_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A motion module under diffusers' names, where both attentions of a block share one position table."""
    renamed = {_renamed(name): tensor for name, tensor in tensors.items()}
    return {
        name.replace(FIRST_TABLE, THEIR_TABLE): tensor
        for name, tensor in renamed.items()
        if not name.endswith(SECOND_TABLE)
    }


def motion_lora_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The factors of a MotionLoRA under the names that peft gives them."""
    return {_FACTOR.sub(_peft_name, _renamed(name)): tensor for name, tensor in tensors.items()}


def base_names(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """A UNet's weights under diffusers' names; `names` holds ComfyUI's name for each of diffusers'."""
    return {theirs: tensors[ours] for theirs, ours in names.items() if ours in tensors}


def _renamed(name: str) -> str:
    for published, theirs in MOTION:
        name = name.replace(published, theirs)
    return name


def _peft_name(factor: re.Match[str]) -> str:
    projection = "out.0" if factor[1] == "out" else factor[1]
    return f".to_{projection}.{_PEFT[factor[2]]}.default.weight"
