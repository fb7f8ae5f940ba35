"""`vlmed results`: runs as one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmed.cli.common import JsonOption, SuiteOption, print_json, print_table, refuse_unfinished, suite_of

if TYPE_CHECKING:
    from vlmed.results.rows import Row
    from vlmed.suite.types import Suite

_EVERY = ["*"]


def results(
    paths: Annotated[list[Path], typer.Argument(help="Run folders, or folders of submissions.")],
    tasks: Annotated[list[str], typer.Option(metavar="NAMES", help="Task names or patterns, by commas.")] = _EVERY,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    suite: SuiteOption = None,
) -> None:
    """Show what runs claim: the main metric of every unit, on clean samples wherever there are any.

    --json and --csv give every metric, on all and on clean samples. Nothing is recomputed: `vlmed validate` does that.

    Example: vlmed results submissions/ --csv > results.csv
    """
    from vlmed.cli.common import names
    from vlmed.errors import UsageError
    from vlmed.results.compare import Run, read_run
    from vlmed.results.rows import rows_of
    from vlmed.results.untrusted import printable
    from vlmed.results.validate import find_runs

    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other", hint="leave one of them out")
    loaded = suite_of(suite)
    wanted = {found.id for found in loaded.tasks_matching(names(tasks))} if tasks != _EVERY else None
    for path in paths:
        refuse_unfinished(path)
    runs = [read_run(run) for path in paths for run in find_runs(path)]
    # What others submitted may hold characters that drive a terminal.
    shown = [Run(run.file, printable(run.result)) for run in runs]
    rows = [row for run in shown for row in rows_of(run) if wanted is None or row.task in wanted]
    if as_json:
        print_json([row.to_json() for row in rows])
    elif as_csv:
        _print_csv(rows)
    else:
        _print(rows, loaded)


def _print_csv(rows: list[Row]) -> None:
    import csv
    import sys

    from vlmed.results.rows import Row

    writer = csv.DictWriter(sys.stdout, list(Row.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.to_json() for row in rows)


def _print(rows: list[Row], suite: Suite) -> None:
    """The main metric of each unit; of a task that the suite lacks, its first metric."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("run", "model", "unit", "samples", "metric", "value", "95 % interval")
    for row in _main(rows, suite):
        table.add_row(
            *map(escape, (row.run, row.model + (f" + {row.adapter}" if row.adapter else ""), row.unit)),
            f"{row.n} {row.samples}",
            row.metric,
            "-" if row.value is None else f"{row.value:.4f}",
            "-" if row.low is None else f"{row.low:.4f} to {row.high:.4f}",
        )
    print_table(table)


def _main(rows: list[Row], suite: Suite) -> list[Row]:
    """One row for each unit of each run."""
    mains = {name: task.main_metric for name, task in suite.tasks.items()}
    shown: dict[tuple[str, str], Row] = {}
    for row in rows:
        place = row.run, row.unit
        # Clean samples come after all of them, and replace them.
        if row.metric == mains.get(row.task, row.metric) and (place not in shown or shown[place].metric == row.metric):
            shown[place] = row
    return list(shown.values())
