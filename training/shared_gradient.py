"""One gradient from the clips of all processes, exchanged once a step, and how a process that fails tells the others.

Each step begins its exchange with a short message: the loss, which weights have a gradient, and whether a process has
to leave. So no process waits for one that has failed, and all of them stop between the same two steps.
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..core.errors import MotionError, RunError
from .ranks import Ranks, raise_what_was_told

log = logging.getLogger(__name__)


class StoppedByAnotherError(RunError):
    """Another process of the run had to leave; the message is its own."""


class SharedGradient:
    """The gradient of the trained weights over all processes of a run."""

    def __init__(self, ranks: Ranks, parameters: Sequence[nn.Parameter]):
        self._ranks, self._parameters = ranks, parameters

    def sum_(self, loss: float) -> float:
        """The sum of the losses; each weight's gradient becomes its sum. A weight that no process used keeps none.

        Raises: StoppedByAnotherError if a process had to leave; RunError if one is gone.
        """
        if self._ranks.count == 1:
            return loss
        message = self._message(loss)
        self._ranks.sum_([message])
        if message[0] > 0:
            self._stop(self._ranks.gather(""))
        used = [weight for weight, uses in zip(self._parameters, message[2:], strict=True) if uses > 0]
        for weight in used:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        self._ranks.sum_([weight.grad for weight in used if weight.grad is not None])
        return float(message[1])

    def leave(self, error: BaseException) -> None:
        """Tell the others, who wait for this step's gradient or will, that it does not come."""
        if self._ranks.count == 1 or isinstance(error, StoppedByAnotherError):
            return
        try:
            message = self._message(0.0)
            message[0] = 1
            self._ranks.sum_([message])
            self._ranks.gather(_in_words(error, self._ranks.rank))
        except RunError as lost:
            log.info("the other processes were not told: %s", lost)

    def _message(self, loss: float) -> Tensor:
        used = [float(weight.grad is not None) for weight in self._parameters]
        return torch.tensor([0.0, loss, *used], dtype=torch.float64)

    def _stop(self, told: Sequence[str]) -> None:
        try:
            raise_what_was_told(told)
        except RunError as error:
            raise StoppedByAnotherError(str(error)) from None


def _in_words(error: BaseException, rank: int) -> str:
    if isinstance(error, MotionError):
        return str(error)
    return f"process {rank} of the run stopped: {type(error).__name__} {error}".strip()
