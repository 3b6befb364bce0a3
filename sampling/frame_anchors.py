"""How strongly frames of a clip are pulled to images that stand at some of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.errors import SettingsError
from .keyframes import Keyframes
from .percent_range import PercentRange


@dataclass(frozen=True, eq=False)
class FrameAnchors:
    """Images at frames of a clip, and how their pull fades towards the frames around them."""

    keyframes: Keyframes
    strength: float = 1.0
    """1 sets the frames to their images, 0 leaves them alone."""
    reach: int = 0
    """Frames on either side over which the pull fades to nothing."""
    part: PercentRange = field(default_factory=PercentRange)
    """Of the sampling, in which the images hold."""

    def frames_of(self, num_images: int, num_frames: int) -> list[int]:
        """The frame of each image; a single image stands at all of them. Raises: SettingsError"""
        if num_images == 1 and self.keyframes.frames:
            return self.keyframes.frames_of(len(self.keyframes.frames), num_frames)
        return self.keyframes.frames_of(num_images, num_frames)


def pull_of(anchors: FrameAnchors, num_images: int, num_frames: int) -> tuple[Tensor, Tensor]:
    """How strongly each frame is pulled, and by which images.

    At its own frame an image pulls alone. Between two, each pulls by its nearness.

    Shapes: -> strengths `f`, from 0 to 1, and shares `f k`, whose rows add up to one where something pulls
    """
    frames = torch.tensor(anchors.frames_of(num_images, num_frames))
    distances = (torch.arange(num_frames)[:, None] - frames).abs()
    nearness = (1 - distances / (anchors.reach + 1)).clamp(min=0)
    own = (distances == 0).any(dim=1, keepdim=True)
    nearness = torch.where(own & (distances > 0), 0.0, nearness)
    shares = nearness / nearness.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return anchors.strength * nearness.amax(dim=1), shares


def pulled(clip: Tensor, images: Tensor, strengths: Tensor, shares: Tensor, mask: Tensor | None = None) -> Tensor:
    """A clip whose frames have moved towards images by their strengths.

    Shapes: clip `f c h w`, images `k c h w` or one for all, strengths `f`, shares `f k`, mask `f 1 h w` -> as the clip
    """
    target = torch.einsum("fk,kchw->fchw", shares.to(clip), images.to(clip).expand(shares.shape[1], -1, -1, -1))
    weight = strengths.to(clip)[:, None, None, None]
    if mask is not None:
        weight = weight * mask.to(clip)
    return torch.where(weight == 1, target, clip + weight * (target - clip))


def check_frames(anchors: FrameAnchors, images: Tensor, clip: Sequence[int]) -> None:
    """Raises: SettingsError unless these images can stand in a clip of this shape. Shapes: images `k c h w`"""
    anchors.frames_of(len(images), clip[0])
    if tuple(images.shape[1:]) != tuple(clip[1:]):
        raise SettingsError(
            f"the images to anchor are {_size(images.shape)}, and the clip is {_size(clip)}. Scale them to the clip's "
            "size before VAE Encode, with the VAE of the model."
        )


def _size(shape: Sequence[int]) -> str:
    return f"{shape[-1] * 8}×{shape[-2] * 8} pixels of {shape[1]} channels"
