"""Text states in a cache: each caption encoded once, found again by its hash."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cache_index import TextPlace
from .cached_clips import POOLED, STATES, TextStates
from .clip_encoder import ClipEncoder, encoded_text
from .clip_identity import caption_hash, hashed
from .shard_store import ShardStore

CAPTIONS_PER_SHARD = 64
EMPTY = ""


@dataclass(frozen=True)
class TextPlaces:
    """Where each caption of a cache lies, by its hash."""

    places: Mapping[str, TextPlace]
    text_width: int
    pooled_width: int | None


class TextCache:
    """The text shards of a cache. The empty caption is always among them."""

    def __init__(self, store: ShardStore, encoder: ClipEncoder, captions: Mapping[str, str]):
        self._store = store
        self._encoder = encoder
        self._captions = {**captions, caption_hash(EMPTY): EMPTY}
        self._places = store.places(self._captions.__contains__)
        self._waiting: dict[int, dict[str, TextStates]] = {}

    @property
    def missing(self) -> list[str]:
        """Hashes of the captions that are not encoded yet."""
        return [key for key in self._captions if key not in self._places]

    def write_empty(self) -> None:
        """Encode the empty caption, if need be, which also tells how wide text states are."""
        key = caption_hash(EMPTY)
        if key not in self._places:
            self._write({key: encoded_text(self._encoder, EMPTY)})

    def missing_bytes(self) -> int:
        """About what the missing captions will take, if none is longer than the empty one."""
        shapes = self._empty_shapes()
        return len(self.missing) * 2 * sum(math.prod(shape[1:]) for shape in shapes.values())

    def write_missing(self, on_caption: Callable[[], None]) -> None:
        """Encode the missing captions; states of one length share a shard."""
        for key in self.missing:
            on_caption()
            text = encoded_text(self._encoder, self._captions[key])
            alike = self._waiting.setdefault(text.states.shape[0], {})
            alike[key] = text
            if len(alike) == CAPTIONS_PER_SHARD:
                self._write(self._waiting.pop(text.states.shape[0]))
        for alike in self._waiting.values():
            self._write(alike)
        self._waiting = {}

    def finish(self) -> TextPlaces:
        """Where everything lies; shards without a caption of this cache are named by nothing."""
        shapes = self._empty_shapes()
        pooled = shapes.get(POOLED)
        return TextPlaces(self._places, shapes[STATES][-1], pooled[-1] if pooled else None)

    def _write(self, texts: Mapping[str, TextStates]) -> None:
        keys = sorted(texts)
        tensors = _stacked([texts[key] for key in keys])
        name = f"{tensors[STATES].shape[1]}-{hashed([self._encoder.clip_hash, keys])[:24]}"
        self._store.write(name, self._encoder.clip_hash, keys, tensors)
        self._places.update({key: (name, row) for row, key in enumerate(keys)})

    def _empty_shapes(self) -> Mapping[str, Sequence[int]]:
        return self._store.records[self._places[caption_hash(EMPTY)][0]].shapes


def _stacked(texts: Sequence[TextStates]) -> dict[str, Tensor]:
    """Shapes: states `m n d`, pooled `m p`, for m captions"""
    tensors = {STATES: torch.stack([text.states for text in texts])}
    pooled = [text.pooled for text in texts if text.pooled is not None]
    return {**tensors, POOLED: torch.stack(pooled)} if pooled else tensors
