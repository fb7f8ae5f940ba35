"""Ranked tables and accepted runs as data for others: JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vlmed.hashing import digest
from vlmed.leaderboard.contamination import FindCard, contamination, no_cards
from vlmed.leaderboard.rank import Row, Table, current_rows
from vlmed.leaderboard.read import Entry, Submissions
from vlmed.suite.types import Suite

CSV_COLUMNS = (
    "suite", "task", "track", "organisation", "model", "run", "current", "control", "seed", "fraction", "samples",
    "metric", "value", "low", "high", "n", "revision", "adapter", "adapter_revision",
    "contamination",
)  # fmt: skip
# How a spreadsheet tells a formula from a text, half and full width; OWASP, "CSV Injection".
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def suite_digest(suite: Suite) -> str:
    """SHA-256 over the digests of all tasks and tracks."""
    tasks = {task.id: task.digest for task in suite.tasks.values()}
    return digest({"tasks": tasks, "tracks": {track.id: track.digest for track in suite.tracks.values()}})


def leaderboard_json(suite: Suite, submissions: Submissions, tables: Sequence[Table]) -> dict[str, Any]:
    """Everything the page shows."""
    return {
        "schema_version": 1,
        "suite": {"version": suite.version, "digest": suite_digest(suite)},
        "tables": [_table(table) for table in tables],
        "refused": [
            {"path": run.path, "problems": [problem.to_json() for problem in run.problems]}
            for run in submissions.refused
        ],
    }


def results_csv(suite: Suite, entries: Sequence[Entry], find_card: FindCard = no_cards) -> str:
    """One line per unit, set of samples and metric, of all accepted runs; `current` marks what stands in a table."""
    current = {(row.entry.path, place[2:]) for place, row in current_rows(entries).items()}
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for entry in entries:
        for unit in entry.result["units"]:
            stands = unit["fraction"] == 1 and (entry.path, (unit["task"], unit["track"])) in current
            seen = contamination(entry, suite.tasks[unit["task"]].dataset.name, find_card)
            verdict = seen.status if seen else ""
            writer.writerows([suite.version, *map(_cell, line), verdict] for line in _lines(entry, unit, stands))
    return file.getvalue()


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
        "rows": [_row(row) for row in table.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    model = row.entry.result["model"]
    return {
        "organisation": row.entry.org,
        "name": row.entry.model,
        "run": row.entry.run,
        "control": row.entry.control,
        "rank": {"low": row.rank[0], "high": row.rank[1]} if row.rank else None,
        "note": row.note,
        "contamination": asdict(row.contamination) if row.contamination else None,
        "score": {"value": row.value, "low": row.low, "high": row.high},
        "model": {name: model[name] for name in ("ref", "name", "revision", "family", "kind", "parameters", "adapter")},
        "units": [
            {name: unit[name] for name in ("unit", "seed", "predictions", "scores", "cost")} for unit in row.units
        ],
    }


def _lines(entry: Entry, unit: Mapping[str, Any], current: bool) -> Iterator[list[Any]]:
    model, scores = entry.result["model"], unit["scores"]
    adapter = model["adapter"] or {"ref": "", "revision": ""}
    who = [unit["task"], unit["track"], entry.org, entry.model, entry.run, int(current), int(entry.control)]
    for part, metrics in sorted(scores["metrics"].items()):
        for name, estimate in sorted((metrics or {}).items()):
            numbers = [estimate["value"], estimate["low"], estimate["high"], scores["n"][part]]
            evidence = [model["revision"], adapter["ref"], adapter["revision"]]
            yield [*who, unit["seed"], unit["fraction"], part, name, *numbers, *evidence]


def _cell(value: Any) -> Any:
    """A text that no spreadsheet takes for a formula; numbers stay as they are."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
