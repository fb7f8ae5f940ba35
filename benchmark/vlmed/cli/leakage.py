"""`vlmed leakage`: where test samples meet training samples, found and proved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmed.cli.common import DataOption, JsonOption, SuiteOption, data_loader, print_json, print_table, suite_of

if TYPE_CHECKING:
    from vlmed.data.load import DataLoader
    from vlmed.leakage.report import Report
    from vlmed.suite.types import Task


def leakage(
    tasks: Annotated[list[str] | None, typer.Argument(help="Task names.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every task whose data are at hand.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for a report per task, JSON and HTML.")] = None,
    ids_only: Annotated[bool, typer.Option("--ids-only", help="Compare groups and texts; needs no images.")] = False,
    as_json: JsonOption = False,
    data_root: DataOption = None,
    suite: SuiteOption = None,
) -> None:
    """Find what test shares with train and val: pixels, groups, near-duplicates, texts.

    Example: vlmed leakage vqa_rad_official slake_bilingual --data-root ~/data --out reports
    """
    from vlmed.errors import MissingError, UsageError
    from vlmed.leakage.report import write_report

    loaded = suite_of(suite)
    if bool(tasks) == every:
        raise UsageError("name tasks, or all of them with --all", hint="vlmed leakage breastmnist")
    loader = data_loader(data_root)
    summaries = []
    for task in loaded.current_tasks() if every else map(loaded.task, tasks or ()):
        try:
            report = _look(task, loader, ids_only)
        except MissingError as error:
            if not every:
                raise
            typer.echo(f"{task.id}: left out, {error.problems[0].what}", err=True)
            continue
        summaries.append(report.summary())
        if out:
            write_report(out, report, None if ids_only else loader.dataset(task.dataset).image)
    if as_json:
        print_json(summaries)
    else:
        _print(summaries)
    if out:
        typer.echo(f"reports: {out}")


def _look(task: Task, loader: DataLoader, ids_only: bool) -> Report:
    from vlmed.leakage.find import find_leaks
    from vlmed.leakage.report import Report

    table = loader.table(task, images=not ids_only)
    image_of = None if ids_only else loader.dataset(task.dataset).image
    return Report(table, find_leaks(table, image_of, loader.progress))


def _print(reports: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(title="Test samples that meet train or val", title_justify="left")
    for name in ("task", "test", "pixels", "group", "near", "text", "leaked", "clean"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for report in reports:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in report.values()))
    print_table(table)
