"""What a file says of the run that trained it."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

TRAINING = "training"
"""The entry of our metadata in which a training run describes itself; it travels with the weights."""


def describe_training(metadata: Mapping[str, Any]) -> Iterator[str]:
    """A line on the run, nothing for a file that no run of ours has made."""
    said = metadata.get(TRAINING)
    if isinstance(said, Mapping):
        entries = cast(Mapping[str, Any], said).items()
        shown = [f"{key} {value}" for key, value in entries if isinstance(value, str | int | float)]
        yield f"trained by MotionGraft: {', '.join(shown) or 'the run is not described'}"
