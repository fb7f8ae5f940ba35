"""Processes that tune one model together, as `torchrun` and `accelerate launch` start them.

Each holds the whole model, computes its share of every batch and steps with the gradients of all, so that all have the
same weights after every step. Sums are those of one process but for the order of their floats; dropout is drawn by each
process for itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed

from vlmed.errors import UsageError, VlmedError
from vlmed.tuning.batches import Rows

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class World:
    """The processes, seen from one of them; by default one alone.

    All have to call `gather`, `first`, `agree` and `add` in the same order, and each waits for the others there.

    Attributes:
        rank: This process, in [0, size). The first one leads: it alone writes.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def share(self, rows: Rows) -> Rows:
        """This process's part of some positions; the parts of all are the whole, in order."""
        return np.array_split(rows, self.size)[self.rank]

    def gather(self, value: _Value) -> list[_Value]:
        """The values of all processes, by rank; they go through pickle.

        Raises:
            VlmedError: A process is lost.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _unless_lost():
            distributed.all_gather_object(values, value)
        return values

    def first(self, value: _Value) -> _Value:
        """The first process's value.

        Raises:
            VlmedError: A process is lost.
        """
        return self.gather(value)[0]

    def agree(self, value: object) -> None:
        """See that all processes tune the same thing.

        Raises:
            UsageError: Their values differ.
            VlmedError: A process is lost.
        """
        values = self.gather(value)
        if others := [rank for rank, each in enumerate(values) if each != values[0]]:
            raise UsageError(
                "the processes of this run do not tune the same thing",
                expected="the same weights, data and checkpoints in all",
                got=f"others than the first one's in process {', '.join(map(str, others[:8]))}",
                hint="give a model, data and a run folder that all machines see",
            )

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put its sum over all processes into each tensor; the tensors lie on one device and have one type.

        Raises:
            VlmedError: A process is lost.
        """
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _unless_lost():
            distributed.all_reduce(flat)
        for tensor, total in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))


ALONE = World()


def world() -> World:
    """The processes of torch's process group; this one alone where there is none."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return ALONE
    return World(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def _unless_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise VlmedError(
            "a process of this run was lost",
            got=" ".join(str(error).split())[:200],
            hint="see what the launcher says of it; the same command goes on from the last checkpoint",
        ) from error
