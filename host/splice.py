"""The splice: ComfyUI runs its own UNet, and asks us layer by layer.

Nothing in the shared UNet changes. Two handlers, for spatial transformers and ResBlocks, are consulted for every layer;
they run the layer and then the temporal transformer that belongs behind it. What one call needs to know (frames, the
modules on this device) travels in `transformer_options` and ends with the call.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..core.errors import HostError
from ..motion_modules.frames import check_whole_clips, norm_over_frames
from ..motion_modules.spec import Address, MotionModuleSpec
from ..sampling.clip_length import check_clip_length
from .unet import Place

STATE = "motiongraft"
"""Our entry in `transformer_options`: a MotionCall for each splice."""
PATCH = "forward_timestep_embed_patch"

TransformerOptions = dict[str, Any]


@dataclass(frozen=True)
class MotionCall:
    """What one call of the UNet must know for one splice."""

    num_frames: int
    spec: MotionModuleSpec
    module: Any = None
    """The MotionModule on the device of this call; None until the device is known."""
    last_features: list[Tensor] = field(default_factory=lambda: [])
    """What the last output block gave, for the output norm over frames."""


@dataclass(frozen=True, eq=False)
class Splice:
    """One InflateModel: the wrappers and handlers that bring one motion module into one model."""

    key: str
    """Its own name for additional models, wrappers and state, so that several splices live in one model."""
    name: str
    """The motion module's file, for messages."""
    spec: MotionModuleSpec
    places: Mapping[Place, Address]
    last_place: Place

    def attach(self, model: ModelPatcher, modules: ModelPatcher) -> None:
        """Register this splice on a model clone of the caller's own."""
        wrappers = comfy.patcher_extension.WrappersMP
        model.set_additional_models(self.key, [modules])
        model.add_wrapper_with_key(wrappers.OUTER_SAMPLE, self.key, self.check_clip)
        model.add_wrapper_with_key(wrappers.CALC_COND_BATCH, self.key, self.begin_call)
        model.add_wrapper_with_key(wrappers.APPLY_MODEL, self.key, self.bind_modules)
        if self.spec.base_norms_over_frames:
            model.add_wrapper_with_key(wrappers.DIFFUSION_MODEL, self.key, self.norm_output)
        for layer_class in (SpatialTransformer, ResBlock):
            model.set_model_forward_timestep_embed_patch((layer_class, LayerHandler(self, layer_class)))
            # The first match in this list gets the layer. A later splice stands before an earlier one and runs it
            # as part of the layer, so that motion is added in the order in which the nodes were applied.
            handlers = model.model_options["transformer_options"]["patches"][PATCH]
            handlers.insert(0, handlers.pop())

    def check_clip(self, executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Any:
        """OUTER_SAMPLE wrapper: refuse a clip that cannot work before anything is loaded."""
        window = executor.class_obj.model_options.get("context_handler")
        length = getattr(window, "context_length", None)
        check_clip_length(noise.shape[0], length, self.spec.num_positions, self.spec.trained_frames, self.name)
        return executor(noise, *args, **kwargs)

    def begin_call(
        self, executor: Any, model: Any, conds: Any, x_in: Tensor, timestep: Tensor, model_options: dict[str, Any]
    ) -> Any:
        """CALC_COND_BATCH wrapper: the one place where the batch is exactly one clip or one window."""
        options = model_options["transformer_options"]
        window = options.get("context_window")
        anchor = _anchor(window)
        own_frames = x_in.shape[0] - len(anchor)
        check_clip_length(own_frames, None, self.spec.num_positions, 0, self.name)
        options = {
            **options,
            STATE: {**options.get(STATE, {}), self.key: MotionCall(x_in.shape[0], self.spec)},
            "ad_params": _frame_indices(window, anchor, x_in.shape[0]),
        }
        return executor(model, conds, x_in, timestep, {**model_options, "transformer_options": options})

    def bind_modules(
        self,
        executor: Any,
        x: Tensor,
        t: Tensor,
        c_concat: Any,
        c_crossattn: Any,
        control: Any,
        transformer_options: TransformerOptions,
        **kwargs: Any,
    ) -> Any:
        """APPLY_MODEL wrapper: find the modules on this device, and start this call with an empty state."""
        calls = transformer_options.get(STATE, {})
        chunks = len(transformer_options.get("cond_or_uncond") or [0])
        call = calls.get(self.key) or MotionCall(x.shape[0] // chunks, self.spec)
        check_whole_clips(x.shape[0], call.num_frames)
        module = executor.class_obj.current_patcher.get_additional_models_with_key(self.key)[0].model
        bound = replace(call, module=module, last_features=[])
        options = {**transformer_options, STATE: {**calls, self.key: bound}}
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    @torch.compiler.disable(recursive=False)
    def norm_output(
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
        """DIFFUSION_MODEL wrapper: the UNet's output layers again, with the norm over all frames of the clip."""
        executor(x, timesteps, context, y, control, transformer_options, **kwargs)
        call = transformer_options[STATE][self.key]
        norm, *rest = executor.class_obj.out
        h = norm_over_frames(norm, call.last_features.pop().to(x.dtype), call.num_frames)
        for layer in rest:
            h = layer(h)
        return h


@dataclass(frozen=True, eq=False)
class LayerHandler:
    """Runs one kind of layer, and the temporal transformer behind it where one belongs there."""

    splice: Splice
    layer_class: type[nn.Module]

    # Compiled UNets drop every guard on transformer_options, so frames and modules would go stale inside a graph.
    @torch.compiler.disable
    def __call__(
        self, layer: nn.Module, x: Tensor, emb: Tensor, context: Any, options: TransformerOptions, *rest: Any
    ) -> Tensor:
        """What the layer gives, with motion. Takes the arguments of ComfyUI's `forward_timestep_embed_patch`."""
        call = call_of(self.splice, options)
        inner = self._next_handler(layer, options)
        x = inner(layer, x, emb, context, options, *rest) if inner else run_layer(layer, x, emb, context, options)
        place = Place(options["block"], self.layer_class)
        address = self.splice.places.get(place)
        if address is not None:
            x = call.module(x, address, call.num_frames)
        if place == self.splice.last_place and call.spec.base_norms_over_frames:
            call.last_features[:] = [x]
        return x

    def _next_handler(self, layer: nn.Module, options: TransformerOptions) -> Any:
        """The handler that would have got this layer without us: an earlier splice, or another extension."""
        entries = itertools.dropwhile(lambda entry: entry[1] is not self, options["patches"][PATCH])
        return next((handler for layer_class, handler in list(entries)[1:] if isinstance(layer, layer_class)), None)


def call_of(splice: Splice, options: TransformerOptions) -> MotionCall:
    """The state of the running call. Raises: HostError if the UNet was called without ComfyUI's model around it."""
    call = options.get(STATE, {}).get(splice.key)
    if call is None or call.module is None:
        raise HostError(
            f"the UNet with {splice.name} was called around ComfyUI's `apply_model`, so its frames are unknown. "
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
    frames = next((call.num_frames for call in options[STATE].values() if call.spec.base_norms_over_frames), None)
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


def _anchor(window: Any) -> list[int]:
    """The frame that ComfyUI's own Context Windows puts in front of a window, for causal video models."""
    index = getattr(window, "causal_anchor_index", None)
    return [index] if index is not None and index >= 0 else []


def _frame_indices(window: Any, anchor: list[int], num_frames: int) -> dict[str, Any]:
    """Which frames this call holds, under the names that IPAdapter-plus and Advanced-ControlNet read."""
    if window is None:
        return {"full_length": num_frames, "context_length": num_frames, "sub_idxs": None}
    indices = anchor + list(window.index_list)
    return {"full_length": window.total_frames, "context_length": len(indices), "sub_idxs": indices}
