"""PromptTravel: conditioning that differs from frame to frame, and a picture of how."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from comfy.sd import CLIP
from comfy_api.latest import ui
from torch import Tensor

from ..core.errors import IncompatibleModelError
from ..sampling.prompt_travel import FEWEST_STEPS, Transition, Travel, parse_travel
from ..sampling.text_states import equally_long, travel_states
from .editor import show_text
from .prompt_frames import NUM_FRAMES
from .prompt_plot import draw_travel

log = logging.getLogger(__name__)

POOLED = "pooled_output"

Conditioning = list[list[Any]]


def prompt_travel(clip: CLIP, node_id: str | None, **settings: Any) -> tuple[Conditioning, dict[str, Any]]:
    """The conditioning of a travel, and what its node shows. Takes the arguments of `parse_travel`.

    Raises: SettingsError or IncompatibleModelError.
    """
    travel = parse_travel(**settings)
    conditioning = encode_travel(clip, travel)
    report = describe(travel)
    for line in report[1:]:
        log.warning("Prompt Travel, %s", line)
    log.info("Prompt Travel, %s", report[0])
    show_text(node_id, "\n".join(report))
    return conditioning, {"text": ("\n".join(report),), **_picture(travel)}


def encode_travel(clip: CLIP, travel: Travel) -> Conditioning:
    """CONDITIONING with the states of each frame; that of CLIPTextEncode itself where there is one prompt alone.

    Shapes: states `f n d`, pooled `f p`; `1 n d` and `1 p` for one prompt.
    """
    if clip is None:
        raise IncompatibleModelError(
            "clip is empty: the checkpoint has no text encoder. Load the CLIP of the base model with Load CLIP."
        )
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(prompt)) for prompt in travel.prompts]
    if len(encoded) == 1:
        return encoded[0]
    # One entry each, or with a scheduled LoRA on the CLIP one for each part of the schedule, the same for all prompts.
    return [_travelled(parts, travel) for parts in zip(*encoded, strict=True)]


def _travelled(entries: Sequence[Sequence[Any]], travel: Travel) -> list[Any]:
    """One entry of a conditioning from those of all prompts."""
    values = {**entries[0][1], NUM_FRAMES: travel.num_frames}
    _check_plain(values)
    if values.get(POOLED) is not None:
        values[POOLED] = travel_states([each[1][POOLED] for each in entries], travel)
    return [travel_states(equally_long([each[0] for each in entries]), travel), values]


def _check_plain(values: Mapping[str, Any]) -> None:
    """Raises: IncompatibleModelError if the text encoder gives more than states, which would not travel along."""
    others = [name for name, value in values.items() if isinstance(value, Tensor) and name != POOLED]
    if others:
        raise IncompatibleModelError(
            f"expected the CLIP of an SD 1.5 or SDXL model, found one that gives {', '.join(others)} as well. "
            "Connect the CLIP of the base model that is animated."
        )


def describe(travel: Travel) -> list[str]:
    """The travel in a line, and a line for each transition that will be seen as a cut."""
    if len(travel.prompts) == 1:
        return ["one prompt, for a clip of any length."]
    places = ", ".join(key.frames for key in travel.keys)
    loop = ", back to the first" if travel.closed_loop else ""
    summary = f"for a clip of {travel.num_frames} frames: {len(travel.prompts)} prompts at {places}{loop}"
    return [f"{summary}; {travel.interpolation}.", *map(_cut, travel.cuts)]


def _cut(way: Transition) -> str:
    steps = "from one frame to the next" if way.steps == 1 else f"within {way.steps} frames"
    return (
        f"line {way.start.line} to line {way.end.line}: {steps} the prompts change faster than motion can show; "
        f"expect a cut. Put {FEWEST_STEPS} frames or more between them, or choose hold."
    )


def _picture(travel: Travel) -> dict[str, Any]:
    """The plot as the node's preview, in ComfyUI's folder for temporary files; nothing if it cannot be written."""
    try:
        pixels = torch.from_numpy(np.asarray(draw_travel(travel), dtype=np.float32) / 255)
        return ui.PreviewImage(pixels[None]).as_dict()
    except (OSError, ImportError) as error:
        log.warning("no picture of the prompt travel: %s", error)  # a full disk must not cost the conditioning
        return {}
