"""Checks before a run: whether these clips can train this stage on this base, and what its user should know."""

from ..core.errors import SettingsError, TrainingDataError
from .cache.cached_clips import CachedClips

FEWEST_MOTION_CLIPS = 20
"""Source: arXiv 2307.04725 section 5.3 and figure 7: 50 clips learn the motion, 5 are learned by heart."""


def check_clips_fit_base(cached: CachedClips, latent_channels: int, text_width: int, pooled_width: int | None) -> None:
    """Raises: TrainingDataError unless the cached latents and text states are of the base model's kind.

    Units: pooled_width is None for a base without pooled text, as SD 1.5.
    """
    channels = {bucket.channels for bucket in cached.buckets}
    if channels != {latent_channels}:
        raise TrainingDataError(
            f"the cached clips {cached.name} have latents of {_listed(channels)} channels, this base model takes "
            f"{latent_channels}. Cache them again, under another cache_name, with the VAE of this base model."
        )
    for what, found, expected in (
        ("text states", cached.text_width, text_width),
        ("pooled text states", cached.pooled_width or 0, pooled_width or 0),
    ):
        if found != expected:
            raise TrainingDataError(
                f"the cached clips {cached.name} have {what} {found} wide, this base model takes {expected}. Cache "
                "them again, under another cache_name, with the CLIP of this base model."
            )


def check_same_vae(cached: CachedClips, vae_hash: str) -> None:
    """Raises: TrainingDataError if the latents come from another VAE than the one that samples are decoded with."""
    if cached.vae_hash != vae_hash:
        raise TrainingDataError(
            f"the cached clips {cached.name} were made with another VAE than the one connected to `vae`. Connect the "
            "VAE that they were cached with, or cache them again under another cache_name."
        )


def check_clip_lengths(cached: CachedClips, num_positions: int) -> None:
    """Raises: SettingsError for clips that cannot move, or are longer than the module has positions."""
    lengths = {bucket.num_frames for bucket in cached.buckets}
    if min(lengths) < 2:
        raise SettingsError(
            f"the cached clips {cached.name} have one frame, which cannot move. Set num_frames of Load Training Clips "
            "to 16 and cache them again."
        )
    if max(lengths) > num_positions:
        raise SettingsError(
            f"the cached clips {cached.name} are {max(lengths)} frames long, the motion module has positions for "
            f"{num_positions}. Cache shorter clips: set num_frames of Load Training Clips to {num_positions} or less."
        )


def advice(cached: CachedClips, is_motion_lora: bool) -> list[str]:
    """What the user should know before waiting for the result."""
    words: list[str] = []
    if is_motion_lora and len(cached) < FEWEST_MOTION_CLIPS:
        words.append(
            f"{len(cached)} clips are few for a MotionLoRA: it may learn what they show by heart instead of how they "
            f"move. {FEWEST_MOTION_CLIPS} to 50 clips of one motion are right."
        )
    if is_motion_lora and cached.has_mirrored:
        words.append(
            "the cached clips are trained mirrored too, which turns a camera that pans or rolls the other way round. "
            "Set flip of Load Training Clips to false for a motion with a direction."
        )
    return words


def _listed(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
