"""`vlmed tasks`: what is frozen, and the proof that it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmed.cli.common import JsonOption, SuiteOption, note, print_json, print_problems, print_table, suite_of, tell

if TYPE_CHECKING:
    from vlmed.suite.types import Suite, Task

app = typer.Typer()


@app.callback(invoke_without_command=True)
def tasks(
    context: typer.Context,
    tracks: Annotated[bool, typer.Option("--tracks", help="List the tracks instead.")] = False,
    as_json: JsonOption = False,
    suite: SuiteOption = None,
) -> None:
    """List, show and check the frozen tasks. Without a command, list them.

    Example: vlmed tasks
    """
    if context.invoked_subcommand:
        _refuse_misplaced(context)
        return
    loaded = suite_of(suite)
    rows = _track_rows(loaded) if tracks else [_task_row(task) for task in loaded.current_tasks()]
    if as_json:
        print_json(rows)
    else:
        _print_rows(rows, f"vlmed suite {loaded.version}")


@app.command()
def show(name: str, as_json: JsonOption = False, suite: SuiteOption = None) -> None:
    """Show one task whole: data, classes, prompts, split, metrics, digest.

    Example: vlmed tasks show breastmnist
    """
    task = suite_of(suite).task(name)
    facts = _facts(task)
    if as_json:
        print_json(facts)
    else:
        import yaml

        typer.echo(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=110), nl=False)


@app.command()
def check(as_json: JsonOption = False, suite: SuiteOption = None) -> None:
    """Prove the whole frozen suite: schema, meaning, manifests, ledger. Needs no data.

    Example: vlmed tasks check
    """
    from vlmed.cli.frozen import borrows, ledger_of
    from vlmed.results.compare import manifests_of
    from vlmed.suite.check import check_suite

    loaded = suite_of(suite)
    problems = check_suite(loaded, manifests_of(suite), ledger_of(suite))
    pending = sum(task.pending for task in loaded.tasks.values())
    frozen = len(loaded.tasks) - pending
    if as_json:
        told = [problem.to_json() for problem in problems]
        print_json({"suite": loaded.version, "frozen": frozen, "pending": pending, "problems": told})
    else:
        print_problems(problems)
    if problems:
        typer.echo(f"{len(problems)} problems in suite {loaded.version}", err=True)
        if suite and borrows(suite):
            note(f"it was held against vlmed's own ledger; `vlmed tasks freeze --suite {suite}` begins one beside it")
        raise typer.Exit(1)
    if as_json:
        return
    typer.echo(f"suite {loaded.version}: {frozen} tasks proved frozen, {pending} wait for their manifest, no problems")


@app.command()
def freeze(as_json: JsonOption = False, suite: SuiteOption = None) -> None:
    """For maintainers: write the digests of new task versions into the ledger.

    The ledger of another task file than vlmed's lies beside it, and so do its manifests; both are begun if need be.

    Example: vlmed tasks freeze
    """
    from vlmed.cli.frozen import ledger_of, own_manifests
    from vlmed.suite.ledger import freeze as freeze_suite

    loaded = suite_of(suite)
    own_manifests(suite)
    ledger = ledger_of(suite)
    added = freeze_suite(loaded, ledger)
    tell(
        {"ledger": ledger, "frozen": added},
        f"frozen: {', '.join(added)}" if added else "nothing new to freeze",
        as_json,
    )


@app.command()
def pages(
    folder: Annotated[Path, typer.Argument(help="Where the pages go.")] = Path("docs/tasks"),
    as_json: JsonOption = False,
    suite: SuiteOption = None,
) -> None:
    """Write a Markdown page per task, and an index, from the definitions and the frozen manifests.

    Example: vlmed tasks pages docs/tasks
    """
    from vlmed.files import write_text
    from vlmed.results.compare import manifests_of
    from vlmed.suite.pages import suite_pages

    made = suite_pages(suite_of(suite), manifests_of(suite))
    for name, text in made.items():
        write_text(folder / name, text)
    tell({"pages": [folder / name for name in made]}, f"{len(made)} pages: {folder}", as_json)


def _refuse_misplaced(context: typer.Context) -> None:
    """An option before the command would be lost: `tasks --suite mine.yaml check` would prove another suite."""
    from vlmed.errors import UsageError

    if lost := [name for name, value in context.params.items() if value]:
        command = f"vlmed tasks {context.invoked_subcommand}"
        raise UsageError(f"options stand after the command: {command} ...", got=", ".join(lost))


def _task_row(task: Task) -> dict[str, Any]:
    return {
        "task": task.id,
        "kind": task.kind,
        "data set": task.dataset.title,
        "modality": task.dataset.modality,
        "access": task.dataset.access,
        "main metric": task.main_metric,
        "tracks": ", ".join(task.tracks),
        "manifest": "pending" if task.pending else "frozen",
    }


def _track_rows(suite: Suite) -> list[dict[str, Any]]:
    return [
        {"track": track.id, "method": track.method, "title": track.title, "digest": track.digest[:12]}
        for track in suite.tracks.values()
    ]


def _facts(task: Task) -> dict[str, Any]:
    dataset = task.dataset
    return {
        "task": task.id,
        "title": task.title,
        "kind": task.kind,
        "digest": task.digest,
        "manifest": task.manifest,
        "ranked": task.ranked,
        "notes": task.notes,
        "data set": {
            "name": dataset.name,
            "title": dataset.title,
            "modality": dataset.modality,
            "licence": dataset.licence,
            "access": dataset.access,
            "homepage": dataset.homepage,
            "layout": dataset.layout,
            "group": dataset.identity,
        },
        "split": {name: value for name, value in vars(task.split).items() if value},
        "classes": {spec.name: list(spec.values) for spec in task.classes},
        "prompts": {
            group: {label: list(texts) for label, texts in classes.items()} for group, classes in task.prompts.items()
        },
        "metrics": list(task.metrics),
        "main metric": task.main_metric,
        "tracks": list(task.tracks),
    }


def _print_rows(rows: list[dict[str, Any]], title: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    print_table(table)
