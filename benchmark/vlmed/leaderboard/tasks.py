"""The page of a task: its definition, who leads, and a table for each of its tracks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vlmed.leaderboard.blind import BLIND, control_kind, direction
from vlmed.leaderboard.board import Board
from vlmed.leaderboard.chart import Axis
from vlmed.leaderboard.html import render
from vlmed.leaderboard.overview import KINDS, by_task
from vlmed.leaderboard.rank import Row, Table
from vlmed.leaderboard.texts import task_page
from vlmed.metrics.table import METRICS, Metric
from vlmed.suite.manifest import read_manifest
from vlmed.suite.types import SPLITS, Task


@dataclass(frozen=True)
class View:
    """A table as it is drawn.

    Attributes:
        anchor: Its id on the page.
        metric: The main metric.
        further: The task's other metrics, in its order.
        best_control: The best of all controls that can't look; None if none was run.
    """

    table: Table
    anchor: str
    axis: Axis
    metric: Metric
    further: Sequence[Metric]
    best_control: Row | None

    @classmethod
    def of(cls, table: Table) -> View:
        """Lays out a table."""
        task, track = table.task, table.track
        ends = [end for row in table.rows for end in (row.value, row.low, row.high) if end is not None]
        further = [METRICS[name] for name in task.metrics if name != task.main_metric]
        metric = METRICS[task.main_metric]
        return cls(table, f"{track.name}-{track.version}", Axis.over(ends), metric, further, _best_control(table))

    @property
    def values(self) -> list[float]:
        """The scores of all models, best first."""
        return [row.value for row in self.table.models if row.value is not None]

    @property
    def best(self) -> float | None:
        """The best of them."""
        return next(iter(self.values), None)

    @property
    def lowest(self) -> float | None:
        """The smallest."""
        return min(self.values, default=None)

    @property
    def highest(self) -> float | None:
        """The largest."""
        return max(self.values, default=None)


def task_pages(board: Board) -> Iterator[tuple[str, str]]:
    """Path -> page, for every task with a table."""
    for task, tables in by_task(board.tables):
        yield (
            task_page(task),
            render(
                "task.html",
                "../",
                ["tables.js"],
                board=board,
                here="",
                task=task,
                kinds=KINDS,
                views=[View.of(table) for table in tables],
                counts=_counts(board, task),
            ),
        )


def _best_control(table: Table) -> Row | None:
    sign = direction(table.task.main_metric)
    blind = [row for row in table.controls if row.value is not None and control_kind(row.entry) in (*BLIND, "random")]
    return max(blind, key=lambda row: sign * (row.value or 0.0), default=None)


def _counts(board: Board, task: Task) -> dict[str, Any] | None:
    """Samples of each split, the clean ones, and the leaks by kind; None while the manifest is pending."""
    if task.pending:
        return None
    manifest = read_manifest(task, board.manifests)
    test = manifest.split("test")
    kinds = Counter(kind for row in test for kind in row.leaks.split(";") if kind)
    return {
        **{split: f"{len(manifest.split(split)):,}" for split in SPLITS},
        "clean": f"{sum(not row.leaks for row in test):,}",
        "leaks": sorted(kinds.items()),
    }
