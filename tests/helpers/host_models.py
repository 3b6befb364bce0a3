"""Models of a real ComfyUI from bare UNet weights, and one prediction of them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

LAYERS = 2


def unet_names(host: Any, channel_mult: tuple[int, ...]) -> dict[str, str]:
    """ComfyUI's name of each UNet weight by its diffusers name, for an SD 1.5 layout of these widths."""
    levels = len(channel_mult)
    config = {
        "num_res_blocks": [LAYERS] * levels,
        "channel_mult": list(channel_mult),
        "transformer_depth": [1] * LAYERS * (levels - 1) + [0] * LAYERS,
        "transformer_depth_output": [1] * (LAYERS + 1) * (levels - 1) + [0] * (LAYERS + 1),
        "transformer_depth_middle": 1,
    }
    return host.module("comfy.utils").unet_to_diffusers(config)


def model_of_unet(host: Any, tensors: Mapping[str, Tensor], channel_mult: tuple[int, ...]) -> Any:
    """MODEL around a UNet whose weights have diffusers names; TinySD15's text width and heads apply."""
    names = unet_names(host, channel_mult)
    weights = {names[name]: tensor.clone() for name, tensor in tensors.items()}
    model = host.module("comfy.sd").load_diffusion_model_state_dict(weights, model_options={"dtype": torch.float32})
    assert model is not None
    return model


def predict_noise(
    host: Any, model: Any, x: Tensor, timestep: int, *contexts: Tensor, load_modules: bool = True
) -> list[Tensor]:
    """What the UNet predicts for each context, through all of ComfyUI's wrappers and batching.

    Without `load_modules` the motion modules run as the caller has loaded them.

    Shapes: x `f c h w` as the UNet takes it, contexts `f n d` -> `f c h w` each
    """
    management = host.module("comfy.model_management")
    model = model.clone()
    management.load_models_gpu([model, *(model.get_nested_additional_models() if load_modules else [])])
    options = host.module("comfy.model_patcher").create_model_options_clone(model.model_options)
    host.module("comfy.sampler_helpers").prepare_model_patcher(model, {}, options)
    sampling = model.get_model_object("model_sampling")
    sigma = sampling.sigma(torch.tensor(float(timestep)))
    scale = (sigma**2 + 1) ** 0.5
    conditionings = [[conditioning(host, context)] for context in contexts]
    options["transformer_options"]["sample_sigmas"] = sigma.view(1)
    model.pre_run()
    try:
        with torch.inference_mode():
            sigmas = sigma.expand(x.shape[0])
            found = host.module("comfy.samplers").calc_cond_batch(
                model.model, conditionings, x * scale, sigmas, options
            )
            return [(x * scale - denoised) / sigma for denoised in found]
    finally:
        model.cleanup()


def conditioning(host: Any, context: Tensor) -> dict[str, Any]:
    """One processed conditioning, as a sampler hands it on."""
    return {"model_conds": {"c_crossattn": host.module("comfy.conds").CONDCrossAttn(context)}, "uuid": id(context)}
