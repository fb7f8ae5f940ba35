"""How tests change what a run says, as a forger would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from submission_factory import World
from vlmed.files import write_json
from vlmed.hashing import file_hash
from vlmed.results.predictions import read_predictions, write_predictions
from vlmed.results.validate import Report, validate_run


def check(world: World, run: Path, **options: Any) -> Report:
    return validate_run(run, world.suite, world.manifests, **options)


def problems(world: World, run: Path) -> list[tuple[str, str]]:
    """What and where."""
    return [(problem.what, problem.path) for problem in check(world, run, intervals=False).problems]


def edit(run: Path, path: str, value: Any) -> None:
    """Set a value of `result.json`, change it by a function, or remove it by `...`."""
    file = run / "result.json"
    result = json.loads(file.read_text())
    node = result
    *parents, last = path.split("/")
    for parent in parents:
        node = node[int(parent) if parent.isdigit() else parent]
    if value is ...:
        del node[last]
    else:
        node[last] = value(node[last]) if callable(value) else value
    write_json(file, result)


def bump(value: float) -> float:
    """One more in the last digit that is recorded."""
    return round(value + 1e-6, 6)


def rewrite(world: World, run: Path, change: Callable[[Any], Any], sign_it: bool = True) -> None:
    """Change the predictions of a run of one unit through the public reader and writer."""
    task = world.suite.tasks[json.loads((run / "result.json").read_text())["units"][0]["task"]]
    (file,) = (run / "predictions").iterdir()
    write_predictions(file, change(read_predictions(file, task)))
    if sign_it:
        sign(run)


def rewrite_rows(run: Path, row: int, **values: Any) -> None:
    """Change cells of a row in the Parquet file itself, and sign it; no writer of ours stands between."""
    (file,) = (run / "predictions").iterdir()
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[row] |= values
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
    sign(run)


def sign(run: Path) -> None:
    """Write the prediction file's new hash and length."""
    (file,) = (run / "predictions").iterdir()
    edit(run, "units/0/predictions/sha256", file_hash(file))
    edit(run, "units/0/predictions/rows", pq.read_metadata(file).num_rows)
