"""What two tasks share, so that training on the one spoils the test of the other: from manifests alone, without data.

Near-duplicates across tasks need the images; where no manifest can tell, the graph of corpora says what to expect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

from vlmed.leakage.contamination import Graph, load_graph
from vlmed.suite.manifest import Manifest
from vlmed.suite.types import Dataset, Task

By = Literal["pixels", "ids", "groups", "corpora"]


@dataclass(frozen=True)
class Shared:
    """What two tasks share in one respect.

    Attributes:
        task_a, task_b: `name@version` of both.
        by: `pixels` (images of equal pixels); `ids` (samples of one release, where images are not frozen); `groups`
            (patients, articles and so on of one release); `corpora` (published facts on two data sets, no count).
        shared: How many of them are in both tasks, whatever their split; None for `corpora`.
        test_in_train: How many of them are in test of a and in train or val of b; None for `corpora`.
        train_in_test: How many of them are in train or val of a and in test of b; None for `corpora`.
        reason: For `corpora`, how surely and by which way they are related; else empty.
    """

    task_a: str
    task_b: str
    by: By
    shared: int | None = None
    test_in_train: int | None = None
    train_in_test: int | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        return asdict(self)


def find_shared(tasks: Sequence[Task], manifests: Mapping[str, Manifest], graph: Graph | None = None) -> list[Shared]:
    """What any two tasks share; what leads from a test into a train comes first, then the rest by size.

    Args:
        manifests: Task id -> its frozen manifest; of tasks that have none, only corpora can be compared.
        graph: Another graph than the one vlmed ships.
    """
    graph = graph or load_graph()
    contents = {name: _Contents.of(manifest) for name, manifest in manifests.items()}
    found: list[Shared] = []
    for a, b in combinations(tasks, 2):
        if a.id in contents and b.id in contents:
            found += _counted(a, b, contents[a.id], contents[b.id])
        found += _by_corpora(a, b, graph)
    return sorted(found, key=_order)


def _order(shared: Shared) -> tuple[int, int, str, str]:
    leaking = (shared.test_in_train or 0) + (shared.train_in_test or 0)
    return -leaking, -(shared.shared or 0), shared.task_a, shared.task_b


@dataclass(frozen=True)
class _Side:
    """Identities of one kind in a task."""

    test: frozenset[str]
    seen: frozenset[str]


@dataclass(frozen=True)
class _Contents:
    """A manifest as sets: pixel hashes, sample ids and groups."""

    pixels: _Side
    ids: _Side
    groups: _Side

    @classmethod
    def of(cls, manifest: Manifest) -> _Contents:
        def side(column: str) -> _Side:
            pairs = [(row.split == "test", getattr(row, column)) for row in manifest.rows]
            test = frozenset(value for in_test, value in pairs if in_test and value)
            return _Side(test, frozenset(value for in_test, value in pairs if not in_test and value))

        return cls(side("image"), side("sample_id"), side("group"))


def _counted(a: Task, b: Task, mine: _Contents, theirs: _Contents) -> Iterator[Shared]:
    with_images = all(side.test | side.seen for side in (mine.pixels, theirs.pixels))
    if with_images:
        yield from _compare(a, b, "pixels", mine.pixels, theirs.pixels)
    # Ids and groups such as `patient 7` mean the same only where one publisher gave them out together.
    if _release(a.dataset) == _release(b.dataset):
        if not with_images:
            yield from _compare(a, b, "ids", mine.ids, theirs.ids)
        yield from _compare(a, b, "groups", mine.groups, theirs.groups)


def _release(dataset: Dataset) -> str:
    """What tells published releases apart: several data sets may be read from one folder."""
    folder: str = dataset.options.get("folder", dataset.name)
    return folder


def _compare(a: Task, b: Task, by: By, mine: _Side, theirs: _Side) -> Iterator[Shared]:
    shared = (mine.test | mine.seen) & (theirs.test | theirs.seen)
    if shared:
        yield Shared(a.id, b.id, by, len(shared), len(mine.test & theirs.seen), len(mine.seen & theirs.test))


def _by_corpora(a: Task, b: Task, graph: Graph) -> Iterator[Shared]:
    """The surest way between two data sets; two tasks on one data set are compared by their manifests."""
    names = a.dataset.name, b.dataset.name
    routes = [route for way in (names, names[::-1]) if (route := graph.route(*way))] if names[0] != names[1] else []
    if routes:
        best = min(routes, key=lambda route: (not route.certain, len(route.nodes)))
        surely = "certain" if best.certain else "likely"
        yield Shared(a.id, b.id, "corpora", reason=f"{surely}: {'; '.join(map(str, best.edges))}")
