"""`vlmed validate`: runs that anyone can believe."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmed.cli.common import JsonOption, SuiteOption, print_json, print_problems, refuse_unfinished, suite_of

if TYPE_CHECKING:
    from vlmed.errors import Problem
    from vlmed.results.many import Draw
    from vlmed.results.plausible import Flag
    from vlmed.results.validate import Report
    from vlmed.suite.types import Suite

# Of more runs than these, the intervals of a seeded draw of units are recomputed.
_FEW = 20
_SHARE = 0.02


def validate(
    paths: Annotated[list[Path], typer.Argument(help="Runs, files in runs, or folders of submissions.")],
    intervals: Annotated[bool, typer.Option(help="Recompute the intervals too.")] = True,
    full: Annotated[bool, typer.Option("--full", help="Of many runs, recompute all intervals, not a draw.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the draw; a new one by default.")] = None,
    against: Annotated[
        str, typer.Option(metavar="REVISION", help="See that nothing published at this git revision changes.")
    ] = "",
    cache: Annotated[Path | None, typer.Option(help="Keep verdicts here; unchanged runs are not read twice.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    as_json: JsonOption = False,
    github: Annotated[bool, typer.Option("--github", help="Print annotations for GitHub Actions.")] = False,
    suite: SuiteOption = None,
) -> None:
    """Recompute every number of runs from their prediction files. Needs no data, no network, no torch.

    Exit code: 0 accepted, 1 refused, 2 no readable result.

    Example: vlmed validate submissions/
    """
    from vlmed.errors import errors_in
    from vlmed.results.compare import manifests_of
    from vlmed.results.many import Validator
    from vlmed.results.validate import find_runs

    for path in paths:
        refuse_unfinished(path)
    changed = _changed(paths, against) if against else []
    runs = list(dict.fromkeys(run for path in paths for run in find_runs(path)))
    chosen = intervals_of(len(runs), seed, full) if intervals else False
    loaded, manifests = suite_of(suite), manifests_of(suite)
    # Whoever sends a run may hope that a draw passes it over.
    new = set(_new(paths, against)) if against else set()
    found: dict[Path, Report] = {}
    for share, some in ((intervals, new), (chosen, set(runs) - new)):
        validator = Validator(loaded, manifests, share, cache)
        found |= {report.folder: report for report in validator.reports([run for run in runs if run in some], jobs)}
    reports = [found[run] for run in runs]
    looked_at = _looked_at(paths, runs, against)
    flags = {report.folder: _flags(report, loaded, manifests) if report.folder in looked_at else []
             for report in reports}  # fmt: skip
    if as_json:
        print_json([_facts(report, flags[report.folder]) for report in reports])
    for report in reports if not as_json else []:
        _tell(report, flags[report.folder], github)
    _print_changed(changed, github)
    if any(report.unreadable for report in reports):
        raise typer.Exit(2)
    if not all(report.accepted for report in reports) or errors_in(changed):
        raise typer.Exit(1)


def intervals_of(runs: int, seed: int | None = None, full: bool = False) -> bool | Draw:
    """Of which units of so many runs the intervals are recomputed; tells of a draw."""
    from vlmed.results.many import Draw

    if full or runs <= _FEW:
        return True
    chosen = secrets.randbelow(2**32) if seed is None else seed
    typer.echo(
        f"intervals: a draw of {_SHARE:.0%} of the units; repeat it with --seed {chosen}, or all by --full", err=True
    )
    return Draw(_SHARE, chosen)


def _changed(paths: list[Path], revision: str) -> list[Problem]:
    from vlmed.results.history import history_problems

    return [problem for path in paths if path.is_dir() for problem in history_problems(path, revision)]


def _new(paths: list[Path], revision: str) -> list[Path]:
    from vlmed.results.history import new_runs

    return [run for path in paths if path.is_dir() for run in new_runs(path, revision)]


def _looked_at(paths: list[Path], runs: list[Path], revision: str) -> list[Path]:
    """The runs whose flags are shown: few ones, or what is new against a revision, since each is held beside all."""
    if len(runs) > _FEW and revision:
        runs = _new(paths, revision)
    if len(runs) <= _FEW:
        return runs
    typer.echo(f"flags: not looked for in {len(runs)} runs; name at most {_FEW} to see them", err=True)
    return []


def _print_changed(changed: list[Problem], github: bool) -> None:
    if github:
        for problem in changed:
            typer.echo(annotation(problem))
    else:
        print_problems(changed)


def _flags(report: Report, suite: Suite, manifests: Path) -> list[Flag]:
    """What a human should look at; a run that nobody has submitted yet stands beside no others."""
    from vlmed.results.plausible import flags_of

    folder = report.folder.resolve()
    beside = folder.parent.parent if "__" in folder.parent.name else folder
    return flags_of(report.folder, beside, suite, manifests) if report.accepted else []


def _facts(report: Report, flags: Sequence[Flag]) -> dict[str, Any]:
    return {
        "run": str(report.folder),
        "accepted": report.accepted,
        "recomputed": report.recomputed,
        "problems": [problem.to_json() for problem in report.problems],
        "flags": [flag.to_json() for flag in flags],
    }


def _tell(report: Report, flags: Sequence[Flag], github: bool) -> None:
    from vlmed.errors import errors_in

    if github:
        for problem in report.problems:
            typer.echo(annotation(problem))
    else:
        print_problems(report.problems)
    for flag in flags:
        typer.echo(f"::notice title=look at this::{_escaped(str(flag))}" if github else f"look at this: {flag}")
    verdict = "accepted" if report.accepted else f"refused, {len(errors_in(report.problems))} errors"
    typer.echo(f"{report.folder}: {verdict}; {report.recomputed} metrics recomputed")


def annotation(problem: Problem) -> str:
    """A problem as a workflow command of GitHub Actions, which shows it beside the file.

    >>> from vlmed.errors import Problem
    >>> annotation(Problem("wrong, here", "a/result.json", "$.x", got="1"))
    '::error file=a/result.json,title=wrong%2C here::$.x: wrong, here%0A  got: 1'
    """
    file = os.path.relpath(problem.file) if Path(problem.file).is_absolute() else problem.file
    message = "\n".join(_lines(problem))
    places = {"file": file, "title": problem.what}
    listed = ",".join(f"{name}={_escaped(text, ':,')}" for name, text in places.items() if text)
    return f"::{problem.severity} {listed}::{_escaped(message)}"


def _lines(problem: Problem) -> Iterator[str]:
    yield f"{problem.path}: {problem.what}" if problem.path else problem.what
    details = (("expected", problem.expected), ("got", problem.got), ("next", problem.hint))
    yield from (f"  {name}: {text}" for name, text in details if text)


def _escaped(text: str, further: str = "") -> str:
    """Text in which nothing ends the command, or one of its properties, early."""
    return "".join(f"%{ord(mark):02X}" if mark in f"%\r\n{further}" else mark for mark in text)
