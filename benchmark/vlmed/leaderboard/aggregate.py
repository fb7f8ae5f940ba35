"""One place over many tasks, such that leaving a task out never pays.

What a model has not run could turn out anything: first or last, perfect or worthless. So its mean over the tasks of a
track is known only between two bounds. Models stand in the order of the worse bound. Running one more task can only
narrow the bounds, and leaving one out never lifts anybody; nor is what is missing taken for a zero.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vlmed.leaderboard.rank import Row, Table
from vlmed.suite.types import Suite

Name = tuple[str, str]  # organisation and model
Bounds = tuple[float, float]
WORST_GAIN = -1.0  # as far below the control as a perfect score is above it


@dataclass(frozen=True)
class Standing:
    """A model over all tasks of a track.

    Attributes:
        run: How many of the tasks it has run.
        tasks: How many there are.
        rank: Bounds of its mean rank, the better one first.
        gain: Bounds of its mean share of the way from the best blind control to a perfect score, the lower one first;
            None where no model has a control on any task.
        place: The best and the worst place that the bounds of all models leave open.
    """

    name: Name
    run: int
    tasks: int
    rank: Bounds
    gain: Bounds | None
    place: tuple[int, int] = (0, 0)


def comparable(suite: Suite, tables: Iterable[Table]) -> dict[str, list[Table]]:
    """Track -> the tables that may be put together: ranked medical tasks, each in its newest version."""
    newest = {task.id for task in suite.current_tasks()}
    found: dict[str, list[Table]] = defaultdict(list)
    for table in tables:
        task = table.task
        if task.id in newest and task.ranked and task.dataset.medical and any(row.rank for row in table.models):
            found[table.track.id].append(table)
    return dict(found)


def standings(tables: Sequence[Table]) -> list[Standing]:
    """All models that have a rank in one of the tables, those with the best worse bound first."""
    ranked = [{(row.entry.org, row.entry.model): row for row in table.models if row.rank} for table in tables]
    names = sorted({name for rows in ranked for name in rows})
    known = any(row.gain and row.gain.share is not None for table in tables for row in table.models)
    found = [_standing(name, ranked, known) for name in names]
    placed = [
        Standing(one.name, one.run, one.tasks, one.rank, one.gain, place)
        for one, place in zip(found, _places([one.rank for one in found]), strict=True)
    ]
    return sorted(placed, key=lambda one: (one.rank[1], one.rank[0], one.name))


def _standing(name: Name, ranked: Sequence[Mapping[Name, Row]], known: bool) -> Standing:
    rows = [of_task.get(name) for of_task in ranked]
    ranks = [_rank_bounds(row, len(of_task)) for row, of_task in zip(rows, ranked, strict=True)]
    return Standing(
        name=name,
        run=sum(row is not None for row in rows),
        tasks=len(ranked),
        rank=_mean(ranks),
        gain=_mean([gain_bounds(row) for row in rows]) if known else None,
    )


def _rank_bounds(row: Row | None, ranked: int) -> Bounds:
    """A missing model would be one more to rank."""
    return (float(row.rank[0]), float(row.rank[1])) if row and row.rank else (1.0, ranked + 1.0)


def gain_bounds(row: Row | None) -> Bounds:
    """What the normalised gain of a row, or of none, may be: in [-1, 1], below which nothing is told apart.

    Where controls of the model are missing, its own gain is the better bound only.
    """
    if row is None or row.gain is None or row.gain.share is None:
        return WORST_GAIN, 1.0
    own = max(WORST_GAIN, row.gain.share)
    return (own if row.gain.whole else WORST_GAIN), own


def _mean(bounds: Sequence[Bounds]) -> Bounds:
    low, high = (sum(end) / len(bounds) for end in zip(*bounds, strict=True))
    return round(low, 6), round(high, 6)


def _places(bounds: Sequence[Bounds]) -> list[tuple[int, int]]:
    """For each mean rank: how many are surely better, and how many surely worse."""
    lows, highs = (sorted(ends) for ends in zip(*bounds, strict=True)) if bounds else ([], [])
    return [(1 + bisect_left(highs, low), bisect_right(lows, high)) for low, high in bounds]
