"""An image that a motion module sees beside the latents, at the UNet's input convolution (PIA)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..core.errors import IncompatibleModelError, SettingsError
from ..sampling.image_affinity import affinities
from .motion_modules import LoadedMotionModule


@dataclass(frozen=True, eq=False)
class ConditionImage:
    """An image and how near the frames are to it. Shapes: latent `1 c h w`"""

    latent: Tensor
    affinity: str
    frame: int

    def scaled_for(self, model: ModelPatcher) -> "ConditionImage":
        """The same in the scale in which a model sees its latents."""
        return replace(self, latent=model.model.process_latent_in(self.latent))

    def check_fits(self, noise: Tensor) -> None:
        """Raises: SettingsError unless the image has the size of the latents that are sampled, and its frame is one."""
        affinities(self.affinity, noise.shape[0], self.frame)
        if self.latent.shape[-2:] != noise.shape[-2:]:
            (height, width), (own_height, own_width) = noise.shape[-2:], self.latent.shape[-2:]
            raise SettingsError(
                f"the image is {own_width * 8}×{own_height * 8} pixels and the clip {width * 8}×{height * 8}. "
                "Scale the image to the clip's size before VAE Encode."
            )

    def seen_by(self, frames: list[int], num_frames: int) -> Tensor:
        """What the convolution sees at some frames of a clip: affinity, then the image.

        Shapes: -> `f 5 h w`
        Source: open-mmlab/PIA i2v_pipeline.py.
        """
        by_frame = affinities(self.affinity, num_frames, self.frame)
        levels = self.latent.new_tensor([by_frame[frame] for frame in frames])
        mask = levels[:, None, None, None].expand(-1, 1, *self.latent.shape[-2:])
        return torch.cat([mask, self.latent.expand(len(frames), -1, -1, -1)], dim=1)


def condition_on_image(
    motion: LoadedMotionModule, latent: Mapping[str, Any], affinity: str, frame: int
) -> LoadedMotionModule:
    """The motion module with an image to animate. Raises: IncompatibleModelError or SettingsError if it takes none."""
    if not motion.spec.image_channels:
        raise IncompatibleModelError(
            f"{motion.name} takes no image: only a module of PIA has an input for one. "
            "Load pia.ckpt, or take Condition On Image out."
        )
    samples = latent["samples"]
    if samples.ndim != 4 or samples.shape[:2] != (1, 4):
        raise SettingsError(
            f"expected the latent of one image, 1×4×height×width, found {'×'.join(map(str, samples.shape))}. "
            "Connect VAE Encode with one image."
        )
    affinities(affinity, frame + 1, frame)  # names an unknown preset here, not while sampling
    return replace(motion, image=ConditionImage(samples, affinity, frame))


def check_has_image(motion: LoadedMotionModule) -> None:
    """Raises: IncompatibleModelError if a module needs an image and was given none."""
    if motion.spec.image_channels and motion.image is None:
        raise IncompatibleModelError(
            f"{motion.name} animates an image and was given none. "
            "Put Condition On Image between Load Motion Module and this node."
        )
