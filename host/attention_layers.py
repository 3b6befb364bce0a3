"""The attention weights of a base model, by the names that published domain adapters have for them."""

import re

import comfy.utils
from comfy.model_patcher import ModelPatcher

from ..core.errors import IncompatibleModelError
from .unet import model_name

_ATTENTION = re.compile(r"^(?P<attention>.+\.attn[12])\.to_(?P<part>q|k|v|out)(?:\.0)?\.weight$")


def attention_weights_of_base(model: ModelPatcher) -> dict[str, str]:
    """The UNet's weight name of each projection of its spatial attentions, by the published stem.

    `down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q` has
    `input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight`. The order is the same in every process.
    Raises: IncompatibleModelError if the model has no UNet with spatial transformers.
    Source: comfy/lora.py, model_lora_keys_unet.
    """
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    found = {
        f"{match['attention']}.processor.to_{match['part']}": weight
        for name, weight in names.items()
        if (match := _ATTENTION.match(name))
    }
    if not found:
        raise IncompatibleModelError(
            f"a domain adapter changes the spatial attention of SD 1.5 or SDXL models, and this model is "
            f"{model_name(model)}. Load an SD 1.5 or SDXL checkpoint."
        )
    return dict(sorted(found.items()))  # ComfyUI's map comes from sets, whose order differs from run to run
