"""A SparseCtrl encoder as a ControlNet that Apply ControlNet takes: images at some frames of a clip."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
from comfy.controlnet import ControlBase, ControlNet
from comfy.latent_formats import SD15
from torch import Tensor

from ..core.errors import IncompatibleModelError, SettingsError
from ..core.tensor_files import read_tensor_file
from ..motion_modules.adjustments import Adjustments
from ..motion_modules.frames import check_whole_clips
from ..motion_modules.keys import LATENT_CHANNELS
from ..motion_modules.sparse_control import PIXEL_CHANNELS
from ..sampling.clip_length import check_clip_length
from ..sampling.context_windows import ContextWindowSettings
from ..sampling.keyframes import Keyframes, parse_keyframes, seen_at
from .motion_call import MotionCall, TransformerOptions, frames_of_call
from .sparse_loading import LoadedSparseControl, load_sparse_network
from .unet import base_name
from .view_windows import VIEW_NODE, VIEWS, views_of
from .windows import WINDOW_NODE

PIXELS_PER_LATENT = 8
"""Source: comfy/latent_formats.py, SD15."""


class SparseControl(ControlNet):
    """ComfyUI's ControlNet, handed for each call what stands at its frames.

    The images of a run are encoded once for each size, whatever the steps and windows. Nothing of it lies on the
    network, which copies of this object share.
    """

    def __init__(self, source: LoadedSparseControl, keyframes: Keyframes, motion_strength: float):
        sees_latents = source.network.sees_latents
        super().__init__(
            compression_ratio=1 if sees_latents else PIXELS_PER_LATENT,
            latent_format=SD15() if sees_latents else None,
            load_device=source.patcher.load_device,
            manual_cast_dtype=source.cast_dtype,
            extra_conds=[],
        )
        self.source = source
        self.keyframes = keyframes
        self.motion_strength = motion_strength
        self.control_model = source.network
        self.control_model_wrapped = source.patcher
        self.encoded: dict[Any, Tensor] = {}
        """The images as the network sees them, by size and device. Slices of this control for windows share it."""

    def copy(self) -> "SparseControl":
        """The same encoder for other images."""
        twin = SparseControl(self.source, self.keyframes, self.motion_strength)
        twin.control_model = self.control_model
        twin.control_model_wrapped = self.control_model_wrapped
        self.copy_to(twin)
        return twin

    def set_cond_hint(self, cond_hint: Tensor, *args: Any, vae: Any = None, **kwargs: Any) -> ControlBase:
        """Take the images. Shapes: `k c h w`, from 0 to 1

        Raises: SettingsError if they are not as many as keyframes, or there is no VAE that can encode them.
        """
        self.keyframes.check_images(len(cond_hint))
        if cond_hint.shape[1] < PIXEL_CHANNELS:
            raise SettingsError(
                f"{self.source.name} expects pictures in colour, found {cond_hint.shape[1]} channel. "
                "Connect an IMAGE, a mask through Convert Mask to Image."
            )
        if self.control_model.sees_latents:
            _check_vae(vae, self.source.name)
        return super().set_cond_hint(cond_hint[:, :PIXEL_CHANNELS], *args, vae=vae, **kwargs)

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        """Before the first step. Raises: IncompatibleModelError if the encoder was made for another base model."""
        unet = model.model_config.unet_config
        own = (self.control_model.model_channels, self.control_model.context_dim)
        if (unet.get("model_channels"), unet.get("context_dim")) != own:
            raise IncompatibleModelError(
                f"{self.source.name} is for {self.source.network.motion.spec.base}, this model is "
                f"{base_name(model.current_patcher)}. Take SparseCtrl out, or load an SD 1.5 checkpoint."
            )
        self.encoded.clear()  # a run that failed may have left some
        super().pre_run(model, percent_to_timestep_function)

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: Any, batched_number: int, transformer_options: TransformerOptions
    ) -> Any:
        """What is added to the UNet in a call, with that of the controls before.

        Shapes: x_noisy `(b f) 4 h w`, b conditionings of f frames each
        Raises: SettingsError if keyframes lie outside the clip, or there are more frames than positions.
        """
        call = frames_of_call(transformer_options, len(x_noisy) // batched_number)
        check_whole_clips(len(x_noisy), call.num_frames)
        views = transformer_options.get(VIEWS)
        self._check_length(call, views)
        places = self.keyframes.frames_of(len(self.cond_hint_original), call.total_frames)
        seen = seen_at(call.frames, self._images(x_noisy), places)
        windows = views_of(
            views, call.num_frames, call.num_leading, t, self.model_sampling_current, transformer_options
        )
        # ComfyUI's own get_control takes a hint of the right size as it is, and hands these arguments to the network.
        self.cond_hint = seen.repeat(len(x_noisy) // call.num_frames, 1, 1, 1)
        others, adjust = self.extra_args, Adjustments(strength=self.motion_strength, views=windows)
        self.extra_args = {**others, "num_frames": call.num_frames, "adjust": adjust}
        try:
            return super().get_control(x_noisy, t, cond, batched_number, transformer_options)
        finally:
            self.cond_hint, self.extra_args = None, others

    def cleanup(self) -> None:
        """Forget the run."""
        self.encoded.clear()
        super().cleanup()

    def _check_length(self, call: MotionCall, views: ContextWindowSettings | None) -> None:
        if call.total_frames > 1:
            at_once, node = call.num_frames - call.num_leading, WINDOW_NODE
            if views is not None and views.length < at_once:
                at_once, node = views.length, VIEW_NODE
            positions = self.control_model.motion.spec.num_positions
            check_clip_length(call.total_frames, at_once, positions, 0, self.source.name, node)

    def _images(self, x_noisy: Tensor) -> Tensor:
        """The images as the network sees them, of the size of the latents. Shapes: -> `k c h w`"""
        key = (tuple(x_noisy.shape[-2:]), x_noisy.device)
        if key not in self.encoded:
            pixels = _fitted(self.cond_hint_original, *x_noisy.shape[-2:])
            images = pixels if self.vae is None else self.latent_format.process_in(_encoded(self.vae, pixels))
            dtype = self.manual_cast_dtype or self.control_model.dtype
            self.encoded[key] = images.to(x_noisy.device, dtype)
        return self.encoded[key]


def load_sparse_control(path: Path, frames: str, motion_strength: float) -> SparseControl:
    """The SparseCtrl encoder of a file, for images at the frames that a widget's text names.

    Raises: CheckpointError if the file is no whole SparseCtrl encoder; SettingsError if the text names no frames.
    """
    keyframes = parse_keyframes(frames)
    return SparseControl(load_sparse_network(read_tensor_file(path)), keyframes, motion_strength)


def _check_vae(vae: Any, name: str) -> None:
    if vae is None:
        raise SettingsError(
            f"{name} sees images as latents, and Apply ControlNet has no VAE. Connect that of the checkpoint to its "
            "input `vae`."
        )
    channels = getattr(vae, "latent_channels", LATENT_CHANNELS)
    if channels != LATENT_CHANNELS:
        raise SettingsError(
            f"{name} sees latents of {LATENT_CHANNELS} channels, and the VAE at Apply ControlNet makes {channels}. "
            "Connect the VAE of an SD 1.5 checkpoint."
        )


def _fitted(images: Tensor, height: int, width: int) -> Tensor:
    """Images cut and scaled to the pixels of latents, in the proportions that they have.

    Shapes: images `k c h w` -> `k c (8 height) (8 width)`
    """
    height, width = height * PIXELS_PER_LATENT, width * PIXELS_PER_LATENT
    shrinks = images.shape[-2] > height and images.shape[-1] > width
    return comfy.utils.common_upscale(images, width, height, "area" if shrinks else "bilinear", "center")


def _encoded(vae: Any, pixels: Tensor) -> Tensor:
    """The latents of images; what ComfyUI had loaded for sampling is loaded again after it."""
    in_use = comfy.model_management.loaded_models(only_currently_used=True)
    latents = vae.encode(pixels.movedim(1, -1))
    # ComfyUI keeps an empty place for a model that was dropped, until it next makes room.
    comfy.model_management.load_models_gpu([model for model in in_use if model is not None])
    return latents
