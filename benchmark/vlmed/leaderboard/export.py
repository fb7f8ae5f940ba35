"""The leaderboard as data for others: JSON, CSV and Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vlmed.leaderboard.board import Board
from vlmed.leaderboard.contamination import FindCard, contamination, no_cards
from vlmed.leaderboard.rank import Row, Table
from vlmed.leaderboard.read import Entry

# Column -> its type in Parquet. A line is one metric of one unit on one set of samples.
COLUMNS: Mapping[str, pa.DataType] = {
    "suite": pa.string(), "task": pa.string(), "track": pa.string(), "organisation": pa.string(),
    "model": pa.string(), "run": pa.string(), "current": pa.int64(), "control": pa.int64(), "seed": pa.int64(),
    "fraction": pa.float64(), "samples": pa.string(), "metric": pa.string(), "value": pa.float64(),
    "low": pa.float64(), "high": pa.float64(), "n": pa.int64(), "revision": pa.string(), "adapter": pa.string(),
    "adapter_revision": pa.string(), "adapters_below": pa.string(), "contamination": pa.string(),
    "frozen": pa.int64(), "verified": pa.int64(),
    "calibration_error": pa.float64(), "worst_subgroup": pa.string(), "subgroup_gap": pa.float64(),
    "rank_low": pa.int64(), "rank_high": pa.int64(), "gain": pa.float64(), "gain_over": pa.string(),
    "controls_missing": pa.string(), "training_cost": pa.float64(),
}  # fmt: skip
CSV_COLUMNS = tuple(COLUMNS)
# How a spreadsheet tells a formula from a text, half and full width; OWASP, "CSV Injection".
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_ROWS_PER_GROUP = 2**17
_MODEL = ("ref", "name", "revision", "family", "kind", "parameters", "adapter", "adapters_below")


def leaderboard_json(board: Board) -> dict[str, Any]:
    """Everything the tables show; `schemas/leaderboard.schema.json` describes it."""
    return {
        "schema_version": 3,
        "suite": {"version": board.suite.version, "digest": board.digest},
        "tables": [_table(table) for table in board.tables],
        "standings": {
            track: [asdict(one) | {"name": "/".join(one.name)} for one in standings]
            for track, standings in board.standings.items()
        },
        "refused": [
            {"path": run.path, "problems": [problem.to_json() for problem in run.problems]}
            for run in board.submissions.refused
        ],
    }


def result_rows(board: Board, find_card: FindCard = no_cards) -> list[tuple[Any, ...]]:
    """A tuple of `COLUMNS` per unit, set of samples and metric, of all accepted runs; `current` marks the last ones."""
    standing = {id(unit): row for row in board.current.values() for unit in row.units}
    lines: list[tuple[Any, ...]] = []
    for entry in board.submissions.entries:
        seen = {
            name: _status(entry, name, find_card)
            for name in {board.suite.tasks[unit["task"]].dataset.name for unit in entry.result["units"]}
        }
        for unit in entry.result["units"]:
            row = standing.get(id(unit))
            task = board.suite.tasks[unit["task"]]
            verdict = seen[task.dataset.name]
            known = [verdict, int(not task.pending), int(unit["unit"] in entry.verified)]
            lines.extend(_lines(board, entry, unit, known, row))
    return lines


def results_csv(rows: Sequence[tuple[Any, ...]]) -> str:
    """The rows as CSV (RFC 4180) that no spreadsheet takes for formulas."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    columns = list(zip(*rows, strict=True))
    for place, kind in enumerate(COLUMNS.values()):
        if columns and kind == pa.string():
            columns[place] = tuple(map(_text, columns[place]))
    writer.writerows(zip(*columns, strict=True))
    return file.getvalue()


def results_parquet(rows: Sequence[tuple[Any, ...]]) -> bytes:
    """The rows as Parquet; the bytes depend on the rows and the version of pyarrow alone."""
    columns = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
    arrays = [pa.array(values, kind) for values, kind in zip(columns, COLUMNS.values(), strict=True)]
    sink = pa.BufferOutputStream()
    # No compressor, so that none of their versions changes the bytes; dictionaries keep repeated texts small.
    table = pa.table(arrays, names=list(COLUMNS))
    pq.write_table(table, sink, compression="none", store_schema=False, row_group_size=_ROWS_PER_GROUP)
    return bytes(sink.getvalue())


def _status(entry: Entry, dataset: str, find_card: FindCard) -> str:
    verdict = contamination(entry, dataset, find_card)
    return verdict.status if verdict else ""


def _lines(
    board: Board, entry: Entry, unit: Mapping[str, Any], known: Sequence[Any], row: Row | None
) -> Iterator[tuple[Any, ...]]:
    model, scores = entry.result["model"], unit["scores"]
    adapter = model["adapter"] or {"ref": "", "revision": ""}
    who = (board.suite.version, unit["task"], unit["track"], entry.org, entry.model, entry.run)
    what = (int(row is not None), int(entry.control), unit["seed"], float(unit["fraction"]))
    below = " ".join(f"{one['ref']}@{one['revision']}" for one in model.get("adapters_below", ()))
    weights = (model["revision"], adapter["ref"], adapter["revision"], below, *known)
    standing = (*_subgroup(scores), *_standing(row), float(unit["cost"]["training"]))
    for part, metrics in sorted(scores["metrics"].items()):
        calibration = _calibration(metrics)
        for name, estimate in sorted((metrics or {}).items()):
            numbers = (estimate["value"], estimate["low"], estimate["high"], scores["n"][part])
            yield (*who, *what, part, name, *numbers, *weights, calibration, *standing)


def _calibration(metrics: Mapping[str, Any] | None) -> float | None:
    error: float | None = (metrics or {}).get("ece", {"value": None})["value"]
    return error


def _subgroup(scores: Mapping[str, Any]) -> tuple[str | None, float | None]:
    """The field and value with the widest gap to the best of its field, and that gap."""
    found = [
        (subgroup["gap"], f"{field}={subgroup['worst']}")
        for field, subgroup in sorted((scores["subgroups"] or {}).items())
        if subgroup["gap"] is not None
    ]
    gap, name = max(found, default=(None, None))
    return name, gap


def _standing(row: Row | None) -> tuple[Any, ...]:
    if row is None:
        return None, None, None, None, None
    low, high = row.rank or (None, None)
    if row.gain is None:
        return low, high, None, None, None
    return low, high, row.gain.value, row.gain.control, " ".join(row.gain.missing)


def _table(table: Table) -> dict[str, Any]:
    task = table.task
    return {
        "task": {
            "id": task.id,
            "title": task.title,
            "kind": task.kind,
            "digest": task.digest,
            "dataset": task.dataset.name,
            "modality": task.dataset.modality,
            "medical": task.dataset.medical,
            "ranked": task.ranked,
            "pending": task.pending,
        },
        "track": {"id": table.track.id, "title": table.track.title, "digest": table.track.digest},
        "main_metric": task.main_metric,
        "ranked_on": table.part,
        "rows": [_row(table, row) for row in table.rows],
    }


def _row(table: Table, row: Row) -> dict[str, Any]:
    model = row.entry.result["model"]
    return {
        "organisation": row.entry.org,
        "name": row.entry.model,
        "run": row.entry.run,
        "control": row.entry.control,
        "rank": {"low": row.rank[0], "high": row.rank[1]} if row.rank else None,
        "note": row.note,
        "verified": row.verified,
        "contamination": vars(row.contamination) if row.contamination else None,
        "score": {
            "value": row.value,
            "low": row.low,
            "high": row.high,
            "spread": row.spread(table.task.main_metric, table.part),
        },
        "gain": vars(row.gain) if row.gain else None,
        "model": {name: model[name] for name in _MODEL if name in model},
        "units": [
            {name: unit[name] for name in ("unit", "seed", "predictions", "scores", "cost")} for unit in row.units
        ],
    }


@cache  # a text stands in many rows
def _text(value: str | None) -> str | None:
    """A text that no spreadsheet takes for a formula."""
    return f"'{value}" if value and value.startswith(_FORMULA) else value
