"""What CLIP thinks of a clip: the three scores that AnimateDiff was published with."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from statistics import fmean

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class ClipScores:
    """Cosines of embeddings, times 100: 100 for the same, 0 for what has nothing in common.

    Source: arXiv 2307.04725 section 5.2, CLIP metric: frames with the prompt, frames with still images that the
    personalised model makes, and smoothness. It does not say which frames smoothness compares. arXiv 2212.11565 section
    5, which it follows, takes all pairs; here it is neighbours, so that going far is not taken for going jerkily.
    """

    text: Sequence[float]
    """Of each frame with the prompt."""
    domain: Sequence[float]
    """Of each frame with the reference images, their mean; empty without any."""
    smoothness: Sequence[float]
    """Of each frame with the next."""
    loop: float
    """Of the last frame with the first."""

    @property
    def mean_text(self) -> float:
        return fmean(self.text)

    @property
    def mean_domain(self) -> float:
        """NaN without reference images."""
        return fmean(self.domain) if self.domain else nan

    @property
    def mean_smoothness(self) -> float:
        return fmean(self.smoothness)


def score_clip(frames: Tensor, text: Tensor, references: Tensor | None) -> ClipScores:
    """The scores of a clip of two frames or more.

    Shapes: frames `f d`, text `d`, references `r d`
    """
    frames = _directions(frames)
    text_score = frames @ _directions(text)
    smoothness = (frames[:-1] * frames[1:]).sum(-1)
    domain = [] if references is None else _score(frames @ _directions(references).mean(0))
    return ClipScores(_score(text_score), domain, _score(smoothness), _score(frames[-1:] @ frames[0])[0])


def _directions(embeddings: Tensor) -> Tensor:
    return F.normalize(embeddings.double(), dim=-1)


def _score(cosines: Tensor) -> list[float]:
    """Rounding may carry a cosine past 1."""
    return [100 * float(cosine) for cosine in cosines.clamp(-1, 1)]
