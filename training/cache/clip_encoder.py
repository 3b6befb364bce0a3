"""What a cache asks of a VAE and a text encoder, and the checks on what they answer."""

from typing import Protocol

import torch
from torch import Tensor

from ...core.errors import TrainingDataError, shown
from ..data.clips import TrainingClip
from .cached_clips import TextStates
from .clip_identity import encoding_seed


class ClipEncoder(Protocol):
    """A VAE and a text encoder. Whatever they return is copied."""

    @property
    def vae_hash(self) -> str:
        """Changes when the same frames may give other latents."""
        ...

    @property
    def clip_hash(self) -> str:
        """Changes when the same caption may give other text states."""
        ...

    def encode_frames(self, frames: Tensor, seed: int) -> Tensor:
        """Latents as the VAE gives them, the same whenever frames and seed are. Shapes: `f h w 3` -> `f c h w`"""
        ...

    def encode_text(self, caption: str) -> TextStates:
        """Text states of a caption, taken literally."""
        ...


def encoded_frames(
    encoder: ClipEncoder, clip: TrainingClip, fingerprint: str, frames: Tensor, mirrored: bool
) -> Tensor:
    """Latents of a clip's frames in float16. Shapes: `f h w 3` -> `f c h w`

    Raises: TrainingDataError naming a clip whose latents are not finite, all the same, or not one for each frame.
    """
    source = frames.flip(2) if mirrored else frames
    latents = encoder.encode_frames(source, encoding_seed(fingerprint, mirrored))
    if latents.ndim != 4 or latents.shape[0] != clip.num_frames:
        raise TrainingDataError(
            f"{clip.name}: expected latents for {clip.num_frames} frames, `f c h w`, and the VAE gave "
            f"{list(latents.shape)}. Use the VAE of SD 1.5 or SDXL."
        )
    half = latents.to("cpu", torch.float16)
    if not torch.isfinite(half).all():
        raise TrainingDataError(
            f"{clip.name}: the VAE gave NaN or infinity for this clip. Run ComfyUI with --fp32-vae or use another VAE "
            "(the VAE that came with SDXL overflows in fp16); if other clips encode, leave this one out."
        )
    if half.min() == half.max():
        raise TrainingDataError(
            f"{clip.name}: the VAE gave the same number everywhere for this clip, so nothing can be learned from it. "
            "Look at the clip, and leave it out if it is blank; else use another VAE."
        )
    return half.contiguous()


def encoded_text(encoder: ClipEncoder, caption: str) -> TextStates:
    """Text states of a caption in float16.

    Raises: TrainingDataError naming a caption whose states are not finite or no `n d`.
    """
    text = encoder.encode_text(caption)
    states = text.states.to("cpu", torch.float16).contiguous()
    pooled = None if text.pooled is None else text.pooled.to("cpu", torch.float16).contiguous()
    if states.ndim != 2 or (pooled is not None and pooled.ndim != 1):
        raise TrainingDataError(
            f"expected text states `n d` and pooled ones `p`, and the text encoder gave {list(states.shape)} and "
            f"{None if pooled is None else list(pooled.shape)}. Use the CLIP of SD 1.5 or SDXL."
        )
    if not all(torch.isfinite(tensor).all() for tensor in (states, pooled) if tensor is not None):
        raise TrainingDataError(
            f"the text encoder gave NaN or infinity for the caption {shown(caption)!r}. Use another text encoder, or "
            "change the caption if others encode."
        )
    return TextStates(states, pooled)


def checked_frames(clip: TrainingClip) -> Tensor:
    """The frames of a clip. Raises: TrainingDataError naming the clip if they are not of the size that it says."""
    frames = clip.read()
    expected = (clip.num_frames, clip.height, clip.width, 3)
    if tuple(frames.shape) != expected:
        raise TrainingDataError(
            f"{clip.name}: expected frames of {list(expected)}, read {list(frames.shape)}. Load the clips again."
        )
    return frames
