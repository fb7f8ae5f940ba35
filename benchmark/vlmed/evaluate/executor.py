"""Who does the units of a run: this process, one after another, or others that it watches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from vlmed.evaluate.units import RunFolder, Unit

if TYPE_CHECKING:
    from vlmed.evaluate.run import Runner


class Executor(Protocol):
    """Does units; which one does them never shows in a prediction."""

    def execute(self, runner: Runner, units: Sequence[Unit], folder: RunFolder) -> Iterator[tuple[Unit, str]]:
        """Do every unit, in any order; each is given with a word on how it went once its files stand in `folder`.

        Raises:
            VlmedError: A unit can't be done; the finished ones are kept.
        """
        ...

    def environment(self) -> dict[str, str]:
        """What the result says about where the units were done, beyond this process."""
        ...


class Local:
    """Does the units here, in their order."""

    def execute(self, runner: Runner, units: Sequence[Unit], folder: RunFolder) -> Iterator[tuple[Unit, str]]:
        """See `Executor.execute`."""
        for unit in units:
            runner.do(unit, folder)
            yield unit, "done"

    def environment(self) -> dict[str, str]:
        """See `Executor.environment`."""
        return {}
