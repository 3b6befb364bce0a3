"""AnchorFrames: frames of a clip that are held to images while it is sampled, by any sampler."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..core.errors import SettingsError
from ..sampling.frame_anchors import FrameAnchors, check_frames, pull_of, pulled
from ..sampling.motion_control import as_masks, check_number_of_masks, latent_mask
from .noise_schedule import percent_of
from .wrapper_order import add_outermost_wrapper

ANCHORS = "motiongraft.anchors"


@dataclass(frozen=True, eq=False)
class Pull:
    """What acts on a clip at every step alike. Shapes: images `k c h w`, strengths `f`, shares `f k`, mask `f 1 h w`"""

    images: Tensor
    strengths: Tensor
    shares: Tensor
    mask: Tensor | None


@dataclass(frozen=True, eq=False)
class Anchored:
    """Images at frames, as one node gives them. Shapes: latent `k c h w`, mask `1 h w` or `f h w`"""

    anchors: FrameAnchors
    latent: Tensor
    mask: Tensor | None
    ready: dict[Any, Pull] = field(default_factory=lambda: {})
    """For the run that is on, by the shape and device of its clip."""

    def sample(self, executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Any:
        """OUTER_SAMPLE wrapper: refuse images that do not fit before anything is loaded; forget the run after it."""
        check_frames(self.anchors, self.latent, noise.shape)
        if self.mask is not None:
            check_number_of_masks(self.mask, noise.shape[0])
        try:
            return executor(noise, *args, **kwargs)
        finally:
            self.ready.clear()

    def predict(self, executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """PREDICT_NOISE wrapper: the clip that the model sees in the noise, pulled to the images.

        Here all windows are joined and guidance is applied, whatever guider runs.
        """
        denoised = executor(x, timestep, *args, **kwargs)
        model = executor.class_obj.inner_model
        part = self.anchors.part
        if not (part.is_whole or part.holds(percent_of(model.model_sampling, float(timestep.max())))):
            return denoised
        pull = self._pull(model, denoised)
        return pulled(denoised, pull.images, pull.strengths, pull.shares, pull.mask)

    def _pull(self, model: Any, clip: Tensor) -> Pull:
        key = (tuple(clip.shape), clip.device)
        if key not in self.ready:
            strengths, shares = pull_of(self.anchors, len(self.latent), len(clip))
            mask = None if self.mask is None else latent_mask(self.mask, range(len(clip)), clip.shape[-2:]).to(clip)
            images = model.process_latent_in(self.latent).to(clip)
            self.ready[key] = Pull(images, strengths.to(clip), shares.to(clip), mask)
        return self.ready[key]


def anchor_frames(
    model: ModelPatcher, latent: Mapping[str, Any], anchors: FrameAnchors, mask: Tensor | None = None
) -> ModelPatcher:
    """A clone of the model that holds frames to images; where several hold one frame, the first has the last word.

    Raises: SettingsError for a latent that is not of images, or a mask of another form.
    """
    samples = latent["samples"]
    if samples.ndim != 4:
        raise SettingsError(
            f"expected latents of images, images×channels×height×width, found {'×'.join(map(str, samples.shape))}. "
            "Connect VAE Encode."
        )
    anchored = Anchored(anchors, samples, None if mask is None else as_masks(mask))
    held = model.clone()
    if anchors.strength != 0:
        held.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, ANCHORS, anchored.sample)
        # A pack that skips the model where little changes would skip the pull with it.
        add_outermost_wrapper(held, WrappersMP.PREDICT_NOISE, ANCHORS, anchored.predict)
    return held
