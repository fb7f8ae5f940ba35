"""The page that sets models side by side with a reference; which ones, the reader chooses in the browser."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlmed.leaderboard.blind import direction
from vlmed.leaderboard.board import Board, Name
from vlmed.leaderboard.contest import PAIRS
from vlmed.leaderboard.html import data_block, render
from vlmed.leaderboard.rank import Table
from vlmed.leaderboard.texts import task_page
from vlmed.metrics.table import METRICS

_SCALE = 10_000  # reaches are published as whole numbers


def compare_page(board: Board) -> str:
    """The page, whole."""
    data = compare_data(board)
    return render(
        "compare.html",
        "",
        ["svg.js", "compare.js"],
        board=board,
        here="Compare",
        enough=len(data["models"]) > 1,
        limit=PAIRS if any(table.differences and len(table.differences.rows) > PAIRS for table in board.tables) else 0,
        data=data_block(data),
    )


def compare_data(board: Board) -> dict[str, Any]:
    """All tables with two ranked models or more; `rows` are `[model, value, low, high]`.

    `reach` holds, for each pair of rows in the order (0, 1), (0, 2), ..., (1, 2), ..., how far the interval of
    their difference reaches to either side in units of 0.0001, -1 for no interval; `apart` says by 1 that they differ.
    """
    names: dict[Name, int] = {}
    tables = [_table(table, names) for table in board.tables if table.differences and len(table.differences.rows) > 1]
    models = [
        {"org": org, "name": model, "page": board.models[org, model].page}
        for (org, model), _ in sorted(names.items(), key=lambda item: item[1])
    ]
    return {"models": models, "tables": tables}


def _table(table: Table, names: dict[Name, int]) -> dict[str, Any]:
    assert table.differences is not None
    sign = direction(table.task.main_metric)
    values = np.array([row.value for row in table.differences.rows])
    order = np.argsort(-sign * values, kind="stable")[:PAIRS]
    upper = np.triu_indices(len(order), k=1)
    reach = table.differences.reach[np.ix_(order, order)][upper]
    apart = table.differences.separated[np.ix_(order, order)][upper]
    rows = [table.differences.rows[index] for index in order]
    return {
        "task": table.task.title,
        "page": f"{task_page(table.task)}#{table.track.name}-{table.track.version}",
        "phantom": not table.task.dataset.medical,
        "track": table.track.title,
        "metric": METRICS[table.task.main_metric].title,
        "sign": sign,
        "rows": [
            [names.setdefault((row.entry.org, row.entry.model), len(names)), row.value, row.low, row.high]
            for row in rows
        ],
        "reach": [round(float(one) * _SCALE) if np.isfinite(one) else -1 for one in reach],
        "apart": "".join("01"[bool(one)] for one in apart),
    }
