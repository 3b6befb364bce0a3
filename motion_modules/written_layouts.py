"""The tensors of a motion module in the layout of another program, and the configuration that it reads beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.dialects import ANIMATEDIFF, DIFFUSERS, HOTSHOTXL, POSITION_TABLE, Dialect
from ..core.errors import IncompatibleModelError, SettingsError
from .keys import LATENT_CHANNELS
from .spec import MotionModuleSpec
from .transformer import NUM_GROUPS

LAYOUTS: Mapping[str, Dialect] = {dialect.name: dialect for dialect in (ANIMATEDIFF, DIFFUSERS, HOTSHOTXL)}
"""The layouts that motion modules are written in, by name."""
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
"""The types that weights are written in, by name."""
BAKED = "baked"
"""The entry of our metadata that lists the MotionLoRAs inside a module's weights."""


@dataclass(frozen=True)
class WrittenForm:
    """What goes to the disk: tensors by name, and for diffusers the `config.json` beside them."""

    tensors: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=lambda: {})


def check_layout(layout: str, spec: MotionModuleSpec) -> None:
    """Raises: SettingsError or IncompatibleModelError if a module cannot be written in a layout."""
    if layout not in LAYOUTS:
        raise SettingsError(f"layout is {layout!r}; expected one of {', '.join(LAYOUTS)}.")
    if layout == HOTSHOTXL.name and spec.base != "SDXL":
        raise IncompatibleModelError(
            f"HotshotXL's layout is for SDXL, and this module is for {spec.base}. Choose the layout animatediff."
        )
    if layout == DIFFUSERS.name and spec.num_attention_blocks != 2:
        raise IncompatibleModelError(
            f"diffusers' layout has two attentions in each transformer, this module has {spec.num_attention_blocks}. "
            "Choose the layout animatediff."
        )


def written_form(published: Mapping[str, Tensor], spec: MotionModuleSpec, layout: str) -> WrittenForm:
    """A module's published tensors in a layout.

    Raises: SettingsError or IncompatibleModelError if the layout does not exist, or cannot hold this module.
    """
    check_layout(layout, spec)
    dialect = LAYOUTS[layout]
    if dialect is not DIFFUSERS:
        return WrittenForm({dialect.from_official(name): tensor for name, tensor in published.items()})
    _check_shared_positions(published)
    return WrittenForm({dialect.from_official(name): tensor for name, tensor in published.items()}, _config(spec))


def _check_shared_positions(published: Mapping[str, Tensor]) -> None:
    first = f".0{POSITION_TABLE}"
    for name, table in published.items():
        other = published.get(f"{name.removesuffix(first)}.1{POSITION_TABLE}") if name.endswith(first) else None
        if other is not None and not torch.equal(table, other):
            raise IncompatibleModelError(
                f"{name} and the table of the attention after it differ, and diffusers' layout has one for both. "
                "Choose the layout animatediff."
            )


def _config(spec: MotionModuleSpec) -> dict[str, Any]:
    """What diffusers builds its MotionAdapter from. Source: huggingface/diffusers unet_motion_model.py."""
    return {
        "_class_name": "MotionAdapter",
        "_diffusers_version": "0.35.0",  # of the format, which is older
        "block_out_channels": list(spec.down_channels),
        "motion_layers_per_block": spec.layers_per_block,
        "motion_max_seq_length": spec.num_positions,
        "motion_mid_block_layers_per_block": 1,
        "motion_norm_num_groups": NUM_GROUPS,
        "motion_num_attention_heads": spec.num_heads,
        "use_motion_mid_block": spec.middle_channels is not None,
        "conv_in_channels": LATENT_CHANNELS + spec.image_channels if spec.image_channels else None,
    }
