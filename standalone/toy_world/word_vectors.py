"""The toy world's stand-in for a text encoder: each word has a vector of its own, drawn once and never trained."""

import hashlib

import torch
from torch import Tensor

NUM_TOKENS, WIDTH = 6, 32


def text_states(caption: str) -> Tensor:
    """The vectors of a caption's words at their places, then that of the empty word. Shapes: -> `n d`, float32"""
    words = caption.split()[:NUM_TOKENS]
    return torch.stack([_vector(word) for word in (*words, *[""] * (NUM_TOKENS - len(words)))])


def _vector(word: str) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:7], "big")
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
