"""FreeInit: the sampler runs several times, each time from the low frequencies of the clip before.

Each iteration is a sampling of ComfyUI's from beginning to end, as if it had been queued: conditionings, hooks and the
state of other extensions begin anew. What goes into the sampler and comes out of it is handed over right at it, behind
everything else that changes noise, FreeNoise of context windows above all: shuffling the second iteration's noise
would tear up the low frequencies that it is there to carry.

No conversion is needed there. ComfyUI's x is z/√ᾱ of the papers. At the highest level, ᾱ = 1/(1+σ²), it multiplies the
noise it is given by √(1+σ²) = 1/√ᾱ and adds an empty latent, and in front of the UNet it divides by √(1+σ²) again: what
goes in as noise is z, and a z of FreeInit goes in as noise. Where a scheduler begins lower, ComfyUI multiplies it by σ,
as it does any noise. The clip that comes out is z₀ in the UNet's scale, before ComfyUI turns it into a VAE's.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ..core.errors import SettingsError
from ..sampling.free_init import FreeInitSettings, diffused, fresh_noise, low_pass, reinitialized
from .free_init_checks import check_start, warn_of_settings
from .wrapper_order import add_outermost_wrapper

log = logging.getLogger(__name__)

KEY = "motiongraft.free_init"

Callback = Callable[[int, Tensor, Tensor, int], None]


def set_free_init(model: ModelPatcher, settings: FreeInitSettings) -> ModelPatcher:
    """A clone of the model that every sampler samples `iterations` times. One iteration is the model as it was."""
    repeating = model.clone()
    # A second FreeInit replaces the first.
    repeating.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    if settings.iterations > 1:
        # What the others set up for a run, they set up for each iteration.
        add_outermost_wrapper(repeating, WrappersMP.OUTER_SAMPLE, KEY, partial(sample_repeatedly, settings))
    return repeating


class SamplerDoor:
    """SAMPLER_SAMPLE wrapper right in front of the sampler. Shapes: `f c h w` each, in the UNet's scale"""

    def __init__(self):
        self.first_noise: Tensor | None = None
        """What the first iteration began with, on the CPU."""
        self.noise: Tensor | None = None
        """What the next iteration begins with, whatever the wrappers in front of this one make of it."""
        self.clip: Tensor | None = None
        """What the last iteration ended with, on the CPU."""

    def __call__(
        self,
        executor: Any,
        guider: Any,
        sigmas: Tensor,
        extra_args: Any,
        callback: Any,
        noise: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        if self.first_noise is None:
            self.first_noise = noise.detach().clone().cpu()
        if self.noise is not None:
            noise = self.noise.to(noise)
        clip = executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)
        self.clip = clip.detach().float().cpu()
        return clip


def sample_repeatedly(
    settings: FreeInitSettings,
    executor: Any,
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    denoise_mask: Tensor | None = None,
    callback: Callback | None = None,
    disable_pbar: bool = False,
    seed: int | None = None,
    **kwargs: Any,
) -> Tensor:
    """OUTER_SAMPLE wrapper: the clip of the last iteration.

    Shapes: noise and latent_image `f c h w` -> the same
    Raises: SettingsError or IncompatibleModelError before anything is loaded, if there is no beginning to come back to.
    """
    guider = executor.class_obj
    sampling = guider.model_patcher.get_model_object("model_sampling")
    check_start(sampling, noise, latent_image, sigmas, denoise_mask)
    warn_of_settings(sampling, sampler, sigmas)
    door, conds = SamplerDoor(), guider.conds
    # The options are those of this sampling alone. A new key is the last: behind the wrappers of all others.
    add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, door, guider.model_options, is_model_options=True)
    clip = latent_image
    for iteration in range(settings.iterations):
        if iteration > 0:
            door.noise = next_noise(settings, door, float(sampling.sigma_max), seed or 0, iteration)
        log.info("FreeInit: iteration %d of %d", iteration + 1, settings.iterations)
        guider.conds = {name: [each.copy() for each in entries] for name, entries in conds.items()}
        # A copy: on a CPU, FreeNoise shuffles what it is given in place.
        begin = noise if door.noise is None else door.noise.clone()
        show = counted(callback, iteration, settings.iterations)
        clip = executor(begin, latent_image, sampler, sigmas, denoise_mask, show, disable_pbar, seed, **kwargs)
    return clip


def next_noise(settings: FreeInitSettings, door: SamplerDoor, sigma: float, seed: int, iteration: int) -> Tensor:
    """What an iteration begins with, from the clip of the one before. Shapes: -> `f c h w`, float32 on the CPU

    Raises: SettingsError if the sampler gave back a clip of another size.
    """
    clip, noise = door.clip, door.first_noise
    if clip is None or noise is None or clip.shape != noise.shape:
        found = "none" if clip is None else f"one of shape {tuple(clip.shape)}"
        raise SettingsError(
            f"FreeInit: expected the sampler to give back a clip of the shape it was given, found {found}. "
            "Choose a sampler that keeps the size, such as ddim or euler."
        )
    frames, channels, height, width = clip.shape
    noisy = diffused(clip, noise, sigma)
    fresh = fresh_noise(seed, iteration, frames, channels, height, width)
    return reinitialized(noisy, fresh, low_pass(settings, frames, height, width))


def counted(callback: Callback | None, iteration: int, iterations: int) -> Callback | None:
    """The callback of one iteration, which tells a sampling's own of the steps of all iterations."""
    if callback is None:
        return None

    def show(step: int, x0: Tensor, x: Tensor, total_steps: int) -> None:
        # An adaptive sampler takes more steps than it announces.
        done = iteration * total_steps + min(step, total_steps - 1)
        callback(done, x0, x, iterations * total_steps)

    return show
