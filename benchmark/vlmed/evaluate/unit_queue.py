"""In which order units and their shards may be under way at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from vlmed.data.table import TaskTable
from vlmed.evaluate.shards import Shard, image_sets, shards_of
from vlmed.evaluate.units import Unit
from vlmed.hashing import digest
from vlmed.models.protocols import LoadedModel

Work = Unit | Shard


class UnitQueue:
    """Units that wait for a worker, each behind its shards.

    Trainings go first, and of them the longest, lest one be left when all else is done; the others keep their order.

    The first unit that needs the features of a set of images embeds them, as in a run without workers; those after it
    wait until it is done, so that nothing is embedded twice and the cost of each is the same on any executor.

    Args:
        width: Images of a shard; whole batches.

    Attributes:
        left: Units and shards that are not done; some may be under way.
    """

    def __init__(self, units: Sequence[Unit], tables: Iterable[TaskTable], model: LoadedModel, width: int) -> None:
        self._waiting: list[Work] = []
        self._done: set[str] = set()
        self._shards: Counter[str] = Counter()
        self._needs: dict[str, frozenset[str]] = {}
        self._embeds: dict[str, str] = {}
        samples: dict[str, float] = {}
        for unit, table in zip(units, tables, strict=True):
            sets = {digest(images): (split, images) for split, images in image_sets(unit, table, model).items()}
            self._needs[unit.id] = frozenset(sets)
            own = {split: images for name, (split, images) in sets.items() if name not in self._embeds}
            self._embeds |= {name: unit.id for name in sets if name not in self._embeds}
            shards = list(shards_of(unit, table, model, own, width))
            self._shards[unit.id] = len(shards)
            self._waiting += [*shards, unit]
            samples[unit.id] = _samples(unit, table)
        self._waiting.sort(key=lambda work: -samples.get(work.id, 0.0))
        self.left = len(self._waiting)

    def needs(self, unit: Unit) -> frozenset[str]:
        """Names of the sets of images whose features the unit takes; equal sets have equal names."""
        return self._needs[unit.id]

    def take(self) -> Work | None:
        """The next that need not wait for another."""
        for place, work in enumerate(self._waiting):
            if isinstance(work, Shard) or self._may_start(work):
                return self._waiting.pop(place)
        return None

    def _may_start(self, unit: Unit) -> bool:
        embedded = all(self._embeds[images] in self._done | {unit.id} for images in self._needs[unit.id])
        return embedded and not self._shards[unit.id]

    def put_back(self, work: Work) -> None:
        """What was lost with its worker waits again, before all others."""
        self._waiting.insert(0, work)

    def done(self, work: Work) -> None:
        """Let go on what waited for a unit or a shard."""
        self.left -= 1
        if isinstance(work, Shard):
            self._shards[work.unit.id] -= 1
        else:
            self._done.add(work.id)


def _samples(unit: Unit, table: TaskTable) -> float:
    """How many a unit trains on at most, over all epochs; 0 where it trains no network."""
    return float(unit.track.recipe.get("epochs", 0)) * unit.fraction * len(table.split("train"))
