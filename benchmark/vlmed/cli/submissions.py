"""`vlmed submissions` and `vlmed audit`: the runs that were submitted, and whether they say what is claimed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vlmed.cli.common import (
    DataOption,
    JsonOption,
    SuiteOption,
    data_loader,
    print_json,
    print_table,
    suite_of,
    tell,
)

app = typer.Typer(
    help="Look at submissions, and take them back.\n\nExample: vlmed submissions list", no_args_is_help=True
)

FolderOption = Annotated[Path, typer.Option("--in", help="The folder of submissions.")]
RunArgument = Annotated[str, typer.Argument(help="ORG__MODEL/RUN, or a run folder.")]
SUBMISSIONS = Path("submissions")


@app.command(name="list")
def list_submissions(
    folder: Annotated[Path, typer.Argument(help="The folder of submissions.")] = SUBMISSIONS,
    as_json: JsonOption = False,
) -> None:
    """List all runs that have a readable result, without validating them.

    Example: vlmed submissions list
    """
    from vlmed.results.validate import find_runs

    rows = [_row(run) for run in find_runs(folder)]
    if as_json:
        print_json(rows)
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    print_table(table)


def _row(run: Path) -> dict[str, Any]:
    from vlmed.results.description import RETRACTION, read_description

    result = result_of(run)
    described = read_description(run)
    return {
        "run": f"{run.parent.name}/{run.name}",
        "model": result["model"]["ref"],
        "revision": result["model"]["revision"][:19],
        "units": len(result["units"]),
        "date": described.date if described else "",
        "licence": described.licence if described else "",
        "state": "retracted" if (run / RETRACTION).exists() else _audited(run, result),
    }


def _audited(run: Path, result: Mapping[str, Any]) -> str:
    """What audits say of a run as a whole."""
    from vlmed.hashing import file_hash
    from vlmed.results.audits import contradicted, verified

    sha256 = file_hash(run / "result.json")
    if contradicted(run, sha256):
        return "contradicted"
    return "verified" if len(verified(run, result, sha256)) == len(result["units"]) else ""


@app.command()
def show(
    run: RunArgument,
    folder: FolderOption = SUBMISSIONS,
    as_json: JsonOption = False,
    suite: SuiteOption = None,
) -> None:
    """Show one run: model, description, main metrics, audits, and what a human should look at.

    Example: vlmed submissions show my-lab__my-model/1
    """
    from vlmed.hashing import file_hash
    from vlmed.results.audits import records_of
    from vlmed.results.compare import manifests_of
    from vlmed.results.description import read_description
    from vlmed.results.plausible import flags_of

    loaded, place = suite_of(suite), _place(run, folder)
    result, described = result_of(place), read_description(place)
    sha256 = file_hash(place / "result.json")
    facts = {
        "run": str(place),
        "model": result["model"],
        "description": described.to_json() if described else None,
        "metrics": [
            {"unit": unit["unit"], "metric": name, "samples": part, **estimate}
            for unit in result["units"]
            for name, part, estimate in _main_metrics(unit, loaded.tasks[unit["task"]].main_metric)
        ],
        "audits": [{"file": path.name, **record} for path, record in records_of(place, sha256)],
        "flags": [flag.to_json() for flag in flags_of(place, folder, loaded, manifests_of(suite))],
    }
    if as_json:
        print_json(facts)
    else:
        import yaml

        typer.echo(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=110), nl=False)


@app.command()
def diff(one: RunArgument, other: RunArgument, folder: FolderOption = SUBMISSIONS, as_json: JsonOption = False) -> None:
    """Show where two runs' models, units and numbers differ.

    Example: vlmed submissions diff my-lab__my-model/1 my-lab__my-model/2
    """
    ours, theirs = (dict(_leaves(_comparable(result_of(_place(run, folder))))) for run in (one, other))
    rows = [
        {"place": place, one: ours.get(place), other: theirs.get(place)}
        for place in sorted(ours.keys() | theirs.keys())
        if ours.get(place) != theirs.get(place)
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        typer.echo(f"{row['place']}\n  {one}: {row[one]}\n  {other}: {row[other]}")
    typer.echo(f"{len(rows)} differences")


@app.command()
def retract(
    run: RunArgument,
    reason: Annotated[str, typer.Option(help="Why, in a sentence that everyone may read.")],
    folder: FolderOption = SUBMISSIONS,
    as_json: JsonOption = False,
) -> None:
    """Take a run back: its evidence stays, and the leaderboard leaves it out.

    Example: vlmed submissions retract my-lab__my-model/1 --reason "wrong checkpoint"
    """
    from vlmed.results.submit import retract as retract_run

    path = retract_run(_place(run, folder), reason)
    tell({"retraction": path}, f"{path}\nnext: open a pull request that adds this file", as_json)


def _place(run: str, folder: Path) -> Path:
    from vlmed.errors import UsageError

    for place in (folder / run, Path(run)):
        if (place / "result.json").is_file():
            return place
    raise UsageError("there is no such run", file=folder / run, hint="list them with `vlmed submissions list`")


def result_of(run: Path) -> Any:
    """A run's result, its words printable whatever a stranger wrote."""
    from vlmed.results.document import read_document
    from vlmed.results.untrusted import printable

    return printable(read_document(run / "result.json", "result.schema.json").value)


def _main_metrics(unit: Mapping[str, Any], metric: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for part, metrics in unit["scores"]["metrics"].items():
        if metrics and metric in metrics:
            yield metric, part, metrics[metric]


def _comparable(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result in which units have names and not places."""
    return {**result, "units": {unit["unit"]: unit for unit in result["units"]}}


def _leaves(value: Any, place: str = "$") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, f"{place}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{place}[{index}]")
    else:
        yield place, value


def audit(
    run: RunArgument,
    auditor: Annotated[str, typer.Option(help="Who audits; stands in the record.")],
    samples: Annotated[int, typer.Option(min=1, help="Test samples drawn of each unit.")] = 64,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the draw; a new one by default.")] = None,
    folder: FolderOption = SUBMISSIONS,
    data_root: DataOption = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    trust_remote_code: Annotated[bool, typer.Option(help="Run the model repository's own code.")] = False,
    as_json: JsonOption = False,
    suite: SuiteOption = None,
) -> None:
    """Run a published model again on drawn samples, and write down whether it says what its submission claims.

    Exit code: 0 confirmed, 1 contradicted or incomplete.

    Example: vlmed audit my-lab__my-model/1 --auditor "Ada, vlmed" --samples 64
    """
    import secrets

    from vlmed.evaluate.audit import audit as audit_run
    from vlmed.files import read_json

    loaded, place = suite_of(suite), _place(run, folder)
    chosen = secrets.randbelow(2**32) if seed is None else seed
    path = audit_run(place, loaded, data_loader(data_root, suite), samples, chosen, auditor,
                     lambda unit, verdict: typer.echo(f"{unit}: {verdict}", err=as_json),
                     device, trust_remote_code)  # fmt: skip
    record = read_json(path)
    verdict = record["verdict"]
    tell({"file": path, **record}, f"{verdict}: {path}", as_json)
    if verdict != "confirmed":
        raise typer.Exit(1)
