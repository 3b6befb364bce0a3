"""What runs in place of ComfyUI's own call of a layer: the layer, and the temporal transformer behind it."""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from comfy.ldm.modules.attention import SpatialTransformer
from torch import Tensor, nn

from ..motion_modules.frames import norm_over_frames
from .motion_call import STATE, TransformerOptions, call_of
from .unet import Place

PATCH = "forward_timestep_embed_patch"
INPUT_BLOCK = ("input", 0)
"""Where the UNet's input convolution stands."""


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
            x = call.module(x, address, call.num_frames, call.adjustments_at(address, x))
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
