"""The splice: ComfyUI runs its own UNet, and asks us layer by layer.

Nothing in the shared UNet changes. Handlers for spatial transformers and ResBlocks are consulted for every layer; they
run the layer and then the temporal transformer that belongs behind it (`layer_handlers.py`). What one call needs to
know (frames, the modules on this device) travels in `transformer_options` and ends with the call (`motion_call.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ..motion_modules.spec import Address, MotionModuleSpec
from ..sampling.clip_length import check_clip_length
from ..sampling.motion_control import MotionControl
from .image_input import ConditionImage
from .layer_handlers import PATCH, ImageInputHandler, LayerHandler, OutputNorm
from .motion_call import IMAGE, MASK, begin_call, bind_modules
from .unet import Place
from .view_windows import VIEW_NODE, view_settings
from .windows import WINDOW_NODE, window_lengths


@dataclass(frozen=True, eq=False)
class Splice:
    """One InflateModel: what it is called, and which transformer of its motion module goes where in the model.

    Attached to the model clone under its key. Wrappers and handlers know the key alone and ask the model that is
    running, because ComfyUI may run another model, or a copy on another device, with the wrappers of this one.
    """

    key: str
    """Its own name for additional models, wrappers and state, so that several splices live in one model."""
    name: str
    """The motion module's file, for messages."""
    spec: MotionModuleSpec
    places: Mapping[Place, Address]
    last_place: Place
    image: ConditionImage | None = None
    """What the UNet's input sees beside the latents."""
    control: MotionControl | None = None
    """How much of the motion module's output is added, by frame, area, block and step."""

    def attach(self, model: ModelPatcher, modules: list[ModelPatcher]) -> None:
        """Register this splice on a model clone of the caller's own.

        `modules` are the motion module, and behind it what `scheduled_loras` runs beside it, if anything.
        """
        model.set_attachments(self.key, self)
        model.set_additional_models(self.key, modules)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, self.key, self.check_clip)
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, self.key, partial(begin_call, self.key))
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, self.key, partial(bind_modules, self.key))
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, self.key, OutputNorm(self.key))
        handlers: dict[type[nn.Module], Any] = {
            layer_class: LayerHandler(self.key, layer_class) for layer_class in (SpatialTransformer, ResBlock)
        }
        if self.image is not None:
            handlers[nn.Conv2d] = ImageInputHandler(self.key)
        for layer_class, handler in handlers.items():
            model.set_model_forward_timestep_embed_patch((layer_class, handler))
            # The first match in this list gets the layer. A later splice stands before an earlier one and runs it
            # as part of the layer, so that motion is added in the order in which the nodes were applied.
            in_line = model.model_options["transformer_options"]["patches"][PATCH]
            in_line.insert(0, in_line.pop())

    def check_clip(self, executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Any:
        """OUTER_SAMPLE wrapper: refuse a clip that cannot work before anything is loaded."""
        for length, node in _frames_at_once(executor.class_obj):
            check_clip_length(
                noise.shape[0], length, self.spec.num_positions, self.spec.trained_frames, self.name, node
            )
        if self.image is not None:
            self.image.check_fits(noise)
        if self.control is not None:
            self.control.check_clip(noise.shape[0])
        return executor(noise, *args, **kwargs)

    @property
    def controls(self) -> list[MotionControl]:
        """All controls that change something, in an order that is the same at each call."""
        return [] if self.control is None else [each for each in self.control.chain() if not each.is_neutral]

    def tensors_for(self, frames: Sequence[int], num_frames: int, size: Sequence[int]) -> dict[str, Tensor]:
        """What a call for some frames of a clip must have at hand, by name. Shapes: `f c h w` each"""
        if self.control is not None:
            # Here too: a guider may run a second model beside the one that `check_clip` was asked for.
            self.control.check_clip(num_frames)
        masks = {f"{MASK}{index}": each.mask_at(frames, num_frames, size) for index, each in enumerate(self.controls)}
        tensors = {name: mask for name, mask in masks.items() if mask is not None}
        return tensors if self.image is None else {**tensors, IMAGE: self.image.seen_by(list(frames), num_frames)}


def _frames_at_once(guider: Any) -> list[tuple[int | None, str]]:
    """How many frames see each other in a model's windows, for each span of the sampling, and the node that says so."""
    views, lengths = view_settings(guider.model_patcher), window_lengths(guider.model_options)
    return [
        (views.length, VIEW_NODE)
        if views is not None and (length is None or views.length < length)
        else (length, WINDOW_NODE)
        for length in dict.fromkeys(lengths or (None,))
    ]
