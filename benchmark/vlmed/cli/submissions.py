"""`vlmed submit` and `vlmed submissions`: runs on their way to the leaderboard, and those that are there."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmed.cli.common import (
    DataOption,
    JsonOption,
    SuiteOption,
    data_loader,
    names,
    print_json,
    print_problems,
    print_table,
    suite_of,
)

if TYPE_CHECKING:
    from vlmed.results.description import Description

app = typer.Typer(
    help="Look at submissions, and take them back.\n\nExample: vlmed submissions list", no_args_is_help=True
)

FolderOption = Annotated[Path, typer.Option("--in", help="The folder of submissions.")]
RunArgument = Annotated[str, typer.Argument(help="ORG__MODEL/RUN, or a run folder.")]
SUBMISSIONS = Path("submissions")


def submit(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    org: Annotated[str, typer.Option(help="Your organisation.")],
    model: Annotated[str, typer.Option(help="The model's name on the leaderboard.")],
    name: Annotated[str, typer.Option("--run", help="Name of this run, such as a date.")] = "1",
    to: Annotated[Path, typer.Option(help="The folder of submissions.")] = SUBMISSIONS,
    licence: Annotated[str, typer.Option(help="Licence of the weights, such as apache-2.0.")] = "",
    trained_on: Annotated[
        str | None, typer.Option(help="Training corpora by their names in corpora.yaml; 'none' for none.")
    ] = None,
    trained_on_other: Annotated[str, typer.Option(help="Training data that have no such name, in words.")] = "",
    fingerprint: Annotated[Path | None, typer.Option(help="Of your training images: vlmed fingerprint.")] = None,
    contact: Annotated[str, typer.Option(help="Whom to ask.")] = "",
    paper: Annotated[str, typer.Option(help="https address.")] = "",
    code: Annotated[str, typer.Option(help="https address.")] = "",
    supersedes: Annotated[str, typer.Option(help="The run of this model that this one corrects.")] = "",
    hub: Annotated[
        str, typer.Option(metavar="OWNER/NAME", help="Open a pull request on this data set repository of the Hub.")
    ] = "",
    card: Annotated[
        str, typer.Option(metavar="OWNER/MODEL", help="Instead, offer the metrics to this model's own card on the Hub.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show all that would be done; publish nothing.")] = False,
    suite: SuiteOption = None,
) -> None:
    """Validate a run and copy it into the folder of submissions, whole or not at all; or offer it to a Hub repository.

    On a terminal, what no flag says is asked for. What you say is kept in the run's `submission.json`. With --card
    the metrics become evaluation results in the model's own card, by a pull request that keeps all that stands there.

    Exit code: 0 submitted, 1 refused, 2 no readable result, or a name that is taken or can't be a folder.

    Example: vlmed submit runs/my-model --org my-lab --model my-model --licence mit --trained-on pmc_15m
    """
    from vlmed.errors import InputError
    from vlmed.results.compare import manifests_of
    from vlmed.results.submit import describe, kept_if_right, new_place
    from vlmed.results.submit import submit as submit_run
    from vlmed.results.validate import validate_run

    if not (run / "result.json").is_file():
        hint = "name a finished run folder, the --out of `vlmed run`"
        raise InputError("there is no result here", file=run, hint=hint)
    if card:
        _offer_to_card(run, f"{org}__{model}/{name}", card, dry_run, suite)
        return
    said = {"licence": licence, "trained_on": trained_on, "trained_on_other": trained_on_other, "contact": contact,
            "paper": paper, "code": code, "supersedes": supersedes}  # fmt: skip
    described = _described(said, bool(fingerprint), (run / "submission.json").exists())
    with kept_if_right(run) as problems:
        if described:
            describe(run, described, fingerprint)
        report = validate_run(run, suite_of(suite), manifests_of(suite))
        problems += report.problems
    if report.unreadable:
        raise InputError(report.problems)
    print_problems(problem for problem in report.problems if problem.severity == "warning")
    if not (hub or dry_run):
        target = submit_run(report, org, model, name, to)
        typer.echo(f"{target}\nnext: open a pull request that adds this folder")
        return
    new_place(run, org, model, name, to)
    with tempfile.TemporaryDirectory() as folder:
        _offer(submit_run(report, org, model, name, Path(folder) / "submissions"), to, hub, dry_run)


def _described(said: Mapping[str, str | None], fingerprint: bool, before: bool) -> Description | None:
    """What the submitter says; None where nothing is said and nobody can be asked."""
    from vlmed.errors import UsageError
    from vlmed.results.description import Description, Training

    if not said["licence"] and not before and sys.stdin.isatty():
        said = _asked(said)
    if not said["licence"]:
        if fingerprint or any(said.values()):
            raise UsageError("a description of the model needs its licence", hint="add --licence, such as mit")
        return None
    for option in ("paper", "code"):
        if said[option] and not str(said[option]).startswith("https://"):
            raise UsageError(f"--{option} takes an address", expected="https://...", got=str(said[option]))
    return Description(
        date=str(date.today()),
        licence=said["licence"],
        training=Training(_corpora(said["trained_on"]), said["trained_on_other"] or ""),
        contact=said["contact"] or "",
        paper=said["paper"] or "",
        code=said["code"] or "",
        supersedes=said["supersedes"] or None,
    )


def _corpora(listed: str | None) -> list[str] | None:
    from vlmed.errors import UsageError, unknown
    from vlmed.leakage.contamination import load_graph

    if not listed:
        return None
    found, known = [] if listed == "none" else names(listed), load_graph().corpora
    hint = "docs/contamination.md lists them; what is not there goes into --trained-on-other"
    problems = [unknown("corpus", name, known, hint).problems[0] for name in found if name not in known]
    if problems:
        raise UsageError(problems)
    return found


_QUESTIONS = {
    "licence": "Licence of the weights, such as mit",
    "trained_on": "Training corpora, by their names in corpora.yaml, separated by commas; 'none' for none",
    "trained_on_other": "Training data that have no such name",
    "contact": "Contact",
    "paper": "Address of the paper (https)",
    "code": "Address of the code (https)",
}


def _asked(said: Mapping[str, str | None]) -> dict[str, str | None]:
    answers = dict(said)
    for name, question in _QUESTIONS.items():
        if not answers[name]:
            answers[name] = typer.prompt(question, default="", show_default=False)
    return answers


def _offer(folder: Path, to: Path, hub: str, dry_run: bool) -> None:
    from vlmed.results.publish import open_pull_request

    place = f"{folder.parent.name}/{folder.name}"
    if not dry_run:
        typer.echo(f"{open_pull_request(folder, hub, f'Add {place}')}\nnext: wait for the keepers of {hub} to merge it")
        return
    typer.echo(f"would open a pull request on {hub} that adds {place}:" if hub else f"would write {to / place}:")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        typer.echo(f"  {path.relative_to(folder).as_posix()}  {path.stat().st_size} bytes")
    if (folder / "submission.json").exists():
        typer.echo((folder / "submission.json").read_text("utf-8"), nl=False)


def _offer_to_card(run: Path, place: str, card: str, dry_run: bool, suite: Path | None) -> None:
    from difflib import unified_diff

    from vlmed.errors import CheckError, errors_in
    from vlmed.results.compare import manifests_of
    from vlmed.results.hub_card import check_repository, evaluations_of
    from vlmed.results.publish import card_changes, offer_card
    from vlmed.results.validate import validate_run

    loaded = suite_of(suite)
    report = validate_run(run, loaded, manifests_of(suite))
    if not report.accepted:
        raise CheckError(errors_in(report.problems))
    result = _result(run)
    check_repository(result["model"], card)
    before, after, commit = card_changes(card, list(evaluations_of(result, loaded, place)))
    if dry_run:
        typer.echo(f"would open a pull request on {card} that changes its card:")
        typer.echo("\n".join(unified_diff(before.splitlines(), after.splitlines(), "before", "after", lineterm="")))
    else:
        title = "Add evaluation results of vlmed"
        typer.echo(f"{offer_card(card, after, commit, title)}\nnext: wait for the owners of {card} to merge it")


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

    result = _result(run)
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
    result, described = _result(place), read_description(place)
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
    ours, theirs = (dict(_leaves(_comparable(_result(_place(run, folder))))) for run in (one, other))
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
) -> None:
    """Take a run back: its evidence stays, and the leaderboard leaves it out.

    Example: vlmed submissions retract my-lab__my-model/1 --reason "wrong checkpoint"
    """
    from vlmed.results.submit import retract as retract_run

    typer.echo(f"{retract_run(_place(run, folder), reason)}\nnext: open a pull request that adds this file")


def _place(run: str, folder: Path) -> Path:
    from vlmed.errors import UsageError

    for place in (folder / run, Path(run)):
        if (place / "result.json").is_file():
            return place
    raise UsageError("there is no such run", file=folder / run, hint="list them with `vlmed submissions list`")


def _result(run: Path) -> Any:
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
    path = audit_run(place, loaded, data_loader(data_root), samples, chosen, auditor,
                     lambda unit, verdict: typer.echo(f"{unit}: {verdict}"), device, trust_remote_code)  # fmt: skip
    verdict = read_json(path)["verdict"]
    typer.echo(f"{verdict}: {path}")
    if verdict != "confirmed":
        raise typer.Exit(1)
