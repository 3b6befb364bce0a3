"""The splice: ComfyUI runs its own UNet, and asks us layer by layer.

Nothing in the shared UNet changes. Two handlers, for spatial transformers and ResBlocks, are consulted for every layer;
they run the layer and then the temporal transformer that belongs behind it. What one call needs to know (frames, the
modules on this device) travels in `transformer_options` and ends with the call.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ..core.errors import HostError
from ..core.protocols import LinearRunner, run_plainly
from ..motion_modules.frames import check_whole_clips, norm_over_frames
from ..motion_modules.spec import Address, MotionModuleSpec
from ..sampling.clip_length import check_clip_length
from .image_input import IMAGE, ConditionImage, with_image
from .scheduled_loras import scheduled_runner
from .unet import Place

STATE = "motiongraft"
"""Our entry in `transformer_options`: a MotionCall for each splice."""
PATCH = "forward_timestep_embed_patch"
INPUT_BLOCK = ("input", 0)
"""Where the UNet's input convolution stands."""

TransformerOptions = dict[str, Any]


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
        window = executor.class_obj.model_options.get("context_handler")
        length = getattr(window, "context_length", None)
        check_clip_length(noise.shape[0], length, self.spec.num_positions, self.spec.trained_frames, self.name)
        if self.image is not None:
            self.image.check_fits(noise)
        return executor(noise, *args, **kwargs)


@dataclass(frozen=True)
class MotionCall:
    """What one call of the UNet must know for one splice."""

    num_frames: int
    image: Tensor | None = None
    """What the UNet's input sees beside the latents of this call, cut to the area that it works on."""
    num_leading: int = 0
    """Frames that ComfyUI put in front of the window, which need no position of their own."""
    splice: Splice | None = None
    """The splice of the model that runs, None if that model was not inflated."""
    module: Any = None
    """The MotionModule on the device of this call."""
    run: LinearRunner = run_plainly
    """Runs the module's linear layers; it adds the MotionLoRAs whose strength depends on the step."""
    is_bound: bool = False
    last_features: list[Tensor] = field(default_factory=lambda: [])
    """What the last output block gave, for the output norm over frames."""

    @property
    def norms_over_frames(self) -> bool:
        return self.splice is not None and self.splice.spec.base_norms_over_frames


def begin_call(
    key: str, executor: Any, model: Any, conds: Any, x_in: Tensor, timestep: Tensor, model_options: dict[str, Any]
) -> Any:
    """CALC_COND_BATCH wrapper: the one place where the batch is exactly one clip or one window."""
    options = model_options["transformer_options"]
    window = options.get("context_window")
    leading = _leading_frames(window)
    frames = _frame_indices(window, leading, x_in.shape[0])
    options = {
        **options,
        STATE: {**options.get(STATE, {}), key: MotionCall(x_in.shape[0], num_leading=len(leading))},
        "ad_params": frames,
        "wrappers": _with_output_norm_innermost(options.get("wrappers", {}), key),
    }
    splice = model.current_patcher.get_attachment(key)
    if splice is not None and splice.image is not None:
        indices = frames["sub_idxs"] or list(range(x_in.shape[0]))
        conds = with_image(conds, f"{key}{IMAGE}", splice.image.seen_by(indices, frames["full_length"]))
    return executor(model, conds, x_in, timestep, {**model_options, "transformer_options": options})


def bind_modules(
    key: str,
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Any,
    c_crossattn: Any,
    control: Any,
    transformer_options: TransformerOptions,
    **kwargs: Any,
) -> Any:
    """APPLY_MODEL wrapper: find the splice and the modules of the model that runs, and start with an empty state."""
    calls = transformer_options.get(STATE, {})
    chunks = len(transformer_options.get("cond_or_uncond") or [0])
    call = calls.get(key) or MotionCall(x.shape[0] // chunks)
    check_whole_clips(x.shape[0], call.num_frames)
    image = kwargs.pop(f"{key}{IMAGE}", None)
    patcher = executor.class_obj.current_patcher
    splice = patcher.get_attachment(key)
    modules = patcher.get_additional_models_with_key(key)
    if splice is not None:
        own_frames = call.num_frames - call.num_leading
        check_clip_length(own_frames, None, splice.spec.num_positions, 0, splice.name)
        module, *scheduled = (each.model for each in modules)
        run = scheduled_runner(module, scheduled[0], executor.class_obj.model_sampling, t) if scheduled else run_plainly
        call = replace(call, splice=splice, module=module, run=run, image=image)
    options = {**transformer_options, STATE: {**calls, key: replace(call, is_bound=True, last_features=[])}}
    return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


@dataclass(frozen=True)
class OutputNorm:
    """DIFFUSION_MODEL wrapper: for a v1 module, the UNet's output layers with the norm over all frames."""

    key: str

    @torch.compiler.disable(recursive=False)
    def __call__(
        self,
        executor: Any,
        x: Tensor,
        timesteps: Tensor,
        context: Any,
        y: Any,
        control: Any,
        transformer_options: TransformerOptions,
        **kwargs: Any,
    ) -> Tensor:
        """What the UNet predicts. ComfyUI's own result is dropped under v1: it costs one output convolution."""
        predicted = executor(x, timesteps, context, y, control, transformer_options, **kwargs)
        call = call_of(self.key, transformer_options)
        if not call.norms_over_frames:
            return predicted
        norm, *rest = executor.class_obj.out
        h = norm_over_frames(norm, call.last_features.pop().to(x.dtype), call.num_frames)
        for layer in rest:
            h = layer(h)
        return h


@dataclass(frozen=True, eq=False)
class LayerHandler:
    """Runs one kind of layer, and the temporal transformer behind it where one belongs there."""

    key: str
    layer_class: type[nn.Module]

    # Compiled UNets drop every guard on transformer_options, so frames and modules would go stale inside a graph.
    @torch.compiler.disable
    def __call__(
        self, layer: nn.Module, x: Tensor, emb: Tensor, context: Any, options: TransformerOptions, *rest: Any
    ) -> Tensor:
        """What the layer gives, with motion. Takes the arguments of ComfyUI's `forward_timestep_embed_patch`."""
        call = call_of(self.key, options)
        inner = _next_handler(self, layer, options)
        x = inner(layer, x, emb, context, options, *rest) if inner else run_layer(layer, x, emb, context, options)
        if call.splice is None:
            return x
        place = Place(options["block"], self.layer_class)
        address = call.splice.places.get(place)
        if address is not None:
            x = call.module(x, address, call.num_frames, call.run)
        if place == call.splice.last_place:
            _keep_last_features(x, options)
        return x


@dataclass(frozen=True, eq=False)
class ImageInputHandler:
    """Runs the UNet's input convolution, and adds what the motion module's own makes of its image."""

    key: str

    @torch.compiler.disable
    def __call__(
        self, layer: nn.Module, x: Tensor, emb: Tensor, context: Any, options: TransformerOptions, *rest: Any
    ) -> Tensor:
        """What the layer gives. Takes the arguments of ComfyUI's `forward_timestep_embed_patch`."""
        call = call_of(self.key, options)
        inner = _next_handler(self, layer, options)
        h = inner(layer, x, emb, context, options, *rest) if inner else layer(x)
        if call.image is None or options["block"] != INPUT_BLOCK:
            return h
        return h + call.module.image_input(call.image.to(x))


def _next_handler(own: object, layer: nn.Module, options: TransformerOptions) -> Any:
    """The handler that would have got this layer without us: an earlier splice, or another extension."""
    entries = itertools.dropwhile(lambda entry: entry[1] is not own, options["patches"][PATCH])
    return next((handler for layer_class, handler in list(entries)[1:] if isinstance(layer, layer_class)), None)


def call_of(key: str, options: TransformerOptions) -> MotionCall:
    """The state of the running call. Raises: HostError if the UNet was called without ComfyUI's model around it."""
    call = options.get(STATE, {}).get(key)
    if call is None or not call.is_bound:
        raise HostError(
            "an inflated UNet was called around ComfyUI's `apply_model`, so its frames are unknown. "
            "Take the extension that does so out of the graph, or put it before InflateModel."
        )
    return call


def run_layer(layer: nn.Module, x: Tensor, emb: Tensor, context: Any, options: TransformerOptions) -> Tensor:
    """What the host would have computed for this layer, with frame-wide norms where a v1 module asks for them."""
    if isinstance(layer, SpatialTransformer):
        x = layer(x, context, options)
        if "transformer_index" in options:
            options["transformer_index"] += 1
        return x
    frames = next((call.num_frames for call in options[STATE].values() if call.norms_over_frames), None)
    return layer(x, emb) if frames is None else run_resblock_over_frames(layer, x, emb, frames)


def run_resblock_over_frames(block: Any, x: Tensor, emb: Tensor, num_frames: int) -> Tensor:
    """A ResBlock whose two norms take their statistics over all frames of each clip.

    Shapes: x `(b f) c h w`, emb `(b f) e` -> `(b f) c' h w`
    Source: guoyww/AnimateDiff resnet.py `ResnetBlock3D` with `use_inflated_groupnorm: false`.
    """
    h = _normed_layers(block.in_layers, x, num_frames)
    h = h + block.emb_layers(emb).to(h.dtype)[..., None, None]
    return block.skip_connection(x) + _normed_layers(block.out_layers, h, num_frames)


def _normed_layers(layers: nn.Sequential, x: Tensor, num_frames: int) -> Tensor:
    norm, *rest = layers
    x = norm_over_frames(norm, x, num_frames)
    for layer in rest:
        x = layer(x)
    return x


def _keep_last_features(x: Tensor, options: TransformerOptions) -> None:
    """Hand the last block's features to every splice that norms them. The outermost handler speaks last."""
    for call in options[STATE].values():
        call.last_features[:] = [x] if call.norms_over_frames else []


def _with_output_norm_innermost(wrappers: dict[str, Any], key: str) -> dict[str, Any]:
    """The wrappers with ours next to the UNet: others may skip the call, or keep and compare what it gives."""
    around_unet = dict(wrappers.get(WrappersMP.DIFFUSION_MODEL, {}))
    if key in around_unet:
        around_unet[key] = around_unet.pop(key)
    return {**wrappers, WrappersMP.DIFFUSION_MODEL: around_unet}


def _leading_frames(window: Any) -> list[int]:
    """The frame that ComfyUI's own Context Windows puts in front of a window, for causal video models."""
    index = getattr(window, "causal_anchor_index", None)
    return [index] if index is not None and index >= 0 else []


def _frame_indices(window: Any, leading: list[int], num_frames: int) -> dict[str, Any]:
    """Which frames this call holds, under the names that IPAdapter-plus and Advanced-ControlNet read."""
    if window is None:
        return {"full_length": num_frames, "context_length": num_frames, "sub_idxs": None}
    indices = leading + list(window.index_list)
    return {"full_length": window.total_frames, "context_length": len(indices), "sub_idxs": indices}
