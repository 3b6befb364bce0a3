"""ComfyUI's UNet as the training loop sees it: the splice and handlers by which animations are sampled."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import comfy.model_management
import torch
from comfy.ldm.modules.attention import SpatialTransformer, attention_pytorch
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..motion_modules.mixed_precision import CastMotion
from ..motion_modules.module import MotionModule
from ..training.batches import stacked_states
from ..training.denoiser import Conditioning
from .layer_handlers import PATCH, LayerHandler, OutputNorm
from .motion_call import STATE, MotionCall
from .splice import Splice
from .training_base import TrainingBase, prediction_of
from .unet import find_places, last_place, unet_of

KEY = f"{STATE}.training"


class ComfyDenoiser:
    """A frozen base model on its device, with or without a motion module in it."""

    def __init__(self, base: TrainingBase, precision: torch.dtype, motion: MotionModule | None = None, name: str = ""):
        self.checkpointing = False
        self.predicts = prediction_of(base)
        self._base = base
        self._precision = precision
        self._motion = None if motion is None else CastMotion(motion)
        self._splice = None if motion is None else _splice(base, motion, name)

    @property
    def device(self) -> torch.device:
        return self._base.patcher.load_device

    @property
    def base_alphas(self) -> Tensor:
        """ᾱ = 1 / (1 + σ²). Shapes: `t`, float64"""
        return 1 / (1 + self._base.sampling.sigmas.cpu().double() ** 2)

    def free_memory(self) -> int:
        return comfy.model_management.get_free_memory(self.device)

    def scale_latents(self, latents: Tensor) -> Tensor:
        return self._base.patcher.model.process_latent_in(latents)

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning, num_frames: int) -> Tensor:
        """What the UNet makes of noisy clips, every frame under its clip's caption."""
        states = stacked_states(conditioning.texts).to(self.device, self._precision)
        predicted = self._base.unet(
            noisy.to(self._precision),
            timesteps.repeat_interleave(num_frames),
            context=states.repeat_interleave(num_frames, dim=0),
            y=self._labels(conditioning, num_frames),
            transformer_options=self._options(num_frames, len(timesteps)),
        )
        return predicted.to(noisy.dtype)

    def _labels(self, conditioning: Conditioning, num_frames: int) -> Tensor | None:
        """SDXL's pooled text and sizes for each frame, None for SD 1.5."""
        if self._base.unet.num_classes is None:
            return None
        encode = self._base.patcher.model.encode_adm
        labels = [
            encode(pooled_output=text.pooled.unsqueeze(0), height=height, width=width, device=self.device)
            for text, (height, width) in zip(conditioning.texts, conditioning.sizes, strict=True)
            if text.pooled is not None
        ]
        return torch.cat(labels).to(self.device, self._precision).repeat_interleave(num_frames, dim=0)

    def _options(self, num_frames: int, num_clips: int) -> dict[str, Any]:
        """What ComfyUI's sampling would hand to the UNet, and no more."""
        handlers: list[Any] = []
        options: dict[str, Any] = {
            "cond_or_uncond": [0] * num_clips,
            "optimized_attention_override": _differentiable_attention,
            "patches": {PATCH: handlers},
        }
        if self._splice is not None:
            call = MotionCall(num_frames, splice=self._splice, module=self._motion, is_bound=True)
            options[STATE] = {KEY: call}
            options["wrappers"] = {WrappersMP.DIFFUSION_MODEL: {KEY: [OutputNorm(KEY)]}}
            handlers += [
                (layer_class, LayerHandler(KEY, layer_class)) for layer_class in (SpatialTransformer, ResBlock)
            ]
        if self.checkpointing and torch.is_grad_enabled():
            classes = (SpatialTransformer, ResBlock)
            handlers[:0] = [(layer_class, RecomputedLayer(dict(handlers).get(layer_class))) for layer_class in classes]
        return options


@dataclass(frozen=True)
class RecomputedLayer:
    """Runs a layer, and motion behind it, without keeping activations; the backward pass runs it once more."""

    handler: Any
    """The splice's LayerHandler, None for a base without motion."""

    def __call__(
        self, layer: nn.Module, x: Tensor, emb: Tensor, context: Any, options: Mapping[str, Any], *rest: Any
    ) -> Tensor:
        """What the layer gives. Takes the arguments of ComfyUI's `forward_timestep_embed_patch`."""
        # When the backward pass comes, ComfyUI's own options speak of the last block.
        run = partial(self._run, layer, dict(options), rest)
        return cast(Tensor, checkpoint(run, x, emb, context, use_reentrant=False))

    def _run(
        self, layer: nn.Module, options: dict[str, Any], rest: tuple[Any, ...], x: Tensor, emb: Tensor, context: Any
    ) -> Tensor:
        if self.handler is not None:
            return self.handler(layer, x, emb, context, options, *rest)
        return layer(x, context, options) if isinstance(layer, SpatialTransformer) else layer(x, emb)


def _differentiable_attention(_: Any, *args: Any, **kwargs: Any) -> Tensor:
    """PyTorch's attention: the faster ones that ComfyUI may have chosen know no gradient."""
    return attention_pytorch(*args, **kwargs)


def _splice(base: TrainingBase, motion: MotionModule, name: str) -> Splice:
    places = find_places(base.patcher, motion.spec, name)
    return Splice(KEY, name, motion.spec, places, last_place(unet_of(base.patcher)))
