"""Models of a real ComfyUI from bare UNet weights, and one prediction of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

LAYERS = 2
SD15_DEPTHS = (1, 1, 1, 0)


def unet_names(host: Any, channel_mult: tuple[int, ...], depths: tuple[int, ...] = SD15_DEPTHS) -> dict[str, str]:
    """ComfyUI's name of each UNet weight by its diffusers name, for levels of these widths and transformer layers."""
    config = {
        "num_res_blocks": [LAYERS] * len(channel_mult),
        "channel_mult": list(channel_mult),
        "transformer_depth": [depth for depth in depths for _ in range(LAYERS)],
        "transformer_depth_output": [depth for depth in depths for _ in range(LAYERS + 1)],
        "transformer_depth_middle": max(depths),
    }
    return host.module("comfy.utils").unet_to_diffusers(config)


def model_of_unet(
    host: Any, tensors: Mapping[str, Tensor], channel_mult: tuple[int, ...], depths: tuple[int, ...] = SD15_DEPTHS
) -> Any:
    """MODEL around a UNet whose weights have diffusers names; a toy model's text width and heads apply."""
    names = unet_names(host, channel_mult, depths)
    weights = {names[name]: tensor.clone() for name, tensor in tensors.items()}
    model = host.module("comfy.sd").load_diffusion_model_state_dict(weights, model_options={"dtype": torch.float32})
    assert model is not None
    return model


def predict_noise(
    host: Any,
    model: Any,
    x: Tensor,
    timestep: int,
    *contexts: Tensor | Sequence[Any],
    load_modules: bool = True,
) -> list[Tensor]:
    """What the UNet predicts for each context, through all of ComfyUI's wrappers and batching.

    A context is text states, or CONDITIONING of one entry as nodes give it. Without `load_modules` the motion modules
    run as the caller has loaded them.

    Shapes: x `f c h w` as the UNet takes it, states `f n d` -> `f c h w` each
    """
    management = host.module("comfy.model_management")
    model = model.clone()
    management.load_models_gpu([model, *(model.get_nested_additional_models() if load_modules else [])])
    options = host.module("comfy.model_patcher").create_model_options_clone(model.model_options)
    host.module("comfy.sampler_helpers").prepare_model_patcher(model, {}, options)
    sampling = model.get_model_object("model_sampling")
    sigma = sampling.sigma(torch.tensor(float(timestep)))
    scale = (sigma**2 + 1) ** 0.5
    conditionings = [
        [conditioning(host, context) if isinstance(context, Tensor) else processed(host, model, context, x)]
        for context in contexts
    ]
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


def processed(host: Any, model: Any, given: Sequence[Any], x: Tensor) -> dict[str, Any]:
    """CONDITIONING of one entry as a sampler hands it on for a clip: with what the model makes of sizes and crops."""
    entries = host.module("comfy.sampler_helpers").convert_cond(given)
    encode = host.module("comfy.samplers").encode_model_conds
    (entry,) = encode(model.model.extra_conds, entries, x, x.device, "positive")
    return entry
