"""`vlmed validate` and `vlmed submit`: runs that anyone can believe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlmed.cli.common import JsonOption, SuiteOption, print_json, print_problems, suite_of


def validate(
    paths: Annotated[list[Path], typer.Argument(help="Run folders, or folders of submissions.")],
    intervals: Annotated[bool, typer.Option(help="Recompute the intervals too.")] = True,
    as_json: JsonOption = False,
    suite: SuiteOption = None,
) -> None:
    """Recompute every number of runs from their prediction files. Needs no data, no network, no torch.

    Exit code: 0 accepted, 1 refused, 2 no readable result.

    Example: vlmed validate submissions/
    """
    from vlmed.errors import errors_in
    from vlmed.results.validate import find_runs, validate_run

    loaded = suite_of(suite)
    reports = [validate_run(run, loaded, intervals=intervals) for path in paths for run in find_runs(path)]
    if as_json:
        print_json([
            {
                "run": str(report.folder),
                "accepted": report.accepted,
                "recomputed": report.recomputed,
                "problems": [problem.to_json() for problem in report.problems],
            }
            for report in reports
        ])  # fmt: skip
    else:
        for report in reports:
            print_problems(report.problems)
            verdict = "accepted" if report.accepted else f"refused, {len(errors_in(report.problems))} errors"
            typer.echo(f"{report.folder}: {verdict}; {report.recomputed} metrics recomputed")
    if any(report.unreadable for report in reports):
        raise typer.Exit(2)
    if not all(report.accepted for report in reports):
        raise typer.Exit(1)


def submit(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    org: Annotated[str, typer.Option(help="Your organisation.")],
    model: Annotated[str, typer.Option(help="The model's name on the leaderboard.")],
    name: Annotated[str, typer.Option("--run", help="Name of this run, such as a date.")] = "1",
    to: Annotated[Path, typer.Option(help="The folder of submissions.")] = Path("submissions"),
    suite: SuiteOption = None,
) -> None:
    """Validate a run and copy it into the folder of submissions, whole or not at all.

    Exit code: 0 copied, 1 refused, 2 no readable result, or a name that is taken or can't be a folder.

    Example: vlmed submit runs/my-model --org my-lab --model my-model
    """
    from vlmed.errors import InputError
    from vlmed.results.submit import submit as submit_run
    from vlmed.results.validate import validate_run

    report = validate_run(run, suite_of(suite))
    if report.unreadable:
        raise InputError(report.problems)
    print_problems(problem for problem in report.problems if problem.severity == "warning")
    target = submit_run(report, org, model, name, to)
    typer.echo(f"{target}\nnext: open a pull request that adds this folder")
