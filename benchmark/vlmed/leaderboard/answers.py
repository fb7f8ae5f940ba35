"""The page of answers: what pretraining gains, what tuning costs, how much data it takes, how stable it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vlmed.leaderboard.blind import direction
from vlmed.leaderboard.board import Board, Model
from vlmed.leaderboard.chart import Axis, LogAxis
from vlmed.leaderboard.gaps import OFF_THE_SHELF, gap_maps
from vlmed.leaderboard.html import data_block, render
from vlmed.leaderboard.overview import by_task, training_cost
from vlmed.leaderboard.rank import Row, Table, ranked_part
from vlmed.leaderboard.reported import paper_tables, reported
from vlmed.leaderboard.texts import task_page
from vlmed.metrics.table import METRICS
from vlmed.suite.types import Task, Track

_DRAWN = 8  # lines or labels that one chart can hold and still be read
_POINTS = 100  # results that a chart or a table of all models shows; the data for programs hold the others
_ADVICE = 10  # models of a task, track and share of the data among which a reader may choose
# What a reader's machine must do: nothing, one pass over the images, or training; by the method of a track.
_EFFORT = {**dict.fromkeys(OFF_THE_SHELF, 0), "linear_probe": 1, "lora": 2, "partial": 2, "projector": 2, "full": 3}


@dataclass(frozen=True)
class Point:
    """A place in a chart with what it stands for."""

    x: float
    y: float
    name: str
    label: str
    values: Sequence[str]
    series: int = 0


@dataclass(frozen=True)
class Chart:
    """A chart with two axes; its points make up the table behind it.

    Attributes:
        lines: Series of points that a line joins; empty for a scatter.
        left_out: How many results it does not show.
    """

    title: str
    metric: str
    x: Axis | LogAxis
    y: Axis
    points: Sequence[Point]
    lines: Sequence[Sequence[Point]] = ()
    left_out: int = 0


def answers_page(board: Board) -> str:
    """The page, whole."""
    return render(
        "answers.html",
        "",
        ["svg.js", "recommend.js"],
        board=board,
        here="Answers",
        maps=list(gap_maps(board)),
        costs=list(cost_charts(board)),
        curves=list(curve_charts(board)),
        stability=list(_stability(board)),
        papers=list(paper_tables(board)),
        about=reported()["about"],
        data=data_block(advice(board)),
    )


def cost_charts(board: Board) -> Iterator[Chart]:
    """For each ranked task with a tuned model: score against training cost; what was not tuned stands at the left."""
    for task, tables in by_task(board.tables):
        rows = [(table, row) for table in tables for row in table.models if row.value is not None]
        if task.ranked and any(training_cost(row) for _, row in rows):
            yield _cost_chart(task, _worth_drawing(task, rows), len(rows))


def _cost_chart(task: Task, rows: Sequence[tuple[Table, Row]], known: int) -> Chart:
    x = LogAxis.over([training_cost(row) for _, row in rows], 50, 500)
    y = Axis.over([row.value for _, row in rows if row.value is not None], 230, 14)
    points = [_cost_point(table, row, x, y) for table, row in rows]
    return Chart(_title(task), _metric(task), x, y, points, left_out=known - len(points))


def _worth_drawing(task: Task, rows: Sequence[tuple[Table, Row]]) -> list[tuple[Table, Row]]:
    """The best results, and those that nothing cheaper beats; in their order."""
    sign = direction(task.main_metric)
    ranked = sorted(range(len(rows)), key=lambda at: -sign * (rows[at][1].value or 0.0))
    cheapest, front = math.inf, []
    for at in ranked:
        if (cost := training_cost(rows[at][1])) < cheapest:
            cheapest = cost
            front.append(at)
    return [rows[at] for at in sorted({*ranked[:_POINTS], *front})]


def _cost_point(table: Table, row: Row, x: LogAxis, y: Axis) -> Point:
    cost = training_cost(row)
    name = f"{row.entry.model}, {table.track.title}"
    series = _EFFORT.get(table.track.method, 2)
    return Point(x.x(cost), y.x(row.value or 0.0), name, "", [f"{cost:.3g}", f"{row.value:.3f}"], series)


def curve_charts(board: Board) -> Iterator[Chart]:
    """For each task and track with several shares of the training split: score against share, a line per model."""
    found: dict[tuple[str, str], list[tuple[Model, list[Row]]]] = {}
    for model in board.models.values():
        for place, rows in model.fractions.items():
            known = [row for row in rows if row.value is not None]
            if len(known) > 1:
                found.setdefault(place, []).append((model, known))
    for (task_id, track_id), curves in found.items():
        yield _curve_chart(board.suite.tasks[task_id], board.suite.tracks[track_id], curves)


def _curve_chart(task: Task, track: Track, curves: Sequence[tuple[Model, Sequence[Row]]]) -> Chart:
    sign = direction(task.main_metric)
    best = sorted(curves, key=lambda one: (-sign * (one[1][-1].value or 0.0), one[0].name))[:_DRAWN]
    rows = [row for _, found in best for row in found]
    x = LogAxis.over([100 * row.fraction for row in rows], 50, 420)
    y = Axis.over([value for row in rows if (value := row.value) is not None], 230, 14)
    lines = []
    for series, (model, found) in enumerate(best):
        points = [
            Point(
                x.x(100 * row.fraction),
                y.x(row.value or 0.0),
                model.name[1],
                "" if index < len(found) - 1 else model.name[1],
                [f"{100 * row.fraction:g} %", f"{row.value:.3f}", str(len(row.units))],
                series,
            )
            for index, row in enumerate(found)
        ]
        lines.append(points)
    return Chart(f"{_title(task)}, {track.title}", _metric(task), x, y, [one for line in lines for one in line], lines)


def _stability(board: Board) -> Iterator[dict[str, Any]]:
    """Rows with several seeds, the least stable first, for each task and track."""
    for table in board.tables:
        metric = table.task.main_metric
        rows = [row for row in table.models if row.spread(metric, table.part) is not None]
        if rows:
            rows.sort(key=lambda row: (-(row.spread(metric, table.part) or 0.0), row.entry.path))
            shown = rows[:_POINTS]
            values = [[one for one in row.seed_values(metric, table.part) if one is not None] for row in shown]
            spreads = [row.spread(metric, table.part) for row in shown]
            yield {
                "table": table,
                "axis": Axis.over([one for found in values for one in found]),
                "rows": list(zip(shown, spreads, values, strict=True)),
                "left_out": len(rows) - len(shown),
            }


def advice(board: Board) -> dict[str, Any]:
    """What the browser needs to answer `Which model should I use?`.

    Options are `[task, model, track, share, labelled images, effort, value, low, high, cost, contamination]`; of each
    task, track and share those whose interval begins best.
    """
    tasks = [task for task, _ in by_task(board.tables) if task.dataset.medical and task.ranked]
    needed = {task.id: board.training_samples(task) for task in tasks}
    names = list(board.models)
    options: list[list[Any]] = []
    for index, task in enumerate(tasks):
        for track in board.suite.tracks.values():
            for model, row in _surest(board, task, track):
                how = [track.title, row.fraction, _images(needed[task.id], track, row), _EFFORT.get(track.method, 2)]
                score = [row.value, row.low, row.high]
                which = [index, names.index(model.name)]
                options.append([*which, *how, *score, training_cost(row), _seen(model, task, track)])
    return {
        "tasks": [
            {"title": task.title, "page": task_page(task), "modality": task.dataset.modality,
             "metric": METRICS[task.main_metric].title, "higher": METRICS[task.main_metric].higher_is_better,
             "part": ranked_part(task)}
            for task in tasks
        ],
        "models": [{"name": name, "org": org, "page": board.models[org, name].page} for org, name in names],
        "options": options,
    }  # fmt: skip


def _surest(board: Board, task: Task, track: Track) -> Iterator[tuple[Model, Row]]:
    sign = direction(task.main_metric)
    by_share: dict[float, list[tuple[Model, Row]]] = {}
    for model in board.models.values():
        for row in model.fractions.get((task.id, track.id), ()):
            if row.low is not None and row.high is not None:
                by_share.setdefault(row.fraction, []).append((model, row))
    for found in by_share.values():
        found.sort(key=lambda one: (-((one[1].low if sign > 0 else -(one[1].high or 0.0)) or 0.0), one[0].name))
        yield from found[:_ADVICE]


def _images(training: int | None, track: Track, row: Row) -> int | None:
    """How many labelled images a result took; None where nobody knows."""
    if track.method in OFF_THE_SHELF:
        return 0
    return None if training is None else math.ceil(training * row.fraction)


def _seen(model: Model, task: Task, track: Track) -> str:
    for table, row in model.rows:
        if (table.task.id, table.track.id) == (task.id, track.id) and row.contamination:
            return str(row.contamination.status)
    return "unknown"


def _title(task: Task) -> str:
    return task.title if task.dataset.medical else f"{task.title} (synthetic)"


def _metric(task: Task) -> str:
    return METRICS[task.main_metric].title
