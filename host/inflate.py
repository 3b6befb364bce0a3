"""InflateModel: a clone of a model whose UNet knows time."""

import logging

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ..core.errors import IncompatibleModelError
from ..sampling.motion_control import MotionControl
from .image_input import check_has_image
from .memory import budget_motion_memory
from .motion_call import STATE
from .motion_modules import LoadedMotionModule
from .noise_schedule import set_beta_schedule
from .prompt_frames import check_prompt_frames
from .scheduled_loras import scheduled_patchers
from .splice import Splice
from .unet import find_places, last_place, unet_of

log = logging.getLogger(__name__)


def inflate_model(
    model: ModelPatcher, motion: LoadedMotionModule, beta_schedule: str, control: MotionControl | None = None
) -> ModelPatcher:
    """A clone of the model that animates batches of frames; the model itself stays as it is.

    Raises: IncompatibleModelError if the motion module was made for another base model; SettingsError if a control
    names a block that it has not.
    """
    places = find_places(model, motion.spec, motion.name)
    check_has_image(motion)
    _check_blocks(motion, control)
    if motion.spec.base_norms_over_frames:
        _check_plain_resblocks(model, motion)
    inflated = model.clone()
    motion = _with_weights_of_its_own(inflated, motion)
    image = None if motion.image is None else motion.image.scaled_for(model)
    splice = Splice(_next_key(inflated), motion.name, motion.spec, places, last_place(unet_of(model)), image, control)
    splice.attach(inflated, [motion.patcher, *scheduled_patchers(motion)])
    inflated.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, splice.key, check_prompt_frames)
    budget_motion_memory(inflated, splice)
    set_beta_schedule(inflated, beta_schedule, motion.spec.beta_schedule, motion.name)
    log.info("%s: %d temporal transformers (%s) in %s", motion.name, len(places), motion.spec.generation, splice.key)
    return inflated


def splice_keys(model: ModelPatcher) -> list[str]:
    """The keys of the motion modules in a model, in the order in which they were applied."""
    return [key for key in model.additional_models if key.startswith(f"{STATE}.")]


def _next_key(model: ModelPatcher) -> str:
    return f"{STATE}.{len(splice_keys(model))}"


def _with_weights_of_its_own(model: ModelPatcher, motion: LoadedMotionModule) -> LoadedMotionModule:
    """The module, on a copy of its weights if the model holds the same ones already, perhaps under other patches."""
    present = [patcher for key in splice_keys(model) for patcher in model.get_additional_models_with_key(key)]
    shared = any(patcher.model is motion.patcher.model for patcher in present)
    return motion.with_own_weights() if shared else motion


def _check_blocks(motion: LoadedMotionModule, control: MotionControl | None) -> None:
    names = [address.prefix for address, _ in motion.spec.sites()]
    for each in control.chain() if control is not None else ():
        each.blocks.check_parts(names, "blocks", motion.name)


def _check_plain_resblocks(model: ModelPatcher, motion: LoadedMotionModule) -> None:
    """Frame-wide norms are computed for the ResBlocks of SD 1.5 and SDXL, which neither resample nor rescale."""
    special = ("updown", "use_scale_shift_norm", "exchange_temb_dims", "skip_t_emb")
    if any(getattr(layer, name, False) for layer in unet_of(model).modules() for name in special):
        raise IncompatibleModelError(
            f"{motion.name} needs norms over all frames, and this model's ResBlocks are not those of SD 1.5 or SDXL. "
            "Use a motion module that takes its norms frame by frame: v2, v3 or the SDXL beta."
        )
