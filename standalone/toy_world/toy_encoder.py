"""What a cache asks for, answered by the toy world's codec and words."""

from torch import Tensor

from ...training.cache.cached_clips import TextStates
from .picture_codec import as_levels, encoded
from .word_vectors import text_states


class ToyEncoder:
    """Encodes the same whenever it is asked: the codec has nothing to draw."""

    vae_hash = "toy Haar codec 1"
    clip_hash = "toy word vectors 1"

    def encode_frames(self, frames: Tensor, seed: int) -> Tensor:
        """Shapes: `f h w 3` -> `f 4 h/2 w/2`"""
        return encoded(as_levels(frames))

    def encode_text(self, caption: str) -> TextStates:
        return TextStates(text_states(caption), None)
