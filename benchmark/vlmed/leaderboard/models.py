"""The page of a model: all its results with every seed, subgroups, calibration, and where its weights come from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vlmed.leaderboard.audited import audits_of
from vlmed.leaderboard.badges import model_badge_path
from vlmed.leaderboard.board import Board, Model
from vlmed.leaderboard.chart import Axis
from vlmed.leaderboard.html import render
from vlmed.leaderboard.outcomes import pictures
from vlmed.leaderboard.overview import training_cost
from vlmed.leaderboard.rank import ranked_part


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
                unit_axis=Axis.over([0.0, 1.0]),
                costs=[training_cost(row) for _, row in model.rows],
                lines=list(_lines(board, model)),
                subgroups=list(_subgroups(model)),
                pictures=list(pictures(model)),
                audits=audits_of(entries.values()),
                badges=[model_badge_path(table, row) for table, row in model.rows if row.rank],
            ),
        )


def _lines(board: Board, model: Model) -> Iterator[dict[str, Any]]:
    """Every task, track and share of the training split with its seeds."""
    for (task_id, track_id), rows in model.fractions.items():
        task = board.suite.tasks[task_id]
        part = ranked_part(task)
        for row in rows:
            values = row.seed_values(task.main_metric, part)
            yield {
                "task": task,
                "track": board.suite.tracks[track_id],
                "row": row,
                "spread": row.spread(task.main_metric, part),
                "seeds": [(unit["seed"], value) for unit, value in zip(row.units, values, strict=True)],
                "ece": row.metric("ece", part) if "ece" in task.metrics else None,
            }


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
