"""What trains: its weights out and in again, and as much of it at once as fits into memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import torch

from vlmed.errors import VlmedError
from vlmed.tuning.anatomy import Parameters

_Result = TypeVar("_Result")


class _Recipe(Protocol):
    @property
    def batch_size(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def patience(self) -> int: ...


class Trainee(ABC):
    """A model made ready for a recipe.

    Attributes:
        recipe: Says after how many epochs to stop, and after how many without a lower validation loss.
        at_once: How many samples this process computes at once; shrinks where they don't fit into memory.
    """

    recipe: _Recipe
    at_once: int

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the model lies."""

    @abstractmethod
    def parameters(self) -> Parameters:
        """All that trains, by name."""

    def copies(self) -> dict[str, torch.Tensor]:
        """What trains, copied to the CPU."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self.parameters().items()}

    @torch.no_grad()
    def take(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Give what trains these values."""
        for name, parameter in self.parameters().items():
            parameter.copy_(weights[name])

    def start_step(self) -> None:
        """Forget the gradients of the step before."""
        for parameter in self.parameters().values():
            parameter.grad = None

    def fitting(self, compute: Callable[[], _Result]) -> _Result:
        """What `compute` gives, which takes at most `at_once` samples at once; that shrinks until they fit into memory.

        Raises:
            VlmedError: Not even one sample fits into memory.
        """
        while True:
            try:
                return compute()
            except torch.OutOfMemoryError as error:
                if not self._shrink():
                    raise VlmedError(
                        "a single sample does not fit into the device's memory",
                        got=" ".join(str(error).split())[:200],
                        hint="use a device with more memory, a smaller model, or a track that trains less of it",
                    ) from error
            # Out here the failed attempt's tensors are no longer referred to.
            torch.cuda.empty_cache()

    def _shrink(self) -> bool:
        """Need less memory from here on, if that is possible."""
        smaller = (self.at_once + 1) // 2
        possible, self.at_once = smaller < self.at_once, smaller
        return possible
