"""Two runs, compared unit by unit on the same samples, from their prediction files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlmed.errors import InputError, MissingError, Problem, UsageError
from vlmed.files import read_json
from vlmed.hashing import file_hash
from vlmed.metrics.compare import Difference, compare_metrics
from vlmed.metrics.table import Samples, metrics_of, values_of
from vlmed.results.predictions import Predictions, read_predictions
from vlmed.suite.load import schema_problems
from vlmed.suite.manifest import FOLDER, read_manifest
from vlmed.suite.types import Suite, Task

Claim = Mapping[str, Any]
Part = Literal["all", "clean"]


@dataclass(frozen=True)
class Run:
    """A result that follows its schema, and where it lies; its numbers are claims.

    Attributes:
        file: The `result.json`, whatever it is called; prediction files are named relative to its folder.
        result: Its content.
    """

    file: Path
    result: Mapping[str, Any]

    @property
    def units(self) -> Sequence[Claim]:
        """Its units, as the schema describes them."""
        units: Sequence[Claim] = self.result["units"]
        return units

    def unit_like(self, unit: Claim) -> Claim | None:
        """The unit of the same task, track, seed and share, on the same definitions; None if there is none."""
        return next((mine for mine in self.units if _key(mine) == _key(unit)), None)

    def task(self, unit: Claim, suite: Suite) -> Task:
        """The suite's task that a unit is about.

        Raises:
            InputError: The suite has none of this definition.
        """
        task = suite.tasks.get(unit["task"])
        if task is None or task.digest != unit["task_digest"]:
            raise InputError(
                "the unit was run on a task that this suite does not define so",
                file=self.file,
                path=unit["unit"],
                expected=task.digest if task else f"one of {', '.join(suite.tasks)}",
                got=unit["task_digest"] if task else unit["task"],
                hint="name the run's own tasks.yaml as the suite, or run it again",
            )
        return task

    def predictions(self, unit: Claim, task: Task) -> Predictions:
        """What a unit's prediction file holds.

        Raises:
            MissingError: The file is not there.
            InputError: It is damaged, or not the one that was hashed.
        """
        path = self.file.parent / unit["predictions"]["file"]
        predictions = read_predictions(path, task)
        if (got := file_hash(path)) != unit["predictions"]["sha256"]:
            what = "the prediction file is not the one that was hashed"
            raise InputError(what, file=path, expected=unit["predictions"]["sha256"], got=got)
        return predictions


@dataclass(frozen=True)
class Comparison:
    """One metric of one unit of two runs.

    Attributes:
        unit: The unit's name in the first run.
        samples: Which test samples were compared: the clean ones wherever the manifest is frozen.
        n: How many.
        first, second: The metric in either run, recomputed; None where it is undefined.
        difference: `first - second`, with its 95 % interval and two-sided p-value.
        higher_is_better: Whether a positive difference speaks for the first run.
        reason: Why a number is None; empty if none is.
    """

    unit: str
    task: str
    track: str
    metric: str
    samples: Part
    n: int
    first: float | None
    second: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    higher_is_better: bool
    reason: str = ""

    def better(self, alpha: float = 0.05) -> bool:
        """Whether the first run is better and the test shows it."""
        return self._gain() > 0 and self.p is not None and self.p < alpha

    def worse(self, alpha: float = 0.05) -> bool:
        """Whether the first run is worse and the test shows it."""
        return self._gain() < 0 and self.p is not None and self.p < alpha

    @property
    def undecided(self) -> bool:
        """Whether the first run is worse, or nobody can say, and there is no test."""
        return self.difference is None or (self._gain() < 0 and self.p is None)

    def _gain(self) -> float:
        return (self.difference or 0.0) * (1 if self.higher_is_better else -1)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


def manifests_of(tasks_file: Path | None) -> Path:
    """Where a task file's manifests lie: in the folder `manifests` beside it if there is one, else where vlmed's do."""
    beside = tasks_file.parent / "manifests" if tasks_file else FOLDER
    return beside if beside.is_dir() else FOLDER


def read_run(path: Path) -> Run:
    """A run from its folder or its `result.json`.

    Raises:
        MissingError: There is none.
        InputError: It does not follow the schema; lists every place.
    """
    file = path / "result.json" if path.is_dir() else path
    try:
        result = read_json(file)
    except MissingError:
        hint = "name a run folder or its result.json"
        raise MissingError("there is no result here", file=file, hint=hint) from None
    if problems := schema_problems(result, "result.schema.json", str(file)):
        raise InputError(problems)
    return Run(file, result)


def compare_runs(
    first: Run, second: Run, suite: Suite, metric: str | None = None, manifests: Path = FOLDER
) -> list[Comparison]:
    """How two runs differ in every unit that both have.

    Args:
        metric: As in `result.json`; None takes each task's main metric.

    Raises:
        UsageError: The runs share no unit, or a task has no such metric.
        MissingError: A prediction file is not there.
        InputError: A file is damaged, or the runs predict other samples or targets; lists every sample.
    """
    shared = [(unit, like) for unit in first.units if (like := second.unit_like(unit))]
    if not shared:
        raise UsageError(
            "these runs have no unit in common",
            file=second.file,
            expected=", ".join(unit["unit"] for unit in first.units),
            got=", ".join(unit["unit"] for unit in second.units),
            hint="both need a unit of the same task, track, seed and share on the same definitions",
        )
    return [compare_units(first, second, pair, suite, metric, manifests) for pair in shared]


def compare_units(
    first: Run, second: Run, pair: tuple[Claim, Claim], suite: Suite, metric: str | None, manifests: Path
) -> Comparison:
    """One unit of two runs; arguments and errors as of `compare_runs`."""
    unit = pair[0]
    task = first.task(unit, suite)
    mine, theirs = first.predictions(unit, task), second.predictions(pair[1], task)
    order = _paired(mine, theirs, str(second.file.parent / pair[1]["predictions"]["file"]))
    name = metric or task.main_metric
    part, rows = ranked_rows(task, mine.sample_ids, manifests)
    (plain, ours), (_, other) = _scored(mine, rows, name), _scored(theirs, order[rows], name)
    (row,) = metrics_of([plain], ours)
    groups = np.asarray(mine.groups)[rows]
    # Without a sample there is nothing to draw from.
    found = compare_metrics([plain], ours, other, groups)[plain] if len(rows) else Difference(None, reason="no sample")
    values = [_value(plain, samples) if len(rows) else None for samples in (ours, other)]
    return Comparison(
        unit=unit["unit"],
        task=task.id,
        track=unit["track"],
        metric=name,
        samples=part,
        n=len(rows),
        first=values[0],
        second=values[1],
        difference=found.value,
        low=found.low,
        high=found.high,
        p=found.p,
        higher_is_better=row.higher_is_better,
        reason=found.reason,
    )


def ranked_rows(task: Task, sample_ids: Sequence[str], manifests: Path = FOLDER) -> tuple[Part, NDArray[np.int64]]:
    """The rows that a ranking stands on: clean samples, or all while the task's manifest is pending.

    Raises:
        InputError, MissingError: The manifest is damaged or gone.
    """
    if task.pending:
        return "all", np.arange(len(sample_ids))
    leaky = {row.sample_id for row in read_manifest(task, manifests).rows if row.leaks}
    return "clean", np.flatnonzero([name not in leaky for name in sample_ids])


def _key(unit: Claim) -> tuple[Any, ...]:
    return tuple(unit[name] for name in ("task", "task_digest", "track", "track_digest", "seed", "fraction"))


def _paired(mine: Predictions, theirs: Predictions, file: str) -> NDArray[np.int64]:
    """For each of my samples its row (N,) in the other file."""
    place = {name: row for row, name in enumerate(theirs.sample_ids)}
    missing, extra = set(mine.sample_ids) - place.keys(), place.keys() - set(mine.sample_ids)
    problems = [
        Problem("the other run predicts this sample, this one does not", file, name) for name in sorted(missing)
    ]
    problems += [Problem("this run predicts a sample that the other does not", file, name) for name in sorted(extra)]
    if len(set(mine.sample_ids)) != len(mine.sample_ids) or len(place) != len(theirs.sample_ids):
        problems.append(Problem("a sample stands twice", file, hint="vlmed validate RUN"))
    if problems:
        raise InputError(problems)
    order = np.array([place[name] for name in mine.sample_ids], np.int64)
    _check_claims(mine, theirs, order, file)
    return order


def _check_claims(mine: Predictions, theirs: Predictions, order: NDArray[np.int64], file: str) -> None:
    claims = zip(mine.claims(np.arange(len(order))), theirs.claims(order), strict=True)
    problems = [
        Problem("the runs were scored on other targets or groups", file, name, repr(claim), repr(other))
        for name, group, row, (claim, other) in zip(mine.sample_ids, mine.groups, order, claims, strict=True)
        if claim != other or group != theirs.groups[row]
    ]
    if problems:
        raise InputError(problems)


def _scored(predictions: Predictions, rows: NDArray[np.int64], name: str) -> tuple[str, Samples]:
    """The metric's name in the table, and the samples that it is about."""
    samples = predictions.samples(rows)
    prefix = max((prefix for prefix in samples if name.startswith(prefix)), key=len)
    return name.removeprefix(prefix), samples[prefix]


def _value(name: str, samples: Samples) -> float | None:
    value = float(values_of(metrics_of([name], samples), samples, np.ones((len(samples), 1), np.int32))[0, 0])
    return None if np.isnan(value) else value
