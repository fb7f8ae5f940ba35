"""Large units in parts that several workers do at once, each exactly as a run without workers does it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from vlmed.data.fractions import share_of
from vlmed.data.table import Sample, TaskTable
from vlmed.evaluate import blocks
from vlmed.evaluate.job import Job, swapped
from vlmed.evaluate.units import Unit
from vlmed.models.protocols import LoadedModel
from vlmed.suite.methods import METHODS
from vlmed.suite.types import SplitName

# Images that one worker embeds for another: seconds on a GPU, a minute on a core, and a few MiB of features.
SHARD = 2048
# Methods by which a generator is asked as it is. One that is tuned is another in each worker.
_ASKED = ("answer", "choose")


@dataclass(frozen=True)
class Shard:
    """A part of a unit, done before the unit itself.

    Attributes:
        start, stop: For an encoder, which of the split's distinct images, in the order of their hashes, it embeds; for
            a generator, which of the test samples it answers.
    """

    unit: Unit
    split: SplitName
    start: int
    stop: int

    @property
    def id(self) -> str:
        """The shard's name, also of its files."""
        return f"{self.unit.id}.{self.split}.{self.start}-{self.stop}"


def image_sets(unit: Unit, table: TaskTable, model: LoadedModel) -> dict[SplitName, list[str]]:
    """By split, the distinct images whose features a unit takes from the shared cache, in the order of their hashes."""
    if model.info.kind not in ("dual_encoder", "image_encoder") or "epochs" in unit.track.recipe:
        return {}
    splits: dict[SplitName, tuple[Sample, ...]] = {"test": table.split("test")}
    if METHODS[unit.track.method].trains:
        splits["train"] = share_of(table.split("train"), unit.fraction, unit.task.id)
        splits["val"] = table.split("val")
    shown = swapped(splits["test"]) if model.swaps_images else {}
    return {
        name: sorted({shown.get(sample.id, sample.image) for sample in samples}) for name, samples in splits.items()
    }


def shards_of(
    unit: Unit, table: TaskTable, model: LoadedModel, sets: Mapping[SplitName, list[str]], width: int
) -> Iterator[Shard]:
    """What of a unit others can do before: nothing where it is small.

    Args:
        sets: Those of its image sets that it embeds itself.
        width: Images of a shard; whole batches.
    """
    for split, images in sets.items():
        yield from _cut(unit, split, len(images), width)
    if model.info.kind == "generator" and unit.track.method in _ASKED:
        yield from _cut(unit, "test", len(table.split("test")), blocks.BLOCK)


def _cut(unit: Unit, split: SplitName, count: int, width: int) -> Iterator[Shard]:
    if count > width:
        for start in range(0, count, width):
            yield Shard(unit, split, start, min(start + width, count))


@dataclass(frozen=True)
class PartJob(Job):
    """A unit of which only some test samples are asked, each as in the whole unit."""

    part: slice

    @property
    def test(self) -> tuple[Sample, ...]:
        """These samples."""
        return super().test[self.part]

    @cached_property
    def _shown(self) -> Mapping[str, str]:
        # Which image stands in for which depends on all samples of the split.
        return swapped(super().test) if self.model.swaps_images else {}
