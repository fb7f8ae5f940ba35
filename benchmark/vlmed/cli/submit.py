"""`vlmed submit`: a run on its way to the leaderboard."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmed.cli.common import (
    JsonOption,
    SuiteOption,
    names,
    print_problems,
    refuse_unfinished,
    run_folder,
    suite_of,
    tell,
)
from vlmed.cli.submissions import SUBMISSIONS, result_of

if TYPE_CHECKING:
    from vlmed.results.description import Description


def submit(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    org: Annotated[str, typer.Option(help="Your organisation.")],
    model: Annotated[str, typer.Option(help="The model's name on the leaderboard.")],
    name: Annotated[str, typer.Option("--run", help="Name of this run, such as a date.")] = "1",
    to: Annotated[Path, typer.Option(help="The folder of submissions.")] = SUBMISSIONS,
    licence: Annotated[str, typer.Option(help="Licence of the weights, such as apache-2.0.")] = "",
    trained_on: Annotated[
        list[str] | None,
        typer.Option(metavar="NAMES", help="Training corpora by their names in corpora.yaml; 'none' for none."),
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
    as_json: JsonOption = False,
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

    run = run_folder(run)
    refuse_unfinished(run)
    if not (run / "result.json").is_file():
        hint = "name a finished run folder, the --out of `vlmed run`"
        raise InputError("there is no result here", file=run, hint=hint)
    if card:
        facts, text = _offer_to_card(run, f"{org}__{model}/{name}", card, dry_run, suite)
        tell(facts, text, as_json)
        return
    corpora = ",".join(trained_on or ())
    said = {"licence": licence, "trained_on": corpora, "trained_on_other": trained_on_other, "contact": contact,
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
        tell({"submission": target}, f"{target}\nnext: open a pull request that adds this folder", as_json)
        return
    new_place(run, org, model, name, to)
    with tempfile.TemporaryDirectory() as folder:
        made = submit_run(report, org, model, name, Path(folder) / "submissions")
        facts, text = _would_add(made, to, hub) if dry_run else _offer(made, hub)
    tell(facts, text, as_json)


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
    found, known = [] if listed == "none" else names([listed]), load_graph().corpora
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


# What a command has done or would do, for a program and for a person.
_Told = tuple[dict[str, Any], str]


def _offer(folder: Path, hub: str) -> _Told:
    from vlmed.results.publish import open_pull_request

    address = open_pull_request(folder, hub, f"Add {folder.parent.name}/{folder.name}")
    return {"pull_request": address}, f"{address}\nnext: wait for the keepers of {hub} to merge it"


def _would_add(folder: Path, to: Path, hub: str) -> _Told:
    place, described = f"{folder.parent.name}/{folder.name}", folder / "submission.json"
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    text = described.read_text("utf-8") if described.exists() else ""
    lines = [f"would open a pull request on {hub} that adds {place}:" if hub else f"would write {to / place}:"]
    lines += [f"  {name}  {size} bytes" for name, size in sizes.items()]
    facts = {"dry_run": True, "submission": to / place, "hub": hub, "files": sizes}
    return facts | {"description": json.loads(text) if text else None}, "\n".join([*lines, text.rstrip()]).rstrip()


def _offer_to_card(run: Path, place: str, card: str, dry_run: bool, suite: Path | None) -> _Told:
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
    result = result_of(run)
    check_repository(result["model"], card)
    before, after, commit = card_changes(card, list(evaluations_of(result, loaded, place)))
    if dry_run:
        changes = "\n".join(unified_diff(before.splitlines(), after.splitlines(), "before", "after", lineterm=""))
        text = f"would open a pull request on {card} that changes its card:\n{changes}"
        return {"dry_run": True, "card": card, "changes": changes}, text
    address = offer_card(card, after, commit, "Add evaluation results of vlmed")
    return {"pull_request": address}, f"{address}\nnext: wait for the owners of {card} to merge it"
