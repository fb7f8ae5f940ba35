"""`vlmed doctor`: what works here, and how to mend what does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from vlmed.cli.common import DataOption, JsonOption, SuiteOption, print_json, suite_of

if TYPE_CHECKING:
    from vlmed.evaluate.doctor import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "missing": "red"}


def doctor(data_root: DataOption = None, as_json: JsonOption = False, suite: SuiteOption = None) -> None:
    """Tell what works here: software, GPU, disk, Hub, data sets; and how to mend what doesn't. Changes nothing.

    Exit code: 0 a run is possible, though some data may be missing; 1 it is not.

    Example: vlmed doctor --data-root ~/data
    """
    from vlmed.evaluate.doctor import examine, first_run, ready

    loaded, findings = suite_of(suite), []
    for finding in examine(loaded, data_root):
        findings.append(finding)
        if not as_json:
            _tell(finding)
    possible = ready(findings)
    if as_json:
        print_json({"ready": possible, "findings": [finding.to_json() for finding in findings]})
    elif possible:
        typer.echo(f"a run is possible\nnext: {first_run(loaded, findings)}" + (f" --suite {suite}" if suite else ""))
    else:
        typer.echo("no run is possible yet: mend what is missing and needed, in the lines marked with !")
    if not possible:
        raise typer.Exit(1)


def _tell(finding: Finding) -> None:
    mark = "!" if finding.needed and finding.state == "missing" else " "
    state = typer.style(f"{finding.state:8}", fg=_COLOURS[finding.state])
    typer.echo(f"{state}{mark}{finding.part:24}{finding.what}")
    if finding.fix:
        typer.echo(f"{'':9}{'':24}next: {finding.fix}")
