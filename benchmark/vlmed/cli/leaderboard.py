"""`vlmed leaderboard`: submissions -> a ranked, static site."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmed.cli.common import JsonOption, SuiteOption, print_json, print_problems, print_table, suite_of, tell
from vlmed.cli.validate import intervals_of

if TYPE_CHECKING:
    from vlmed.leaderboard.build import Leaderboard
    from vlmed.leaderboard.rank import Row, Table

app = typer.Typer(
    help="Rank validated submissions.\n\nExample: vlmed leaderboard build submissions --out leaderboard",
    no_args_is_help=True,
)


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
    full: Annotated[bool, typer.Option("--full", help="Of many runs, recompute all intervals, not a draw.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the draw; a new one by default.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Keep verdicts, those of `vlmed validate --cache`, and what is drawn here.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    as_json: JsonOption = False,
    suite: SuiteOption = None,
) -> None:
    """Build a static site of all submissions that validation accepts. Needs no data, no network, no torch.

    Example: vlmed leaderboard build submissions --out leaderboard
    """
    from vlmed.leaderboard.build import build as build_site
    from vlmed.leaderboard.export import leaderboard_json
    from vlmed.models.cards import find_card
    from vlmed.results.compare import manifests_of

    runs = len(list(submissions.glob("*/*/result.json")))
    chosen = intervals_of(runs, seed, full) if intervals else False
    built = build_site(submissions, out, suite_of(suite), manifests_of(suite), chosen, find_card, cache, jobs)
    for run in built.submissions.refused:
        print_problems(run.problems)
        typer.echo(f"left out: {run.path}", err=True)
    if as_json:
        data = leaderboard_json(built.board)
        print_json({"page": str(built.page), **data})
    else:
        _print(built)


SiteArgument = Annotated[Path, typer.Argument(help="A built site.")]


@app.command()
def serve(
    site: SiteArgument = Path("leaderboard"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8000,
) -> None:
    """Show a built site in a browser on this machine; Ctrl-C ends it. A site that is built again is shown at once.

    Example: vlmed leaderboard serve --port 8000
    """
    from vlmed.leaderboard.serve import address, site_server

    with site_server(site, port) as server:
        typer.echo(f"{site} at {address(server)}, until Ctrl-C")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)


@app.command()
def publish(
    site: SiteArgument = Path("leaderboard"),
    pages: Annotated[Path | None, typer.Option(help="Folder for GitHub Pages, such as a worktree of gh-pages.")] = None,
    space: Annotated[str, typer.Option(help="owner/name of a static Space of the Hub; HF_TOKEN opens it.")] = "",
    message: Annotated[str, typer.Option(help="Of the commit to the Space.")] = "Build of the leaderboard",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and count; write and send nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a folder for GitHub Pages, or a static Space of the Hub, up to date with a built site.

    What an earlier site put there is replaced or removed, other files stay. Commit and push the folder yourself.

    Example: vlmed leaderboard publish --pages ../vlmed-pages
    """
    from vlmed.errors import UsageError
    from vlmed.leaderboard.publish import publish_pages
    from vlmed.leaderboard.space import publish_space

    if (pages is None) == (not space):
        raise UsageError("where to?", expected="either --pages FOLDER or --space OWNER/NAME")
    done = publish_pages(site, pages, dry_run) if pages else publish_space(site, space, message, dry_run)
    if as_json:
        print_json({**done.to_json(), "dry_run": dry_run})
    else:
        counts = f"{done.written} files written, {done.removed} removed, {done.kept} were there"
        size = f"{done.bytes / 1e6:.1f} MB in all"
        typer.echo(f"{'dry run: ' if dry_run else ''}{done.target}: {counts}, {size}")


class Format(StrEnum):
    """Whose schema results are written in."""

    HUB = "hub"
    EVERY_EVAL_EVER = "every-eval-ever"


@app.command()
def export(
    form: Annotated[Format, typer.Argument(metavar="FORMAT", help="hub or every-eval-ever.")],
    site: SiteArgument = Path("leaderboard"),
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("export"),
    model: Annotated[str, typer.Option(help="organisation/model; all of them by default.")] = "",
    as_json: JsonOption = False,
    suite: SuiteOption = None,
) -> None:
    """Write what a built site shows for other collections of results.

    hub: the front matter of a model card (`model-index`), a file per model. every-eval-ever: a record per run, at its
    place in that datastore.

    Example: vlmed leaderboard export hub --model openai/clip-vit-base-patch16 --out cards
    """
    from time import time

    from vlmed.files import write_text
    from vlmed.leaderboard.every_eval import record_files
    from vlmed.leaderboard.hub_export import card_files
    from vlmed.leaderboard.published_results import shown_runs

    runs, chosen = shown_runs(site, model), suite_of(suite)
    files = dict(card_files(runs, chosen) if form is Format.HUB else record_files(runs, chosen, int(time())))
    for name, text in files.items():
        write_text(out / name, text)
    if not runs:
        typer.echo("no model is ranked on this leaderboard", err=True)
    if runs or as_json:
        written = [out / name for name in files]
        tell({"files": written}, "\n".join(map(str, written)), as_json)


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
    from vlmed.leaderboard.texts import span

    model = row.entry.result["model"]
    rank = span(row.rank) if row.rank else "control" if row.entry.control else "–"
    adapter = f"{model['adapter']['peft_type']} {model['adapter']['ref']}" if model["adapter"] else ""
    value = row.note if row.value is None else f"{row.value:.3f}"
    interval = "" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"
    seen = row.contamination.status if row.contamination else ""
    return [rank, f"{row.entry.org}/{row.entry.model}", adapter, value, interval, str(row.n(table.part)), seen]
