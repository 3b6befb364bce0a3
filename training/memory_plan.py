"""How many clips go through the model at once: measured before the first step, not guessed at step 300."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..core.errors import RunError

GIBIBYTE = 2**30
GRADIENT_BYTES, MOMENT_BYTES = 4, 8
"""Of each trained weight."""
MARGIN = 1.2
"""What a backward pass needs beyond what the forward pass kept: gradients of activations on their way."""


@dataclass(frozen=True)
class MemoryPlan:
    """How a step is carried out; its result differs by rounding at most."""

    micro_batch: int
    checkpointing: bool


def kept_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward pass; weights, frozen or not, are there anyway."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        owner = getattr(tensor, "_base", None)
        if not isinstance(tensor if owner is None else owner, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(kept.values())


def needed_bytes(num_weights: int, has_moments: bool, kept_per_clip: int, micro_batch: int) -> int:
    """Memory that a step takes beyond what is there: gradients, moments unless they are, and what a pass keeps."""
    each = GRADIENT_BYTES + (0 if has_moments else MOMENT_BYTES)
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
