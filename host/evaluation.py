"""EvaluateAnimation: a clip, measured with ComfyUI's CLIP models and by optical flow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ..core.errors import SettingsError, ShapeError
from ..sampling.animation_report import AnimationMeasures, describe
from ..sampling.clip_scores import ClipScores, score_clip
from ..sampling.measures import (
    SHORTEST_SIDE,
    FrameChange,
    Join,
    frame_changes,
    join,
    measure_seams,
    seam_pairs,
)
from .clip_embeddings import embed_pictures, embed_text, vision_width
from .evaluation_chart import draw_measures

PIXELS_AT_ONCE = 1024 * 1024
"""Of frames whose optical flow is computed together; a larger pair goes alone."""
BYTES_PER_PIXEL = 200
"""Of working memory for it: 162 measured with torch's profiler for a pair of 512×512 in float32, and the frames."""
CUT_PROMPT = "The prompt is longer than the 75 tokens that CLIP reads; its beginning was compared."
OnBatch = Callable[[int], None]


@dataclass(frozen=True)
class Evaluation:
    """What the node shows."""

    measures: AnimationMeasures
    report: str
    chart: Tensor
    """Shapes: `1 h w 3`, in 0..1"""


def evaluate_animation(
    images: Tensor,
    prompt: str,
    clip: Any,
    clip_vision: Any,
    reference_images: Tensor | None = None,
    window_length: int = 0,
    window_overlap: int = 0,
    closed_loop: bool = False,
) -> Evaluation:
    """All measures of a clip. The models are loaded as for any node, and not changed.

    Shapes: images `f h w 3`, reference_images `r h w 3` of any other size, in 0..1
    Raises: SettingsError, ShapeError or IncompatibleModelError for what cannot be measured, before anything is;
    InterruptProcessingException within a batch of the user's cancel.
    """
    _check_clip(images, reference_images)
    pairs = seam_pairs(len(images), window_length, window_overlap) if window_length else []
    on_batch = _progress(images, reference_images, closed_loop)
    scores, notes = _scores(images, prompt, clip, clip_vision, reference_images, on_batch)
    changes = _changes(images, on_batch)
    seams = measure_seams(changes, pairs)
    measures = AnimationMeasures(
        height=images.shape[1],
        width=images.shape[2],
        scores=scores,
        changes=changes,
        seams=seams,
        seams_reason=_why_no_seams(window_length, len(images), pairs),
        loop=_loop(images, changes, on_batch) if closed_loop else None,
        notes=notes,
    )
    return Evaluation(measures, describe(measures), _as_image(measures))


def _scores(
    images: Tensor, prompt: str, clip: Any, clip_vision: Any, references: Tensor | None, on_batch: OnBatch
) -> tuple[ClipScores, tuple[str, ...]]:
    text = embed_text(clip, prompt, vision_width(clip_vision))
    frames = embed_pictures(clip_vision, images, on_batch)
    others = None if references is None else embed_pictures(clip_vision, references, on_batch)
    return score_clip(frames, text.vector, others), (CUT_PROMPT,) if text.is_cut else ()


def _changes(images: Tensor, on_batch: OnBatch) -> list[FrameChange]:
    at_once = max(1, PIXELS_AT_ONCE // (images.shape[1] * images.shape[2]))
    device = comfy.model_management.get_torch_device()
    comfy.model_management.free_memory(BYTES_PER_PIXEL * max(PIXELS_AT_ONCE, images[0, ..., 0].numel()), device)
    changes: list[FrameChange] = []
    for first in range(0, len(images) - 1, at_once):
        frames = images[first : first + at_once + 1].to(device, torch.float32).clamp(0, 1)
        changes += frame_changes(frames[:-1], frames[1:])
        on_batch(len(frames) - 1)
    return changes


def _loop(images: Tensor, changes: Sequence[FrameChange], on_batch: OnBatch) -> Join:
    return join(_changes(images[[-1, 0]], on_batch)[0], changes)


def _why_no_seams(window_length: int, num_frames: int, pairs: Sequence[int]) -> str:
    if window_length == 0:
        return "not measured; set window_length and window_overlap for a clip that was sampled in windows"
    if not pairs:
        return f"none, because {num_frames} frames fit into one window of {window_length}"
    return "windows begin or end at every frame, so that there is nothing to compare with"


def _progress(images: Tensor, references: Tensor | None, closed_loop: bool) -> OnBatch:
    total = 2 * len(images) - 1 + (0 if references is None else len(references)) + closed_loop
    bar = comfy.utils.ProgressBar(total)

    def on_batch(done: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update(done)

    return on_batch


def _as_image(measures: AnimationMeasures) -> Tensor:
    picture = draw_measures(measures)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.view(1, picture.height, picture.width, 3).float() / 255


def _check_clip(images: Tensor, references: Tensor | None) -> None:
    if len(images) < 2:
        raise SettingsError(
            f"images should be a clip of two frames or more, found {len(images)}. Connect the whole batch from VAE "
            "Decode."
        )
    if min(images.shape[1:3]) < SHORTEST_SIDE:
        raise ShapeError(
            f"images should be at least {SHORTEST_SIDE} pixels a side, found {images.shape[2]}×{images.shape[1]}. "
            "Connect the clip in its full size."
        )
    _check_pictures("images", "frame", images)
    if references is not None:
        _check_pictures("reference_images", "image", references)


def _check_pictures(name: str, one: str, pictures: Tensor) -> None:
    if pictures.shape[-1] != 3:
        raise ShapeError(f"{name} should have 3 channels, found {pictures.shape[-1]}. Connect an IMAGE without alpha.")
    if len(pictures) == 0:
        raise SettingsError(f"{name} has no pictures. Connect one or more, or nothing.")
    for index, picture in enumerate(pictures):
        if not torch.isfinite(picture).all():
            raise SettingsError(
                f"{one} {index} of {name} holds NaN or infinity, which VAE Decode gives in fp16 for some models. "
                "Decode with --fp32-vae or another VAE."
            )
