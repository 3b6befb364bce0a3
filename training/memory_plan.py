"""How many clips go through the model at once: measured before the first step, not guessed at step 300."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..core.errors import RunError

GIBIBYTE = 2**30
BYTES_PER_WEIGHT = {"weights": 4, "gradient": 4, "moments": 8}
MARGIN = 1.2
"""What a backward pass needs beyond what the forward pass kept: gradients of activations on their way."""


@dataclass(frozen=True)
class MemoryPlan:
    """How a step is carried out; its result does not depend on it."""

    micro_batch: int
    checkpointing: bool


def kept_bytes(forward: Callable[[], Tensor], weights: nn.Module) -> int:
    """Bytes that a forward pass keeps for its backward pass, weights not counted."""
    known = {weight.untyped_storage().data_ptr() for weight in weights.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(kept.values())


def needed_bytes(num_weights: int, has_average: bool, kept_per_clip: int, micro_batch: int) -> int:
    """Memory of training beyond the frozen model: weights, gradients and moments, and what a forward pass keeps."""
    each = sum(BYTES_PER_WEIGHT.values()) + (4 if has_average else 0)
    return num_weights * each + int(MARGIN * kept_per_clip * micro_batch)


def fit_to_memory(
    plan: MemoryPlan, may_checkpoint: bool, attempt: Callable[[MemoryPlan], None], say: Callable[[str], None]
) -> MemoryPlan:
    """The first plan of a ladder that a whole step fits in: as asked, with checkpointing, then ever fewer clips.

    Raises: RunError if not even one clip at a time fits.
    """
    while True:
        try:
            attempt(plan)
            return plan
        except torch.OutOfMemoryError as error:
            plan = _next_rung(plan, may_checkpoint, error)
        say(_in_words(plan))


def _next_rung(plan: MemoryPlan, may_checkpoint: bool, error: Exception) -> MemoryPlan:
    if may_checkpoint and not plan.checkpointing:
        return replace(plan, checkpointing=True)
    if plan.micro_batch > 1:
        return replace(plan, micro_batch=-(-plan.micro_batch // 2))
    raise RunError(
        f"not even one clip at a time fits into memory ({str(error).splitlines()[0]}). Close other programs, set "
        "checkpointing to auto, or cache smaller or shorter clips."
    ) from error


def _in_words(plan: MemoryPlan) -> str:
    kept = "activations are computed again instead of kept" if plan.checkpointing else "activations are kept"
    return f"memory is short: {plan.micro_batch} clips at a time, {kept}; the result is the same, more slowly"
