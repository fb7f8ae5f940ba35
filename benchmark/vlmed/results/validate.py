"""A run folder is believed in nothing: every number is recomputed, and every contradiction is listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmed.errors import InputError, Problem, VlmedError, errors_in
from vlmed.files import read_json
from vlmed.hashing import file_hash, target_digest
from vlmed.results.predictions import Predictions, read_predictions
from vlmed.results.score import DIGITS, score
from vlmed.suite.load import schema_problems
from vlmed.suite.manifest import FOLDER, Manifest, read_manifest
from vlmed.suite.types import Suite, Task

# Half a unit of the last recorded digit, and room for another machine's rounding.
_TOLERANCE: float = 0.5 * 10**-DIGITS + 1e-9


@dataclass
class Report:
    """What validation found in one run folder.

    Attributes:
        folder: The folder, as the user named it.
        problems: Everything that is wrong; errors refuse, warnings are shown.
        unreadable: `result.json` is no such document at all, so nothing else could be checked.
        recomputed: Number of metrics that were recomputed and agree.
    """

    folder: Path
    problems: list[Problem] = field(default_factory=list)
    unreadable: bool = False
    recomputed: int = 0

    @property
    def accepted(self) -> bool:
        """Whether nothing refuses the run."""
        return not errors_in(self.problems)


def find_runs(path: Path) -> list[Path]:
    """Every run folder at or below `path`, sorted.

    Raises:
        InputError: There is none.
    """
    file = path if path.name == "result.json" else path / "result.json"
    if file.exists():
        return [file.parent]
    runs = sorted(found.parent for found in path.glob("**/result.json"))
    if not runs:
        hint = "name a run folder, or a folder of submissions"
        raise InputError("there is no result.json here", file=path, hint=hint)
    return runs


def validate_run(folder: Path, suite: Suite, manifests: Path = FOLDER, intervals: bool = True) -> Report:
    """Check one run folder against the frozen suite. Needs no data, no network and no torch.

    Args:
        intervals: Whether to recompute the intervals too, which takes nearly all the time.
    """
    report = Report(folder)
    file = folder / "result.json"
    try:
        result = read_json(file)
        report.problems += schema_problems(result, "result.schema.json", str(file))
    except VlmedError as error:
        report.problems += error.problems
        report.unreadable = True
    if report.problems:
        return report
    report.problems += _run_problems(folder, result)
    for index, unit in enumerate(result["units"]):
        _Unit(folder, f"$.units[{index}]", unit, suite, manifests, intervals, report).check()
    return report


def _run_problems(folder: Path, result: Mapping[str, Any]) -> Iterator[Problem]:
    """Contradictions between the run's parts: units that stand twice, prediction files that no unit names."""
    file = str(folder / "result.json")
    seen: set[str] = set()
    for index, unit in enumerate(result["units"]):
        if unit["unit"] in seen:
            yield Problem("this unit stands twice", file, f"$.units[{index}].unit", "once", unit["unit"])
        seen.add(unit["unit"])
    named = {unit["predictions"]["file"] for unit in result["units"]}
    for path in sorted((folder / "predictions").glob("*")):
        if f"predictions/{path.name}" not in named:
            yield Problem("no unit names this file", str(path), hint="remove it, or name it", severity="warning")


@dataclass
class _Unit:
    """The check of one unit; stops where nothing later could be understood."""

    folder: Path
    place: str
    claim: Mapping[str, Any]
    suite: Suite
    manifests: Path
    intervals: bool
    report: Report

    def check(self) -> None:
        task = self._task()
        if task is None:
            return
        manifest = self._manifest(task)
        predictions = self._predictions(task)
        if predictions is None:
            return
        before = len(errors_in(self.report.problems))
        if manifest:
            self._check_samples(task, predictions, manifest)
        self._check_scores(task, predictions, manifest, sound=len(errors_in(self.report.problems)) == before)

    def _say(self, what: str, path: str, expected: object = "", got: object = "", **more: Any) -> None:
        file = str(self.folder / "result.json")
        self.report.problems.append(Problem(what, file, self.place + path, str(expected), str(got), **more))

    def _task(self) -> Task | None:
        task = self.suite.tasks.get(self.claim["task"])
        track = self.suite.tracks.get(self.claim["track"])
        if task is None:
            self._say("the suite has no such task", ".task", "one of `vlmed tasks`", self.claim["task"])
        elif self.claim["task_digest"] != task.digest:
            self._say("the unit was run on another definition of the task", ".task_digest", task.digest,
                      self.claim["task_digest"], hint=f"run it again with vlmed's frozen {task.id}")  # fmt: skip
        if track is None:
            self._say("the suite has no such track", ".track", "one of `vlmed tasks --tracks`", self.claim["track"])
        elif self.claim["track_digest"] != track.digest:
            self._say("the unit followed another recipe", ".track_digest", track.digest, self.claim["track_digest"])
        return task

    def _manifest(self, task: Task) -> Manifest | None:
        if task.pending:
            what = f"the manifest of {task.id} is pending: samples and targets can't be proved yet"
            self._say(what, ".task", severity="warning")
            return None
        return read_manifest(task, self.manifests)

    def _predictions(self, task: Task) -> Predictions | None:
        claim = self.claim["predictions"]
        path = self.folder / claim["file"]
        try:
            predictions = read_predictions(path, len(task.classes))
        except VlmedError as error:
            self.report.problems += error.problems
            return None
        if (got := file_hash(path)) != claim["sha256"]:
            self._say("the prediction file is not the one that was hashed", ".predictions.sha256", claim["sha256"], got)
        if len(predictions.sample_ids) != claim["rows"]:
            self._say("another number of rows", ".predictions.rows", len(predictions.sample_ids), claim["rows"])
        return predictions

    def _check_samples(self, task: Task, predictions: Predictions, manifest: Manifest) -> None:
        """Exactly the frozen test set, in id order, each with its frozen group and target."""
        file = str(self.folder / self.claim["predictions"]["file"])
        frozen = {row.sample_id: row for row in manifest.split("test")}
        digests = [target_digest(task.name, spec.name) for spec in task.classes]
        problems = self.report.problems
        seen: set[str] = set()
        for row, name in enumerate(predictions.sample_ids):
            if name in seen:
                problems.append(Problem("this sample stands twice", file, f"row {row}", "once", name))
            elif name not in frozen:
                problems.append(Problem("this is no test sample of the task", file, f"row {row}", task.id, name))
            else:
                problems += _row_problems(file, row, predictions, frozen[name].group, frozen[name].target, digests)
            seen.add(name)
        for name in sorted(frozen.keys() - seen):
            problems.append(Problem("this test sample has no prediction", file, name))

    def _check_scores(self, task: Task, predictions: Predictions, manifest: Manifest | None, sound: bool) -> None:
        frozen = {row.sample_id: row for row in manifest.split("test")} if manifest else None
        try:
            expected = score(task, predictions, frozen, self.intervals)
        except InputError as error:
            file = str(self.folder / self.claim["predictions"]["file"])
            self.report.problems += [Problem(fault.what, file, fault.path, fault.expected, fault.got)
                                     for fault in error.problems]  # fmt: skip
            return
        if not sound:
            return
        if not self.intervals:
            expected = _without_intervals(expected, self.claim["scores"])
        differences = list(_differences(expected, self.claim["scores"], ".scores"))
        for path, want, got in differences:
            self._say("this is not what the predictions give", path, want, got)
        self.report.recomputed += len(task.metrics) * (1 if frozen is None else 2) - len(differences)


def _row_problems(
    file: str, row: int, predictions: Predictions, group: str, target: str, digests: list[str]
) -> Iterator[Problem]:
    if predictions.groups[row] != group:
        yield Problem("the group is not the frozen one", file, f"row {row}", group, predictions.groups[row])
    index = int(predictions.targets[row])
    if not 0 <= index < len(digests):
        yield Problem("the target is no class index", file, f"row {row}", f"0 to {len(digests) - 1}", str(index))
    elif digests[index] != target:
        got = f"{index} for {predictions.sample_ids[row]}"
        yield Problem("the target is not the frozen one", file, f"row {row}", str(digests.index(target)), got)


def _differences(expected: Any, got: Any, path: str) -> Iterator[tuple[str, object, object]]:
    """The places where two JSON trees differ by more than rounding."""
    if isinstance(expected, dict) and isinstance(got, dict):
        for name in sorted(expected.keys() | got.keys()):
            yield from _differences(expected.get(name, "nothing"), got.get(name, "nothing"), f"{path}.{name}")
    elif isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        for index, (mine, theirs) in enumerate(zip(expected, got, strict=True)):
            yield from _differences(mine, theirs, f"{path}[{index}]")
    elif not _same(expected, got):
        yield path, expected, got


def _same(expected: object, got: object) -> bool:
    if isinstance(expected, float) and isinstance(got, int | float) and not isinstance(got, bool):
        return abs(expected - got) <= _TOLERANCE
    if type(expected) is not type(got):
        return False
    equal: bool = expected == got
    return equal


def _without_intervals(expected: dict[str, Any], claimed: Mapping[str, Any]) -> dict[str, Any]:
    """`expected` with the claimed interval ends, for a quick check that leaves intervals out."""
    for part, metrics in expected["metrics"].items():
        for name, estimate in (metrics or {}).items():
            theirs = ((claimed["metrics"].get(part) or {}).get(name)) or {}
            estimate |= {key: theirs[key] for key in ("low", "high", "undefined") if key in theirs}
    return expected
