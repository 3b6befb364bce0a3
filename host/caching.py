"""ComfyUI's VAE and CLIP as encoders of training clips, and the folder where caches lie."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ..core.errors import HostError, IncompatibleModelError, SettingsError
from ..training.cache.cache_index import ENTRIES, INDEX, LATENTS, TEXT
from ..training.cache.cache_writer import cache_clips
from ..training.cache.cached_clips import CachedClips, TextStates
from ..training.data.clips import TrainingClips
from .fingerprints import fingerprint_module, fingerprint_patcher

CACHES = Path("motiongraft") / "caches"
"""Where caches lie in ComfyUI's output folder."""
LATENT_CHANNELS, DOWNSCALE = 4, 8
SD15, SDXL = {"l"}, {"g", "l"}
"""The text encoders of a base model, as ComfyUI's tokens name them."""
_NAME = re.compile(r"[\w-][\w .-]{0,98}[\w-]|[\w-]")
_UNUSED = "clip_l.transformer.text_projection.weight"
"""Makes the pooled states of CLIP-L, which neither model is given. Source: comfy/sd1_clip.py, comfy/sdxl_clip.py."""
_TEXT_OPTIONS = ("options_default", "layer_norm_hidden_state", "enable_attention_masks", "zero_out_masked")


class ComfyEncoder:
    """Encodes clips with a VAE and captions with a CLIP of ComfyUI; everything that it returns is a plain CPU tensor.

    Raises: IncompatibleModelError unless both are those of SD 1.5 or SDXL.
    """

    def __init__(self, vae: Any, clip: Any):
        _check_vae(vae)
        _check_clip(clip)
        self.vae, self.clip = vae, clip
        self.vae_hash = fingerprint_module(vae.first_stage_model)
        self.clip_hash = _clip_hash(clip)

    def encode_frames(self, frames: Tensor, seed: int) -> Tensor:
        """What `VAE Encode` gives, noise included where the VAE adds some. Shapes: `f h w 3` -> `f c h w`"""
        with _seeded(seed, self.vae.device), torch.no_grad():
            return _plain(self.vae.encode(frames))

    def encode_text(self, caption: str) -> TextStates:
        """What `CLIP Text Encode` gives, with every character of the caption taken literally."""
        tokens = self.clip.tokenize(literal(caption))
        with torch.no_grad():
            entries = self.clip.encode_from_tokens_scheduled(tokens)
        if len(entries) != 1:
            raise HostError(
                f"expected one entry of text states for a caption, ComfyUI gave {len(entries)}. "
                "Connect a CLIP without hooks or schedules."
            )
        states, details = entries[0]
        pooled = details["pooled_output"][0] if set(tokens) == SDXL else None
        return TextStates(_plain(states[0]), None if pooled is None else _plain(pooled))


def cache_training_clips(clips: TrainingClips, vae: Any, clip: Any, cache_name: str) -> CachedClips:
    """The clips encoded, in ComfyUI's output folder; what is in the cache of this name already is kept.

    Raises: SettingsError for an odd name; IncompatibleModelError, TrainingDataError or RunError for what cannot be
    cached; ComfyUI's own exception when the user cancels, after which the finished part stays.
    """
    folder = cache_folder(cache_name)
    progress = comfy.utils.ProgressBar(len(clips.clips))

    def on_clip(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        progress.update_absolute(done, total)

    before = _state_of(folder)
    cached = cache_clips(clips, ComfyEncoder(vae, clip), folder, on_clip)
    if before == _ABSENT:
        _stamps[folder] = (_state_of(folder), _stamps.get(folder, (before, 0))[1])
    return cached


def cache_folder(cache_name: str) -> Path:
    """The folder of a cache. Raises: SettingsError for a name that is none on every system."""
    if not _NAME.fullmatch(cache_name):
        raise SettingsError(
            f"cache_name should be letters, digits, spaces, dots, - and _, at most 100, with no dot or space at "
            f"either end; found {cache_name!r}. Choose a name such as my_clips."
        )
    return Path(folder_paths.get_output_directory()) / CACHES / cache_name


_ABSENT = "absent"
_stamps: dict[Path, tuple[str, int]] = {}
"""For each cache its state when last seen, and how often that was not the one before."""


def cache_stamp(cache_name: str) -> str:
    """A text that changes when a cache is deleted, damaged or written by others, but not when it is first made.

    So a graph that is queued twice trains once.
    """
    if not cache_name:
        return ""  # it comes over a link, and is not known yet
    folder = cache_folder(cache_name)
    state = _state_of(folder)
    last, changes = _stamps.get(folder, (state, 0))
    _stamps[folder] = (state, changes + (state != last))
    return f"{cache_name}:{_stamps[folder][1]}"


def literal(caption: str) -> str:
    """A prompt that ComfyUI reads as this text: nothing in it is a weight or the name of a file.

    An embedding is asked for in lower case alone, and the tokenizer of CLIP does not tell cases apart.
    Source: comfy/sd1_clip.py, escape_important and tokenize_with_weights.
    """
    escaped = caption.replace("(", "\\(").replace(")", "\\)")
    return escaped.replace("embedding:", "Embedding:")


def _state_of(folder: Path) -> str:
    """Name, size and time of every file that training reads, as a hash."""
    index = folder / INDEX
    if not index.is_file():
        return _ABSENT
    files = [(index.name, index.stat())]
    for part in (LATENTS, ENTRIES, TEXT):
        if (folder / part).is_dir():
            with os.scandir(folder / part) as found:
                files += sorted((file.name, file.stat()) for file in found)
    return hashlib.sha256(repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]).encode()).hexdigest()


def _check_vae(vae: Any) -> None:
    if vae is None or vae.first_stage_model is None:
        raise IncompatibleModelError("expected a VAE, found a checkpoint without one. Load one with Load VAE.")
    found = (vae.latent_channels, vae.latent_dim, vae.downscale_ratio)
    if found != (LATENT_CHANNELS, 2, DOWNSCALE):
        raise IncompatibleModelError(
            f"expected the VAE of SD 1.5 or SDXL: still images, {LATENT_CHANNELS} channels, {DOWNSCALE} times smaller. "
            f"Found one for {'video' if vae.latent_dim == 3 else 'other latents'} with {vae.latent_channels} channels. "
            "Connect the VAE of the base model that will be trained on."
        )


def _check_clip(clip: Any) -> None:
    if clip is None:
        raise IncompatibleModelError("expected a CLIP, found a checkpoint without one. Load one with Load CLIP.")
    if clip.patcher.forced_hooks is not None or clip.apply_hooks_to_conds is not None:
        raise IncompatibleModelError(
            "expected a plain CLIP, found one with hooks, which change with the sampling step; a cache has none. "
            "Connect the CLIP from before the hooks."
        )
    found = set(clip.tokenize(""))
    if found not in (SD15, SDXL):
        raise IncompatibleModelError(
            f"expected the CLIP of SD 1.5 (l) or SDXL (g and l), found text encoders {', '.join(sorted(found))}. "
            "Connect the CLIP of the base model that will be trained on."
        )


def _clip_hash(clip: Any) -> str:
    """Weights, patches, and whatever else decides what a caption becomes, such as CLIP Set Last Layer."""
    encoders = [
        (name, type(module).__qualname__, [repr(getattr(module, option, None)) for option in _TEXT_OPTIONS])
        for name, module in clip.cond_stage_model.named_modules()
        if hasattr(module, _TEXT_OPTIONS[0])
    ]
    settings = [clip.layer_idx, sorted(map(repr, clip.tokenizer_options.items())), type(clip.tokenizer).__qualname__]
    parts = [fingerprint_patcher(clip.patcher, _UNUSED), settings, encoders]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _plain(tensor: Tensor) -> Tensor:
    """A copy on the CPU that autograd takes; ComfyUI runs nodes in inference mode."""
    with torch.inference_mode(False):
        return tensor.detach().to("cpu").clone()


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, randomness comes from the seed; outside, it goes on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
