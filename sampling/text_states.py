"""Text states between two prompts: what a frame on the way from one to the other is conditioned on."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.errors import SettingsError
from .prompt_travel import Travel

NEARLY_PARALLEL = 0.9995
"""Cosine from which an arc is a straight line to float32, and its formula divides by almost zero.

Source: Shoemake, Animating Rotation with Quaternion Curves, SIGGRAPH 1985, gives the arc; the limit is the usual one.
"""
MOST_TOKENS = 4096
"""More than any prompt needs. Four prompts of 1, 3, 4 and 5 sections would take 4620 tokens a frame."""


def travel_states(states: Sequence[Tensor], travel: Travel) -> Tensor:
    """The states of every frame; at a key, and wherever a prompt is held, bit for bit those of its prompt.

    Shapes: states, of each prompt, `1 n d` or `1 p` -> `f n d` or `f p`
    """
    return torch.cat(
        [
            states[blend.prompt]
            if blend.share == 0
            else between(states[blend.prompt], states[blend.following], blend.share, travel.interpolation)
            for blend in travel.blends
        ]
    )


def between(first: Tensor, second: Tensor, share: float, interpolation: str) -> Tensor:
    """States at a share of the way from the first to the second. Shapes: `… d`, `… d` -> `… d`"""
    straight = first * (1 - share) + second * share
    return _on_the_arc(first, second, share, straight) if interpolation == "slerp" else straight


def _on_the_arc(first: Tensor, second: Tensor, share: float, straight: Tensor) -> Tensor:
    """Each vector turned from the first to the second at an even pace, its length on a straight line between theirs.

    Vectors that point almost the same way, or away from each other, and those of no length, go straight.

    Shapes: `… d` each -> `… d`
    Source: Shoemake 1985, equation of slerp: (sin((1-s)θ) a + sin(sθ) b) / sin θ.
    """
    exact = torch.promote_types(first.dtype, torch.float32)
    a, from_length = _unit(first.to(exact))
    b, to_length = _unit(second.to(exact))
    cosine = (a * b).sum(-1, keepdim=True)
    bends = (cosine.abs() < NEARLY_PARALLEL) & (from_length > 0) & (to_length > 0)
    angle = torch.where(bends, cosine, 0).acos()
    turned = (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()
    return torch.where(bends, turned * torch.lerp(from_length, to_length, share), straight).to(first.dtype)


def _unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Directions and lengths; a vector of no length keeps none. Shapes: `… d` -> `… d`, `… 1`"""
    lengths = (vectors * vectors).sum(-1, keepdim=True).sqrt()
    return vectors / lengths.clamp_min(torch.finfo(vectors.dtype).tiny), lengths


def equally_long(states: Sequence[Tensor]) -> list[Tensor]:
    """The states of each prompt, repeated to the least common number of tokens.

    Attention over repeated tokens gives what it gives over the tokens themselves, and so a frame of one prompt sees
    what it would see of that prompt alone. States of the empty prompt as padding would change it.

    Shapes: `1 n d`, with another n each -> `1 n d`, with the same n
    Raises: SettingsError if the common number is beyond reason.
    Source: ComfyUI conds.py, `CONDCrossAttn.concat`, "padding with repeat doesn't change result".
    """
    lengths = [each.shape[1] for each in states]
    longest = math.lcm(*lengths)
    if longest > MOST_TOKENS:
        raise SettingsError(
            f"the prompts have {', '.join(map(str, sorted(set(lengths))))} tokens, and {longest} is the least number "
            "that they all divide. Make the long prompts about equally long, so that each takes as many sections of 77."
        )
    return [each.repeat(1, longest // each.shape[1], 1) if each.shape[1] < longest else each for each in states]
