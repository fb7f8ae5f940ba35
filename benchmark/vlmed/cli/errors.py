"""`vlmed errors`: in what way the answers of a run are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmed.cli.common import (
    DataOption,
    JsonOption,
    SuiteOption,
    data_loader,
    print_json,
    print_table,
    refuse_unfinished,
    suite_of,
)

if TYPE_CHECKING:
    from vlmed.results.error_report import ClassCount, UnitErrors


def errors(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    judged: Annotated[bool, typer.Option("--judged", help="Let the run's judge tell paraphrases.")] = False,
    data_root: DataOption = None,
    as_json: JsonOption = False,
    suite: SuiteOption = None,
) -> None:
    """Count the wrong answers of a run by error class: language, cross-modal, medical reasoning.

    Needs the data, which hold the questions; no judge, no network. docs/vqa.md tells how far the rules can be trusted.

    Example: vlmed errors runs/my-model
    """
    from vlmed.results.compare import read_run
    from vlmed.results.error_report import run_errors

    refuse_unfinished(run)
    found = run_errors(read_run(run), suite_of(suite), data_loader(data_root, suite), judged)
    if as_json:
        print_json([unit.to_json() for unit in found])
        return
    for unit in found:
        _print(unit)


def _print(unit: UnitErrors) -> None:
    from rich.table import Table

    table = Table(title=f"{unit.unit}: {unit.wrong} of {unit.n} answers are wrong")
    for name in ("family", "class", "n", "share of the wrong", "such as"):
        table.add_column(name, justify="right" if name == "n" else "left")
    for each in unit.classes:
        table.add_row(each.family, each.name, str(each.n), _share(each), ", ".join(each.samples))
    print_table(table)


def _share(each: ClassCount) -> str:
    share = each.share
    if share.value is None:
        return ""
    between = "" if share.low is None or share.high is None else f" [{share.low:.1%}, {share.high:.1%}]"
    return f"{share.value:.1%}{between}"
