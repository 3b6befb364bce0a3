"""Prompts as the text states that a base model was trained on, from its own text encoders."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ..core.errors import CheckpointError
from ..core.tensor_files import read_tensor_file
from ..training.cache.cached_clips import TextStates
from .clip_names import as_named_by, clip_config, clip_tensors, open_clip_tensors
from .unet_topology import SDXL, check_whole

SECTION = 75
"""Tokens of a prompt that are encoded at once, between a start and an end token."""
SD15_PREFIX = "cond_stage_model.transformer."
SDXL_PREFIXES = ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.")
VOCABULARY = ("vocab.json", "merges.txt")
TOKENIZER_HELP = (
    "Give the folder of a CLIP tokenizer with --tokenizer DIR: tokenizer/ of any diffusers folder of Stable "
    "Diffusion, or ComfyUI's comfy/sd1_tokenizer/"
)


@dataclass(frozen=True)
class TextEncoder:
    """One CLIP text encoder as a base model uses it."""

    model: Any
    """CLIPTextModel, or CLIPTextModelWithProjection for the one that gives the pooled text."""
    padding: int | None
    """Token that fills up a section, None for the end token."""
    reads_last_layer: bool
    """With the final norm, as SD 1.5; else the layer before, without it, as SDXL."""

    def encode(self, sections: list[list[int]], start: int, end: int) -> tuple[Tensor, Tensor | None]:
        """The states of all sections in a row, and the pooled text of the first, if the encoder has a projection.

        Shapes: -> `n d` and `p`
        """
        fill = end if self.padding is None else self.padding
        rows = [[start, *section, end, *[fill] * (SECTION - len(section))] for section in sections]
        device = next(self.model.parameters()).device
        found = self.model(torch.tensor(rows, device=device), output_hidden_states=True)
        states = found.last_hidden_state if self.reads_last_layer else found.hidden_states[-2]
        pooled = getattr(found, "text_embeds", None)
        return states.flatten(0, 1).float().cpu(), None if pooled is None else pooled[0].float().cpu()


@dataclass(frozen=True)
class PromptEncoder:
    """The text encoders of a base model, and the tokenizer that they share."""

    tokenizer: Any
    encoders: tuple[TextEncoder, ...]

    @torch.no_grad()
    def encode(self, prompt: str) -> TextStates:
        """The states of a prompt, every character taken literally; a long one in sections of 75 tokens.

        Source: huggingface/diffusers pipeline_stable_diffusion.py and pipeline_stable_diffusion_xl.py.
        """
        tokens = self.tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
        sections = [tokens[first : first + SECTION] for first in range(0, len(tokens), SECTION)] or [[]]
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        found = [encoder.encode(sections, start, end) for encoder in self.encoders]
        pooled = [each for _, each in found if each is not None]
        return TextStates(torch.cat([states for states, _ in found], dim=-1), pooled[-1] if pooled else None)


def load_prompt_encoder(path: Path, family: str, tokenizer: Path | None, device: torch.device) -> PromptEncoder:
    """The prompt encoder of a single-file checkpoint or diffusers folder; from a file it needs a tokenizer's folder.

    Raises: CheckpointError if encoders or vocabulary are not there.
    """
    words = load_tokenizer(path, tokenizer)
    encoders = _from_folder(path, family) if path.is_dir() else _from_file(path, family)
    for encoder in encoders:
        encoder.model.float().to(device).requires_grad_(False).eval()
    return PromptEncoder(words, encoders)


def load_tokenizer(path: Path, chosen: Path | None) -> Any:
    """The tokenizer of a folder that was named, else of the base's own folder.

    Raises: CheckpointError if there is none, with the option that names one.
    """
    folders = [chosen, chosen / "tokenizer"] if chosen else [path / "tokenizer"]
    for folder in folders:
        if folder.is_dir() and (all((folder / name).is_file() for name in VOCABULARY) or _is_whole(folder)):
            return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    where = f"{chosen} holds none" if chosen else f"{path.name} has none with it"
    raise CheckpointError(f"expected a tokenizer's files ({' and '.join(VOCABULARY)}), {where}. {TOKENIZER_HELP}.")


def _is_whole(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file()


def _from_file(path: Path, family: str) -> tuple[TextEncoder, ...]:
    tensors = read_tensor_file(path).tensors
    if family != SDXL:
        return (TextEncoder(_clip(CLIPTextModel, clip_tensors(tensors, SD15_PREFIX), "quick_gelu", path), None, True),)
    first, second = clip_tensors(tensors, SDXL_PREFIXES[0]), open_clip_tensors(tensors, SDXL_PREFIXES[1])
    return (
        TextEncoder(_clip(CLIPTextModel, first, "quick_gelu", path), None, False),
        TextEncoder(_clip(CLIPTextModelWithProjection, second, "gelu", path), 0, False),
    )


def _clip(model_class: Any, tensors: Mapping[str, Tensor], activation: str, path: Path) -> Any:
    needed = ("embeddings.token_embedding.weight", "embeddings.position_embedding.weight")
    if not all(key in tensors for key in (*needed, "encoder.layers.0.mlp.fc1.weight")):
        raise CheckpointError(
            f"{path.name}: expected a whole checkpoint with its text encoder, found none. "
            "Choose a checkpoint that holds UNet, text encoder and VAE, or a diffusers folder."
        )
    model = model_class(CLIPTextConfig(**clip_config(tensors, activation)))
    named = as_named_by(model, tensors)
    own = {key: tensor for key, tensor in named.items() if not key.endswith("position_ids")}
    check_whole(model.state_dict(), own, f"{path.name}, its text encoder")
    model.load_state_dict(own)
    return model


def _from_folder(folder: Path, family: str) -> tuple[TextEncoder, ...]:
    try:
        if family != SDXL:
            return (TextEncoder(_pretrained(CLIPTextModel, folder / "text_encoder"), None, True),)
        return (
            TextEncoder(_pretrained(CLIPTextModel, folder / "text_encoder"), None, False),
            TextEncoder(_pretrained(CLIPTextModelWithProjection, folder / "text_encoder_2"), 0, False),
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder.name}: expected its text encoders in text_encoder/"
            f"{' and text_encoder_2/' if family == SDXL else ''}, which could not be loaded "
            f"({str(error).strip().splitlines()[0]}). Get the whole diffusers folder."
        ) from error


def _pretrained(model_class: Any, place: Path) -> Any:
    if not (place / "config.json").is_file():
        raise OSError(f"{place} has no config.json")
    variant = "fp16" if not (place / "model.safetensors").is_file() and list(place.glob("model.fp16.*")) else None
    return model_class.from_pretrained(place, local_files_only=True, variant=variant)
