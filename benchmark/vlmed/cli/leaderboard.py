"""`vlmed leaderboard`: submissions -> a ranked, static site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmed.cli.common import JsonOption, SuiteOption, print_json, print_problems, print_table, suite_of

if TYPE_CHECKING:
    from vlmed.leaderboard.build import Leaderboard
    from vlmed.leaderboard.rank import Row, Table

app = typer.Typer(help="Rank validated submissions.", no_args_is_help=True)


@app.callback()
def _leaderboard() -> None:
    """Rank validated submissions."""


@app.command()
def build(
    submissions: Annotated[Path, typer.Argument(help="The folder of submissions.")] = Path("submissions"),
    out: Annotated[Path, typer.Option(help="Folder of the site; an earlier site in it is replaced.")] = Path(
        "leaderboard"
    ),
    intervals: Annotated[bool, typer.Option(help="Recompute the runs' intervals when validating them.")] = True,
    as_json: JsonOption = False,
    suite: SuiteOption = None,
) -> None:
    """Build a static site of all submissions that validation accepts. Needs no data, no network, no torch.

    Example: vlmed leaderboard build submissions --out leaderboard
    """
    from vlmed.leaderboard.build import build as build_site
    from vlmed.leaderboard.export import leaderboard_json
    from vlmed.models.cards import find_card

    built = build_site(submissions, out, suite_of(suite), intervals=intervals, find_card=find_card)
    for run in built.submissions.refused:
        print_problems(run.problems)
        typer.echo(f"left out: {run.path}", err=True)
    if as_json:
        data = leaderboard_json(built.board)
        print_json({"page": str(built.page), **data})
    else:
        _print(built)


def _print(built: Leaderboard) -> None:
    for table in built.tables:
        print_table(_terminal_table(table))
    if not built.tables:
        typer.echo("no accepted submission, so nothing is ranked")
    typer.echo(f"{len(built.submissions.entries)} runs accepted, {len(built.submissions.refused)} left out")
    typer.echo(f"page: {built.page}")


def _terminal_table(ranked: Table) -> Any:
    from rich.markup import escape
    from rich.table import Table as RichTable

    phantom = "" if ranked.task.dataset.medical else " (phantom)"
    table = RichTable(title=f"{ranked.task.id} · {ranked.track.id}{phantom}", title_justify="left")
    for name in ("rank", "model", "adapter"):
        table.add_column(name, overflow="fold")
    for name in (f"{ranked.task.main_metric} ({ranked.part})", "95 % interval", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("contamination")
    for row in ranked.rows:
        table.add_row(*map(escape, _cells(ranked, row)), style="dim" if row.entry.control else None)
    return table


def _cells(table: Table, row: Row) -> list[str]:
    from vlmed.leaderboard.html import span

    model = row.entry.result["model"]
    rank = span(row.rank) if row.rank else "control" if row.entry.control else "–"
    adapter = f"{model['adapter']['peft_type']} {model['adapter']['ref']}" if model["adapter"] else ""
    value = row.note if row.value is None else f"{row.value:.3f}"
    interval = "" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"
    seen = row.contamination.status if row.contamination else ""
    return [rank, f"{row.entry.org}/{row.entry.model}", adapter, value, interval, str(row.n(table.part)), seen]
