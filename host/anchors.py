"""AnchorFrames: frames of a clip that are held to images while it is sampled, by any sampler."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..core.errors import SettingsError
from ..sampling.frame_anchors import FrameAnchors, check_frames, pull_of, pulled
from ..sampling.motion_control import as_masks, check_number_of_masks, latent_mask
from .noise_schedule import percent_of

ANCHORS = "motiongraft.anchors"


@dataclass(frozen=True, eq=False)
class Anchored:
    """Images at frames, as one node gives them. Shapes: latent `k c h w`, mask `1 h w` or `f h w`"""

    anchors: FrameAnchors
    latent: Tensor
    mask: Tensor | None

    def check_clip(self, executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Any:
        """OUTER_SAMPLE wrapper: refuse images that do not fit the clip before anything is loaded."""
        check_frames(self.anchors, self.latent, noise.shape)
        if self.mask is not None:
            check_number_of_masks(self.mask, noise.shape[0])
        return executor(noise, *args, **kwargs)

    def pull(self, executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """PREDICT_NOISE wrapper: the clip that the model sees in the noise, pulled to the images.

        Here all windows are joined and guidance is applied, whatever guider runs.
        """
        denoised = executor(x, timestep, *args, **kwargs)
        model = executor.class_obj.inner_model
        if not self._holds(model.model_sampling, timestep):
            return denoised
        images = model.process_latent_in(self.latent)
        strengths, shares = pull_of(self.anchors, len(images), len(x))
        mask = None if self.mask is None else latent_mask(self.mask, range(len(x)), x.shape[-2:])
        return pulled(denoised, images, strengths, shares, mask)

    def _holds(self, sampling: Any, timestep: Tensor) -> bool:
        part = self.anchors.part
        return part.is_whole or part.holds(percent_of(sampling, float(timestep.max())))


def anchor_frames(
    model: ModelPatcher, latent: Mapping[str, Any], anchors: FrameAnchors, mask: Tensor | None = None
) -> ModelPatcher:
    """A clone of the model that holds frames to images; where several hold one frame, the first has the last word.

    Raises: SettingsError for a latent that is not of images, or a mask of another form.
    """
    samples = latent["samples"]
    if samples.ndim != 4:
        raise SettingsError(
            f"expected latents of images, images×channels×height×width, found {_form(samples.shape)}. "
            "Connect VAE Encode."
        )
    anchored = Anchored(anchors, samples, None if mask is None else as_masks(mask))
    held = model.clone()
    if anchors.strength != 0:
        held.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, ANCHORS, anchored.check_clip)
        held.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, ANCHORS, anchored.pull)
    return held


def _form(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
