"""The page of a model: all its results with every seed, subgroups, calibration, and where its weights come from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from vlmed.leaderboard.audited import audits_of
from vlmed.leaderboard.badges import model_badge_path
from vlmed.leaderboard.board import Board, Model
from vlmed.leaderboard.chart import Axis
from vlmed.leaderboard.html import render
from vlmed.leaderboard.outcomes import pictures
from vlmed.leaderboard.overview import training_cost
from vlmed.leaderboard.rows import result_row, share_row

_AXIS = Axis.over([0.0, 1.0])


def model_pages(board: Board) -> Iterator[tuple[str, str]]:
    """Path -> page, for every model that is no control."""
    for model in board.models.values():
        entries = {entry.path: entry for entry in (*(row.entry for _, row in model.rows), model.entry)}
        yield (
            model.page,
            render(
                "model.html",
                "../",
                board=board,
                here="",
                model=model,
                unit_axis=_AXIS,
                results=[result_row(_AXIS, table, row, training_cost(row)) for table, row in model.rows],
                shares=list(_shares(board, model)),
                subgroups=list(_subgroups(model)),
                pictures=list(pictures(model)),
                audits=audits_of(entries.values()),
                badges=[model_badge_path(table, row) for table, row in model.rows if row.rank],
            ),
        )


def _shares(board: Board, model: Model) -> Iterator[Markup]:
    """A row of every task, track and share of the training split."""
    for (task, track), rows in model.fractions.items():
        yield from (share_row(board.suite.tasks[task], board.suite.tracks[track], row) for row in rows)


def _subgroups(model: Model) -> Iterator[dict[str, Any]]:
    """Of the first seed: the values of every published field, with worst and gap."""
    for table, row in model.rows:
        for field, found in sorted((row.units[0]["scores"]["subgroups"] or {}).items()):
            yield {
                "task": table.task,
                "track": table.track,
                "field": field,
                "known": sorted(found["values"].items()),
                "worst": found["worst"],
                "gap": found["gap"],
            }
