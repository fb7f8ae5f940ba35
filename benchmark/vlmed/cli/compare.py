"""`vlmed compare`: two runs on the same samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmed.cli.common import JsonOption, SuiteOption, print_json, print_table, refuse_unfinished, suite_of

if TYPE_CHECKING:
    from vlmed.results.compare import Comparison


def compare(
    run_a: Annotated[Path, typer.Argument(help="A run folder or its result.json.")],
    run_b: Annotated[Path, typer.Argument(help="Another; differences are the first minus this one.")],
    metric: Annotated[
        str | None, typer.Option(help="A metric of result.json, instead of each task's main one.")
    ] = None,
    as_json: JsonOption = False,
    suite: SuiteOption = None,
) -> None:
    """Compare two runs by a paired test on the same samples. Needs no data and no torch.

    Both runs' metrics are recomputed from their prediction files, on clean samples wherever the manifest is frozen.
    p is two-sided and of each row alone: of 20 rows without any difference, one has p < 0.05.

    Example: vlmed compare runs/mine runs/theirs --metric auc
    """
    from vlmed.results.compare import compare_runs, manifests_of, read_run

    refuse_unfinished(run_a)
    refuse_unfinished(run_b)
    first, second = read_run(run_a), read_run(run_b)
    rows = compare_runs(first, second, suite_of(suite), metric, manifests_of(suite))
    left_out = len(first.units) + len(second.units) - 2 * len(rows)
    if left_out:
        typer.echo(f"{left_out} units are in one of the runs alone and were left out", err=True)
    if as_json:
        print_json([row.to_json() for row in rows])
    else:
        _print(rows)


def _print(rows: list[Comparison]) -> None:
    from rich.table import Table

    from vlmed.results.shown import shown, shown_p

    table = Table("unit", "metric", "samples", "a", "b", "a - b", "95 % interval", "p")
    for row in rows:
        table.add_row(
            row.unit,
            row.metric,
            f"{row.n} {row.samples}",
            *(shown(value) for value in (row.first, row.second)),
            shown(row.difference, "+.4f"),
            row.reason if row.low is None else f"{row.low:+.4f} to {row.high:+.4f}",
            shown_p(row.p),
        )
    print_table(table)
