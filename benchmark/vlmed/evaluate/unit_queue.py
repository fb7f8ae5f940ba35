"""In which order units may be under way at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vlmed.data.fractions import share_of
from vlmed.data.table import TaskTable
from vlmed.evaluate.units import Unit
from vlmed.hashing import digest
from vlmed.models.protocols import Kind
from vlmed.suite.methods import METHODS


class UnitQueue:
    """Units that wait for a worker, in their order.

    The first unit that needs the features of a set of images embeds them, as in a run without workers; those after it
    wait until it is done, so that nothing is embedded twice and the cost of each is the same on any executor.
    """

    def __init__(self, units: Sequence[Unit], tables: Iterable[TaskTable], kind: Kind) -> None:
        self._waiting = list(units)
        self._done: set[str] = set()
        self._needs = {
            unit.id: image_sets(unit, table, kind) for unit, table in zip(units, tables, strict=True)
        }  # fmt: skip
        self._embeds: dict[str, str] = {}
        for unit in units:
            for images in self._needs[unit.id]:
                self._embeds.setdefault(images, unit.id)

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> Unit | None:
        """The next unit that need not wait for another."""
        for place, unit in enumerate(self._waiting):
            if all(self._embeds[images] in self._done | {unit.id} for images in self._needs[unit.id]):
                return self._waiting.pop(place)
        return None

    def put_back(self, unit: Unit) -> None:
        """A unit whose worker was lost waits again, before all others."""
        self._waiting.insert(0, unit)

    def done(self, unit: Unit) -> None:
        """Let go on what waited for a unit."""
        self._done.add(unit.id)


def image_sets(unit: Unit, table: TaskTable, kind: Kind) -> frozenset[str]:
    """Names of the sets of images whose features a unit takes from the shared cache; equal sets have equal names."""
    if kind not in ("dual_encoder", "image_encoder") or "epochs" in unit.track.recipe:
        return frozenset()
    splits = [table.split("test")]
    if METHODS[unit.track.method].trains:
        splits += [share_of(table.split("train"), unit.fraction, unit.task.id), table.split("val")]
    return frozenset(digest(sorted({sample.image for sample in samples})) for samples in splits)
