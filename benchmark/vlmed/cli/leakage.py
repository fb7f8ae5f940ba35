"""`vlmed leakage`: where test samples meet training samples, found and proved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmed.cli.common import DataOption, JsonOption, SuiteOption, data_loader, print_json, print_table, suite_of

if TYPE_CHECKING:
    from vlmed.data.load import DataLoader
    from vlmed.leakage.find import ImageOf
    from vlmed.leakage.report import Report
    from vlmed.suite.types import Suite, Task


def leakage(
    tasks: Annotated[list[str] | None, typer.Argument(help="Task names.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every task whose data are at hand.")] = False,
    across: Annotated[
        bool, typer.Option("--across", help="What tasks share with one another, from the manifests; needs no data.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for a report per task, JSON and HTML.")] = None,
    ids_only: Annotated[bool, typer.Option("--ids-only", help="Compare groups and captions; needs no images.")] = False,
    as_json: JsonOption = False,
    data_root: DataOption = None,
    suite: SuiteOption = None,
) -> None:
    """Find what test shares with train and val: pixels, groups, near-duplicates, texts.

    Example: vlmed leakage vqa_rad_official slake_bilingual --data-root ~/data --out reports
    """
    from vlmed.errors import UsageError
    from vlmed.results.compare import manifests_of

    if sum((bool(tasks), every, across)) != 1:
        raise UsageError("name tasks, or give one of --all and --across", hint="vlmed leakage breastmnist")
    if across and (out or ids_only):
        raise UsageError("--across reads manifests alone", got="--out" if out else "--ids-only", hint="leave it out")
    loaded = suite_of(suite)
    if across:
        rows = _across(loaded, manifests_of(suite))
    else:
        chosen = loaded.current_tasks() if every else [loaded.task(name) for name in tasks or ()]
        rows = _look_at_all(chosen, data_loader(data_root, suite), ids_only, out, skip_missing=every)
    if as_json:
        print_json(rows)
    elif across:
        _print(rows, "What tasks share with one another", text=("task_a", "task_b", "by", "reason"))
    else:
        _print(rows, "Test samples that meet train or val", text=("task",))
    if out:
        typer.echo(f"reports: {out}", err=True)


def _across(suite: Suite, folder: Path) -> list[dict[str, Any]]:
    from vlmed.leakage.across import find_shared
    from vlmed.suite.manifest import read_manifest

    tasks = suite.current_tasks()
    manifests = {task.id: read_manifest(task, folder) for task in tasks if not task.pending}
    return [shared.to_json() for shared in find_shared(tasks, manifests)]


def _look_at_all(
    tasks: Iterable[Task], loader: DataLoader, ids_only: bool, out: Path | None, skip_missing: bool
) -> list[dict[str, Any]]:
    """The summaries of the tasks' reports, which go into `out` where that is given."""
    from vlmed.errors import MissingError
    from vlmed.leakage.report import write_report

    summaries = []
    for task in tasks:
        try:
            report, image_of = _look(task, loader, ids_only)
        except MissingError as error:
            if not skip_missing:
                raise
            typer.echo(f"{task.id}: left out, {error.problems[0].what}", err=True)
            continue
        summaries.append(report.summary())
        if out:
            write_report(out, report, image_of)
    return summaries


def _look(task: Task, loader: DataLoader, ids_only: bool) -> tuple[Report, ImageOf | None]:
    from vlmed.leakage.find import find_leaks
    from vlmed.leakage.report import Report

    table = loader.table(task, images=not ids_only)
    image_of = None if ids_only else loader.dataset(task.dataset).image
    return Report(table, find_leaks(table, image_of, loader.progress)), image_of


def _print(rows: Sequence[Mapping[str, Any]], title: str, text: Sequence[str]) -> None:
    """A table of rows with equal keys; numbers stand on the right, and None is left blank."""
    from rich.table import Table

    if not rows:
        typer.echo(f"{title}: nothing to show")
        return
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="left" if name in text else "right", overflow="fold")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else value or "" for value in row.values()))
    print_table(table)
