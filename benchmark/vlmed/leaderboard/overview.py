"""The first page: all models over the tasks of a track; choosing, sorting and searching run in the browser."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from vlmed.leaderboard.aggregate import gain_bounds
from vlmed.leaderboard.board import Board, Model
from vlmed.leaderboard.html import data_block, render
from vlmed.leaderboard.rank import Row, Table
from vlmed.leaderboard.texts import task_page
from vlmed.metrics.table import METRICS
from vlmed.suite.types import Kind, Task, Track

PHANTOM = "Phantom (synthetic, never ranked with medical tasks)"
KINDS: Mapping[Kind, str] = {"classification": "Classification", "retrieval": "Retrieval", "vqa": "Questions"}
_STATUS = ("clean", "exposed", "unknown")


@dataclass(frozen=True)
class Section:
    """Tasks under one heading."""

    title: str
    anchor: str
    tasks: Sequence[tuple[Task, Sequence[Table]]]


def overview_pages(board: Board) -> Iterator[tuple[str, str]]:
    """Path -> page: `index.html` for the track with the most models, and a page for every other one."""
    tracks = board.tracks()
    first = max(tracks, key=lambda track: len(board.standings[track.id]), default=None)
    pages = {track.id: "index.html" if track is first else track_page(track) for track in tracks}
    yield "index.html", _page(board, first, pages, "")
    for track in tracks:
        if track is not first:
            yield pages[track.id], _page(board, track, pages, "../")


def track_page(track: Track) -> str:
    """Where a track's overview lies in the site, unless it is the first page."""
    return f"tracks/{track.name}-{track.version}.html"


def _page(board: Board, track: Track | None, pages: Mapping[str, str], root: str) -> str:
    return render(
        "index.html",
        root,
        ["svg.js", "overview.js"],
        board=board,
        here="Overview",
        track=track,
        kinds=_by_kind(board, pages),
        data=data_block(overview_data(board, track)) if track else "",
        counts=_counts(board),
        sections=_sections(board.tables),
        open_tasks=_open_tasks(board),
        refused=board.submissions.refused,
    )


def overview_data(board: Board, track: Track) -> dict[str, Any]:
    """What the browser needs for one track: its tasks, and every model with a cell for each of them.

    A cell is `[value, low, high, best rank, worst rank, gain, least gain, contamination,
    verified]` or null. The same rules as
    `vlmed.leaderboard.aggregate` are applied in the browser to the tasks that a reader chose.
    """
    tables = board.comparable[track.id]
    cells: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for table in tables:
        for row in table.models:
            if row.rank:
                cells[row.entry.org, row.entry.model][table.task.id] = row
    return {
        "track": track.title,
        "tasks": [_task(table) for table in tables],
        "models": [
            _model(board.models[one.name], [cells[one.name].get(table.task.id) for table in tables])
            for one in board.standings[track.id]
        ],
    }


def _task(table: Table) -> dict[str, Any]:
    task = table.task
    return {
        "name": task.name,
        "title": task.title,
        "page": f"{task_page(task)}#{table.track.name}-{table.track.version}",
        "modality": task.dataset.modality,
        "metric": METRICS[task.main_metric].title,
        "higher": METRICS[task.main_metric].higher_is_better,
        "frozen": not task.pending,
        "ranked": sum(row.rank is not None for row in table.models),
    }


def _model(model: Model, rows: Sequence[Row | None]) -> dict[str, Any]:
    about = model.entry.result["model"]
    adapter = about["adapter"]
    return {
        "name": model.name[1],
        "org": model.name[0],
        "page": model.page,
        "domain": model.domain,
        "parameters": about["parameters"],
        "adapter": f"{adapter['peft_type']} {adapter['ref']}" if adapter else "",
        "cost": sum(training_cost(row) for row in rows if row),
        "cells": [_cell(row) for row in rows],
    }


def _cell(row: Row | None) -> list[Any] | None:
    if row is None or row.rank is None:
        return None
    low, high = gain_bounds(row) if row.gain and row.gain.share is not None else (None, None)
    seen = _STATUS.index(row.contamination.status) if row.contamination else 2
    return [*map(_short, (row.value, row.low, row.high)), *row.rank, _short(high), _short(low), seen, int(row.verified)]


def training_cost(row: Row) -> float:
    """Training samples x epochs x trained parameters, the mean over seeds."""
    return sum(float(unit["cost"]["training"]) for unit in row.units) / len(row.units)


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _by_kind(board: Board, pages: Mapping[str, str]) -> list[tuple[str, list[tuple[Track, str]]]]:
    """The choice of tracks, those of the same kind of task together."""
    found: dict[str, list[tuple[Track, str]]] = defaultdict(list)
    for track in board.tracks():
        found[KINDS[board.comparable[track.id][0].task.kind]].append((track, pages[track.id]))
    return [(title, found[title]) for title in KINDS.values() if title in found]


def _sections(tables: Sequence[Table]) -> list[Section]:
    medical = [table for table in tables if table.task.dataset.medical]
    parts = (
        ("Medical tasks", "medical", [table for table in medical if table.task.ranked]),
        ("Medical tasks, shown without ranks", "unranked", [table for table in medical if not table.task.ranked]),
        (PHANTOM, "phantom", [table for table in tables if not table.task.dataset.medical]),
    )
    return [Section(title, anchor, by_task(chosen)) for title, anchor, chosen in parts if chosen]


def by_task(tables: Sequence[Table]) -> list[tuple[Task, list[Table]]]:
    """Tables in the suite's order, those of one task together."""
    grouped = [list(chosen) for _, chosen in groupby(tables, key=lambda table: table.task.id)]
    return [(chosen[0].task, chosen) for chosen in grouped]


def _open_tasks(board: Board) -> list[Task]:
    seen = {table.task.name for table in board.tables}
    return [task for task in board.suite.current_tasks() if task.name not in seen]


def _counts(board: Board) -> dict[str, int]:
    entries = board.submissions.entries
    return {
        "models": len(board.models),
        "controls": len({(entry.org, entry.model) for entry in entries if entry.control}),
        "tasks": len({table.task.id for table in board.tables}),
        "runs": len(entries),
    }
