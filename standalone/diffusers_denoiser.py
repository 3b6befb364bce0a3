"""A UNet of diffusers as the training loop and the animation see it."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from ..core.errors import IncompatibleModelError
from ..motion_modules.module import MotionModule
from ..training.batches import stacked_states
from ..training.denoiser import Conditioning
from .device_memory import free_memory
from .diffusers_base import DiffusersBase, own_unet, pooled_width
from .motion_splice import MotionSplice
from .recomputed_layers import recomputed_layers


class DiffusersDenoiser:
    """A frozen base model on a device, with or without a motion module in it.

    Its UNet is its own: hooks on its layers are seen by nobody else. The motion module must be on the device.
    Raises: IncompatibleModelError if the motion module was made for another base model.
    """

    def __init__(
        self,
        base: DiffusersBase,
        device: torch.device,
        precision: torch.dtype,
        motion: MotionModule | None = None,
        name: str = "",
    ):
        self.checkpointing = False
        self.predicts = base.predicts
        self.unet = own_unet(base.unet, device, precision)
        """In the type that it computes in."""
        self._base, self._device, self._precision = base, device, precision
        self._splice = None if motion is None else MotionSplice(self.unet, motion, name)

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def base_alphas(self) -> Tensor:
        return self._base.alphas

    def free_memory(self) -> int:
        return free_memory(self._device)

    def scale_latents(self, latents: Tensor) -> Tensor:
        return latents * self._base.latent_scale

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning, num_frames: int) -> Tensor:
        """What the UNet makes of noisy clips, every frame under its clip's caption.

        Shapes: noisy `(b f) c h w`, timesteps `b` -> `(b f) c h w`, in the type of `noisy`
        """
        states = stacked_states(conditioning.texts).to(self._device, self._precision)
        with ExitStack() as call:
            if self._splice is not None:
                call.enter_context(self._splice.clips_of(num_frames))
            if self.checkpointing and torch.is_grad_enabled():
                call.enter_context(recomputed_layers(self.unet, self._splice))
            (predicted,) = self.unet(
                noisy.to(self._precision),
                timesteps.repeat_interleave(num_frames),
                encoder_hidden_states=states.repeat_interleave(num_frames, dim=0),
                added_cond_kwargs=self._labels(conditioning, num_frames),
                return_dict=False,
            )
        return predicted.to(noisy.dtype)

    def _labels(self, conditioning: Conditioning, num_frames: int) -> dict[str, Any] | None:
        """SDXL's pooled text and sizes for each frame, None for SD 1.5.

        Source: arXiv 2307.01952 section 2.2; the order is that of diffusers' pipeline_stable_diffusion_xl.py.
        """
        if pooled_width(self.unet) is None:
            return None
        pooled = [text.pooled for text in conditioning.texts if text.pooled is not None]
        if len(pooled) != len(conditioning.texts):
            raise IncompatibleModelError(
                "expected pooled text states, which SDXL is told, found clips without. Cache the clips again with "
                "the CLIP of this base model."
            )
        # Kept in float32: bf16 has no odd numbers above 256.
        sizes = torch.tensor([(height, width, 0.0, 0.0, height, width) for height, width in conditioning.sizes])
        return {
            "text_embeds": torch.stack(pooled).to(self._device, self._precision).repeat_interleave(num_frames, dim=0),
            "time_ids": sizes.to(self._device).repeat_interleave(num_frames, dim=0),
        }
