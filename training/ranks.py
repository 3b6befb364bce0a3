"""The processes that share the steps of a run: torch.distributed where there are several, nothing for one alone."""

import datetime
import json
import logging
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar, cast

import torch
import torch.distributed
from torch import Tensor

from ..core.errors import RunError

distributed = cast(Any, torch.distributed)
log = logging.getLogger(__name__)

BUCKET_BYTES = 64 << 20
"""Tensors are summed as flat buffers of this size: fewer messages than tensors, and little memory beside them."""
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What tells a process its place. Source: PyTorch, torch.distributed, environment variable initialization."""

Item = TypeVar("Item")


class Ranks(Protocol):
    """The processes of a run as one of them sees them. All must call the same methods in the same order."""

    @property
    def rank(self) -> int:
        """Of this process, from 0."""
        ...

    @property
    def count(self) -> int:
        """Of processes."""
        ...

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of something, a run of neighbours; empty where there are more processes than items."""
        ...

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes, the same bits in each.

        Raises: RunError if another process is gone.
        """
        ...

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process."""
        ...

    def gather(self, words: str) -> list[str]:
        """What each process says, by rank."""
        ...

    def wait(self) -> None:
        """Until every process is here."""
        ...


class OneRank:
    """A run in a single process."""

    rank = 0
    count = 1

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        return items

    def sum_(self, tensors: Sequence[Tensor]) -> None: ...

    def any(self, flag: bool) -> bool:
        return flag

    def gather(self, words: str) -> list[str]:
        return [words]

    def wait(self) -> None: ...


class ProcessGroup:
    """The processes that torchrun, or any program that sets its variables, has started. Close it at the end.

    Tensors on a CPU go through gloo, and with `uses_cuda` those on a GPU through NCCL.
    Units: timeout in seconds, of one exchange
    Raises: RunError if the processes do not find each other.
    """

    def __init__(self, uses_cuda: bool, timeout: float, environment: Mapping[str, str] = os.environ):
        self.rank, self.count = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        self._is_broken = False
        place = f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}"
        try:
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if uses_cuda else "gloo", timeout=datetime.timedelta(seconds=timeout)
            )
        except (RuntimeError, ValueError) as error:
            raise RunError(_not_joined(place, error)) from error

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        first, behind = (len(items) * rank // self.count for rank in (self.rank, self.rank + 1))
        return items[first:behind]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        for bucket in buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            self._exchange(partial(distributed.all_reduce, flat))
            first = 0
            for tensor in bucket:
                tensor.copy_(flat[first : first + tensor.numel()].view_as(tensor))
                first += tensor.numel()

    def any(self, flag: bool) -> bool:
        total = torch.tensor([float(flag)])
        self.sum_([total])
        return bool(total)

    def gather(self, words: str) -> list[str]:
        # As bytes in tensors: torch's own exchange of objects would read pickles from the network.
        data = torch.frombuffer(bytearray(json.dumps(words).encode()), dtype=torch.uint8)
        sizes = torch.zeros(self.count, dtype=torch.int64)
        sizes[self.rank] = len(data)
        self.sum_([sizes])
        table = torch.zeros(self.count, int(sizes.max()), dtype=torch.uint8)
        table[self.rank, : len(data)] = data
        self.sum_([table])
        return [json.loads(bytes(cast(Any, row[:size]).tolist())) for row, size in zip(table, sizes, strict=True)]

    def wait(self) -> None:
        self.any(False)

    def close(self) -> None:
        """Leave the group together, so that none is ended as the last one of a failed run while it still writes."""
        try:
            self.wait()
        except RunError as lost:
            log.info("the processes did not end together: %s", lost)
        else:
            distributed.destroy_process_group()

    def _exchange(self, exchange: Callable[[], object]) -> None:
        if self._is_broken:
            raise RunError("another process of this run is gone.")
        try:
            exchange()
        except RuntimeError as error:
            self._is_broken = True
            raise RunError(
                f"another process of this run is gone, or has not answered in time ({_first_line(error)}). Look for "
                "its own message in the log, and start the run again: it goes on from its last checkpoint."
            ) from error


def is_one_of_many(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process was started as one of several."""
    return all(name in environment for name in VARIABLES) and int(environment["WORLD_SIZE"]) > 1


@contextmanager
def together(ranks: Ranks) -> Generator[None]:
    """Inside, each process does its own part. Where it fails in one, all raise at the end, in the words of the first.

    Raises: what was raised inside; RunError for the error of another process.
    """
    own: Exception | None = None
    try:
        yield
    except Exception as error:  # noqa: BLE001 - raised below, once the others know
        own = error
    told = ranks.gather("" if own is None else str(own) or type(own).__name__)
    if own is not None:
        raise own
    raise_what_was_told(told)


def raise_what_was_told(told: Sequence[str]) -> None:
    """Raises: RunError with the first words of another process, if there are any."""
    words = next(filter(None, told), None)
    if words is not None:
        raise RunError(words)


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type on one device, up to `BUCKET_BYTES` together; a larger tensor stands alone."""
    bucket: list[Tensor] = []
    filled = 0
    for tensor in tensors:
        is_other = bool(bucket) and (tensor.dtype, tensor.device) != (bucket[0].dtype, bucket[0].device)
        if bucket and (is_other or filled + tensor.nbytes > BUCKET_BYTES):
            yield bucket
            bucket, filled = [], 0
        bucket.append(tensor)
        filled += tensor.nbytes
    if bucket:
        yield bucket


def _not_joined(place: str, error: Exception) -> str:
    reason = _first_line(error)
    if "EADDRINUSE" in str(error) or "already in use" in str(error):
        return f"the port of {place} is in use by another program. Set MASTER_PORT (--master-port) to a free one."
    return (
        f"the processes of this run did not find each other at {place} ({reason}). Check that as many were started as "
        "WORLD_SIZE says, and that they reach this address."
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
