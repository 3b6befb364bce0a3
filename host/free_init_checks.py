"""What FreeInit cannot start from, and what its method does not expect."""

import inspect
import logging
from typing import Any

import torch
from comfy.model_sampling import EPS
from torch import Tensor

from ..core.errors import IncompatibleModelError, SettingsError
from .noise_schedule import percent_of

log = logging.getLogger(__name__)

LATEST_START = 1.01
"""Steps at the highest noise that a scheduler may leave out, as `ddim_uniform` does; the rest is rounding."""
QUIET = {"sample_res_multistep", "sample_res_multistep_cfg_pp"}
"""Functions of ComfyUI that take a noise sampler and never ask it (k_diffusion/sampling.py)."""


def check_start(
    sampling: Any, noise: Tensor, latent_image: Tensor, sigmas: Tensor, denoise_mask: Tensor | None
) -> None:
    """Refuse what does not start from noise alone and end without any: iterations could not come back to it.

    Raises: SettingsError or IncompatibleModelError.
    """
    if not isinstance(sampling, EPS) or noise.ndim != 4:
        raise IncompatibleModelError(
            "FreeInit: expected an SD 1.5 or SDXL model and a batch of frames, found a model of another kind. "
            "Leave FreeInit out."
        )
    if torch.count_nonzero(noise) == 0:
        raise SettingsError(
            "FreeInit: expected noise to start from, found none. Turn the sampler's noise on (add_noise of "
            "KSamplerAdvanced), or set iterations of FreeInit to 1."
        )
    if noise.shape[0] < 2:
        raise SettingsError(
            "FreeInit keeps what frames have in common, and the latent has 1 frame. Set batch_size of the empty latent "
            "to the number of frames, or iterations of FreeInit to 1."
        )
    if denoise_mask is not None or torch.count_nonzero(latent_image) > 0:
        found = "a latent with a picture in it" if denoise_mask is None else "a noise mask"
        raise SettingsError(
            f"FreeInit: expected an empty latent, found {found}: each iteration starts over from noise, and would "
            "lose it. Connect Empty Latent Image with denoise 1; for a second pass, connect the model from before "
            "FreeInit to its sampler."
        )
    if float(sigmas[-1]) != 0:
        raise SettingsError(
            "FreeInit: expected sampling to the last step, found one that leaves noise in the clip, which no iteration "
            "can start from. Sample to the end in one node, or set iterations of FreeInit to 1."
        )


def warn_of_settings(sampling: Any, sampler: Any, sigmas: Tensor) -> None:
    """Say in the log what the published method does not expect."""
    if adds_noise(sampler):
        log.warning(
            "FreeInit: the sampler adds noise of its own while it samples; the published method expects one that does "
            "not. Choose ddim, euler or dpmpp_2m if the clip gains nothing."
        )
    if percent_of(sampling, float(sigmas[0])) > LATEST_START / max(len(sigmas) - 1, 1):
        log.warning(
            "FreeInit: the sampling begins at sigma %.2f, and each iteration's noise is that of sigma %.2f. "
            "Set denoise to 1.",
            float(sigmas[0]),
            float(sampling.sigma_max),
        )


def adds_noise(sampler: Any) -> bool:
    """Whether a sampler draws noise while it samples, as far as its function and options show."""
    function, options = getattr(sampler, "sampler_function", None), getattr(sampler, "extra_options", {})
    if function is None or getattr(function, "__name__", "") in QUIET:
        return False
    parameters = inspect.signature(function).parameters
    declared = {name: each.default for name, each in parameters.items()}
    if "noise_sampler" in parameters:
        return all({**declared, **options}.get(name) != 0 for name in ("eta", "s_noise"))
    return any((options.get(name) or 0) > 0 for name in ("eta", "s_churn"))
