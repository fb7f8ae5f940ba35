"""A run folder is believed in nothing: every number is recomputed, and every contradiction is listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmed.errors import InputError, Problem, VlmedError, errors_in
from vlmed.results.audits import audit_problems
from vlmed.results.contradictions import contradictions
from vlmed.results.description import RETRACTION, description_problems
from vlmed.results.document import read_document
from vlmed.results.frozen import Frozen
from vlmed.results.judged import judgement_problems
from vlmed.results.unit_check import Choice, UnitCheck
from vlmed.results.untrusted import folder_problems, shown
from vlmed.suite.manifest import FOLDER
from vlmed.suite.types import Suite


@dataclass
class Report:
    """What validation found in one run folder.

    Attributes:
        folder: The folder, as the user named it.
        problems: Everything that is wrong; errors refuse, warnings are shown.
        unreadable: `result.json` is no such document at all, so nothing else could be checked.
        recomputed: Number of metrics that were recomputed and agree.
        sha256: Of `result.json` as it was read.
    """

    folder: Path
    problems: list[Problem] = field(default_factory=list)
    unreadable: bool = False
    recomputed: int = 0
    sha256: str = ""

    @property
    def accepted(self) -> bool:
        """Whether nothing refuses the run."""
        return not errors_in(self.problems)


def find_runs(path: Path) -> list[Path]:
    """Every run folder at or below `path`, sorted; of a file in a run, there or gone, that run.

    Folders whose names begin with a dot are submissions under way, which nobody has made yet.

    Raises:
        InputError: There is none.
    """
    if holder := next((folder for folder in (path, *path.parents[:2]) if (folder / "result.json").exists()), None):
        return [holder]
    found = {file.parent for file in path.glob("**/result.json")}
    runs = sorted(run for run in found if not any(part.startswith(".") for part in run.relative_to(path).parts))
    if not runs:
        hint = "name a run folder, a file in it, or a folder of submissions"
        raise InputError("there is no result.json here", file=path, hint=hint)
    return runs


def validate_run(
    folder: Path,
    suite: Suite,
    manifests: Path = FOLDER,
    intervals: bool | Choice = True,
    frozen: Frozen | None = None,
) -> Report:
    """Check one run folder against the frozen suite. Needs no data, no network and no torch.

    Problems are shown with their words printable and clipped, whatever a stranger wrote.

    Args:
        intervals: Whether to recompute the intervals too, or of which units; they take nearly all the time.
        frozen: What is frozen of the tasks in `manifests`, for whoever validates many runs.
    """
    report = Report(folder)
    choice = intervals if callable(intervals) else lambda _: bool(intervals)
    try:
        _check(report, suite, frozen or Frozen(manifests), choice)
    finally:
        report.problems = [shown(problem) for problem in report.problems]
    return report


def _check(report: Report, suite: Suite, frozen: Frozen, intervals: Choice) -> None:
    folder = report.folder
    report.problems += folder_problems(folder)
    if report.problems:
        return
    try:
        document = read_document(folder / "result.json", "result.schema.json")
    except VlmedError as error:
        report.problems += error.problems
        report.unreadable = True
        return
    result, report.sha256 = document.value, document.sha256
    report.problems += document.form_problems()
    report.problems += [*contradictions(result, suite, str(folder / "result.json")), *_unnamed(folder, result)]
    report.problems += description_problems(folder, result, suite, frozen)
    report.problems += [*_retraction_problems(folder), *audit_problems(folder, result, document.sha256, suite)]
    for index, unit in enumerate(result["units"]):
        check = UnitCheck(folder, f"$.units[{index}]", unit, suite, frozen, intervals)
        check.check()
        report.problems += check.problems
        report.recomputed += check.recomputed
    report.problems += judgement_problems(folder, suite)


def _unnamed(folder: Path, result: Mapping[str, Any]) -> Iterator[Problem]:
    """Prediction files that no unit names."""
    files = {unit["predictions"]["file"] for unit in result["units"]}
    for path in sorted((folder / "predictions").glob("*")):
        if f"predictions/{path.name}" not in files:
            yield Problem("no unit names this file", str(path), hint="remove it, or name it", severity="warning")


def _retraction_problems(folder: Path) -> Iterator[Problem]:
    if (folder / RETRACTION).exists():
        try:
            yield from read_document(folder / RETRACTION, "retraction.schema.json").form_problems()
        except VlmedError as error:
            yield from error.problems
