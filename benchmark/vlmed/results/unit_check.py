"""One unit of a run: its prediction file is proved, and every number that it claims is recomputed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from vlmed.errors import InputError, Problem, VlmedError
from vlmed.files import read_bytes
from vlmed.results.claims import Claims
from vlmed.results.columns import LARGEST_FILE
from vlmed.results.frozen import Frozen
from vlmed.results.predictions import AnswerPredictions, Predictions, parse_predictions
from vlmed.results.proof import plainly_right
from vlmed.results.score import DIGITS, score
from vlmed.suite.manifest import Manifest
from vlmed.suite.methods import METHODS
from vlmed.suite.types import Suite, Task, Track

# Which units' intervals are recomputed, by the SHA-256 that each claims of its prediction file.
Choice = Callable[[str], bool]
# Half a unit of the last recorded digit, and room for another machine's rounding.
_TOLERANCE: float = 0.5 * 10**-DIGITS + 1e-9
# Whoever gets the first row wrong often gets all of them wrong, and nobody reads more.
_MOST_PROBLEMS = 200


@dataclass
class UnitCheck:
    """The check of one unit; stops where nothing later could be understood.

    Attributes:
        folder: The run folder.
        place: The unit's JSON path in `result.json`.
        claim: What stands there.
        problems: What is wrong, at most 200 of the rows.
        recomputed: Number of metrics that were recomputed and agree.
    """

    folder: Path
    place: str
    claim: Mapping[str, Any]
    suite: Suite
    frozen: Frozen
    intervals: Choice
    problems: list[Problem] = field(default_factory=list)
    recomputed: int = 0

    def check(self) -> None:
        """Fill `problems` and `recomputed`."""
        task = self._task()
        if task is None:
            return
        manifest = self._manifest(task)
        predictions = self._predictions(task, manifest)
        if predictions is None:
            return
        file = str(self.folder / self.claim["predictions"]["file"])
        problems = list(_first(self._claim_problems(task, predictions, manifest, file), file))
        self.problems += problems
        self._warn_of_text(task, predictions)
        self._check_scores(task, predictions, manifest, sound=not problems)

    def _say(self, what: str, path: str, expected: object = "", got: object = "", **more: Any) -> None:
        file = str(self.folder / "result.json")
        self.problems.append(Problem(what, file, self.place + path, str(expected), str(got), **more))

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
        if task and track:
            self._check_track(task, track)
        return task

    def _check_track(self, task: Task, track: Track) -> None:
        facts = METHODS[track.method]
        if task.kind not in facts.kinds:
            what = f"the track is for {' and '.join(facts.kinds)} tasks"
            self._say(what, ".track", f"a track for {task.kind} tasks", track.id)
        elif track.name not in task.tracks:
            self._say("the task has no such track", ".track", f"one of {', '.join(task.tracks)}", track.id)
        if not facts.trains and self.claim["cost"]["training"]:
            what = "a track that trains nothing has no training cost"
            self._say(what, ".cost.training", 0, self.claim["cost"]["training"])

    def _manifest(self, task: Task) -> Manifest | None:
        if task.pending:
            what = f"the manifest of {task.id} is pending: samples and targets can't be proved yet"
            self._say(what, ".task", severity="warning")
            return None
        return self.frozen.manifest(task)

    def _predictions(self, task: Task, manifest: Manifest | None) -> Predictions | None:
        claim = self.claim["predictions"]
        path = self.folder / claim["file"]
        try:
            content = read_bytes(path, LARGEST_FILE, links=False)
            # As many again, so that samples told twice can be named.
            most_rows = 2 * len(self.frozen.test(task)) if manifest else None
            predictions = parse_predictions(content, path, task, most_rows)
        except VlmedError as error:
            self.problems += error.problems
            return None
        if (got := sha256(content).hexdigest()) != claim["sha256"]:
            self._say("the prediction file is not the one that was hashed", ".predictions.sha256", claim["sha256"], got)
        if len(predictions.sample_ids) != claim["rows"]:
            self._say("another number of rows", ".predictions.rows", len(predictions.sample_ids), claim["rows"])
        return predictions

    def _claim_problems(
        self, task: Task, predictions: Predictions, manifest: Manifest | None, file: str
    ) -> Iterable[Problem]:
        asked = self.frozen.questions(task) if manifest else None
        test = self.frozen.test(task) if manifest else None
        if test and plainly_right(task, predictions, test):
            return ()
        return Claims(task, predictions, file).problems(manifest, asked, test)

    def _warn_of_text(self, task: Task, predictions: Predictions) -> None:
        access = task.dataset.access
        if isinstance(predictions, AnswerPredictions) and access not in ("open", "embedded"):
            what = f"the prediction file holds the answers of {task.dataset.name} in clear"
            hint = "ask its publisher whether you may publish them"
            self._say(what, ".predictions.file", "open access", access, hint=hint, severity="warning")

    def _check_scores(self, task: Task, predictions: Predictions, manifest: Manifest | None, sound: bool) -> None:
        frozen = self.frozen.test(task) if manifest else None
        # The intervals of a file that is refused anyway are not worth their time.
        intervals = sound and self.intervals(self.claim["predictions"]["sha256"])
        try:
            expected = score(task, predictions, frozen, intervals)
        except InputError as error:
            file = str(self.folder / self.claim["predictions"]["file"])
            self.problems += _first((replace(fault, file=file) for fault in error.problems), file)
            return
        if not sound:
            return
        if not intervals:
            expected = _without_intervals(expected, self.claim["scores"])
        differences = list(_differences(expected, self.claim["scores"], ".scores"))
        for path, want, got in differences:
            self._say("this is not what the predictions give", path, want, got)
        metrics = [names for names in expected["metrics"].values() if names]
        self.recomputed += sum(map(len, metrics)) - len(differences)


def _first(problems: Iterable[Problem], file: str) -> Iterator[Problem]:
    """The first problems, and how many more there are."""
    found = iter(problems)
    yield from islice(found, _MOST_PROBLEMS)
    if more := sum(1 for _ in found):
        yield Problem(f"{more} more problems of this file are not listed", file)


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
