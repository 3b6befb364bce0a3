"""ComfyUI's CLIP models as one: pictures and words in the space where they can be compared."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..core.errors import IncompatibleModelError, SettingsError

AT_ONCE = 16
"""Pictures that are encoded together: 38 MB of pixels at CLIP's own size, whatever the clip's."""
PAIRS = {
    768: "model.safetensors of openai/clip-vit-large-patch14, with Load CLIP (type stable_diffusion) and again with "
    "Load CLIP Vision: it holds both halves",
    1024: "the CLIP of an SD 2.1 checkpoint, with CLIP-ViT-H-14-laion2B-s32B-b79K as CLIP Vision",
    1280: "the CLIP of an SDXL checkpoint, with clip_vision_g.safetensors as CLIP Vision",
}
"""Text and vision models that belong together, by the width of their embeddings.

Source: the configuration files of these repositories, `projection_dim`.
"""
TEXT_PREFIX = "clip_"
"""Before a text encoder's name in ComfyUI's model. Source: comfy/sd1_clip.py, comfy/sdxl_clip.py."""
NAMES_IN_FILES = {
    "l": ("text_projection", "clip_l.transformer.text_projection"),
    "g": (
        "text_projection",
        "clip_g.transformer.text_projection",
        "conditioner.embedders.0.model.text_projection",
        "conditioner.embedders.1.model.text_projection",
    ),
    "h": ("text_projection", "cond_stage_model.model.text_projection"),
}
"""What ComfyUI reads a projection from, `.weight` left out. It drops that of CLIP-L in SD 1.5 and SDXL checkpoints.

Source: comfy/supported_models.py, `process_clip_state_dict`; comfy/utils.py, `clip_text_transformers_convert`.
"""
LARGEST = 1000.0
"""Times the mean size of a weight: beyond any outlier of a trained layer. Memory read as numbers has far more."""


@dataclass(frozen=True)
class TextEncoder:
    """One text encoder of a CLIP."""

    name: str
    module: Any
    projection: Tensor
    """Shapes: `d d`"""

    @property
    def width(self) -> int:
        return self.projection.shape[0]


@dataclass(frozen=True)
class TextEmbedding:
    """A prompt in CLIP's space."""

    vector: Tensor
    """Shapes: `d`, float32 on the CPU"""
    is_cut: bool
    """The prompt is longer than CLIP reads at once; its beginning was taken."""


def embed_text(clip: Any, prompt: str, width: int) -> TextEmbedding:
    """The prompt as ComfyUI's projected, pooled output. Weights in brackets do not count.

    Raises: SettingsError for an empty prompt; IncompatibleModelError without a projection to this width.
    """
    if not prompt.strip():
        raise SettingsError("prompt is empty, and the clip is compared with it. Write what the clip should show.")
    encoder = _fitting_encoder(clip, width)
    tokens = clip.tokenize(prompt)
    with _projecting(clip, encoder, tokens), torch.no_grad():
        _, pooled, *_ = encoder.module.encode_token_weights(tokens[encoder.name])
    return TextEmbedding(pooled[0].float().cpu(), len(tokens[encoder.name]) > 1)


def embed_pictures(clip_vision: Any, pictures: Tensor, on_batch: Callable[[int], None]) -> Tensor:
    """The pictures as ComfyUI's `image_embeds`, some at a time.

    Shapes: pictures `b h w 3` -> `b d`, float32 on the CPU
    """
    parts: list[Tensor] = []
    for batch in pictures.split(AT_ONCE):
        with torch.no_grad():
            parts.append(clip_vision.encode_image(batch)["image_embeds"].float().cpu())
        on_batch(len(batch))
    return torch.cat(parts)


def vision_width(clip_vision: Any) -> int:
    """The width of the space that a CLIP Vision model projects into.

    Raises: IncompatibleModelError for one without a projection, which no text can be compared with.
    """
    model = getattr(clip_vision, "model", None)
    weight = getattr(getattr(model, "visual_projection", None), "weight", None)
    if weight is None or not is_projection(weight):
        kind = getattr(clip_vision, "model_type", "no model")
        raise IncompatibleModelError(
            "clip_vision should project pictures into the space of a text encoder (visual_projection in its file); "
            f"found {kind} without that. Load {PAIRS[768]}."
        )
    return weight.shape[0]


def is_projection(weight: Tensor) -> bool:
    """Whether a matrix can be a trained projection: not an identity, not zeros, not memory that nobody has written.

    ComfyUI leaves a projection that a file lacks as it found the memory.
    """
    weight = weight.detach().to("cpu", torch.float32)
    sizes = weight.abs()
    if not torch.isfinite(weight).all() or not (sizes.sum(0) > 0).all() or not (sizes.sum(1) > 0).all():
        return False
    is_diagonal = torch.equal(weight, weight.diagonal().diag()) if weight.shape[0] == weight.shape[1] else False
    return not is_diagonal and bool(sizes.max() < LARGEST * sizes.mean())


def _fitting_encoder(clip: Any, width: int) -> TextEncoder:
    encoders = list(_text_encoders(clip))
    fitting = [encoder for encoder in encoders if encoder.width == width]
    if not fitting:
        raise IncompatibleModelError(_other_width(encoders, width))
    projecting = [encoder for encoder in fitting if _has_projection(clip, encoder)]
    if not projecting:
        raise IncompatibleModelError(
            f"clip should have a text projection, and text encoder {fitting[0].name} of {_source(clip)} has none. "
            "Checkpoints of SD 1.5 leave it out, and so does the clip_l.safetensors of SD3 and Flux. "
            f"Load {PAIRS.get(width, 'the full CLIP that clip_vision is the other half of')}."
        )
    return projecting[0]


def _text_encoders(clip: Any) -> Iterator[TextEncoder]:
    """Those that are CLIP's; T5 and others have no projection."""
    model = getattr(clip, "cond_stage_model", None)
    if model is None:
        raise IncompatibleModelError("expected a CLIP, found a checkpoint without one. Load one with Load CLIP.")
    for name in clip.tokenize(""):
        module = getattr(model, f"{TEXT_PREFIX}{name}", None)
        layer = getattr(getattr(module, "transformer", None), "text_projection", None)
        weight = getattr(layer, "weight", None)
        if weight is not None:
            yield TextEncoder(name, module, weight)


def _other_width(encoders: list[TextEncoder], width: int) -> str:
    found = ", ".join(f"text encoder {encoder.name} {encoder.width} wide" for encoder in encoders) or "no CLIP in clip"
    return (
        f"clip and clip_vision should be halves of one CLIP, as wide as each other; clip_vision is {width} wide, "
        f"and there is {found}. Load {PAIRS.get(width, PAIRS[768])}."
    )


def _has_projection(clip: Any, encoder: TextEncoder) -> bool:
    names = [name.removesuffix(".weight") for file in _files(clip) for name in _names_in(file)]
    is_in_file = not names or any(name in NAMES_IN_FILES.get(encoder.name, names) for name in names)
    return is_in_file and is_projection(encoder.projection)


def _files(clip: Any) -> list[Path]:
    """Where ComfyUI read a CLIP from, as far as it knows. Source: comfy/sd.py, `cached_patcher_init`."""
    made_by = getattr(clip.patcher, "cached_patcher_init", None)
    source = made_by[1][0] if made_by is not None else []
    return [Path(path) for path in (source if isinstance(source, list) else [source]) if isinstance(path, str)]


def _source(clip: Any) -> str:
    return " and ".join(path.name for path in _files(clip)) or "clip"


def _names_in(path: Path) -> list[str]:
    """The names of the tensors of a safetensors file that ComfyUI has read; nothing of another or one that has gone."""
    if path.suffix not in (".safetensors", ".sft") or not path.is_file():
        return []
    with path.open("rb") as file:
        return list(json.loads(file.read(int.from_bytes(file.read(8), "little"))))


@contextmanager
def _projecting(clip: Any, encoder: TextEncoder, tokens: Any) -> Iterator[None]:
    """Inside, the encoder is loaded and gives its pooled output projected, which ComfyUI's SD 1.5 does not.

    Source: comfy/sd.py, `CLIP.encode_from_tokens`, which resets these options at its start as well.
    """
    model, device = clip.cond_stage_model, clip.patcher.load_device
    model.reset_clip_options()
    clip.load_model(tokens)
    encoder.module.set_clip_options({"projected_pooled": True, "execution_device": device})
    try:
        with comfy.model_management.cuda_device_context(device):
            yield
    finally:
        model.reset_clip_options()
