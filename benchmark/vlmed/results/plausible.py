"""What a human should look at before a run is believed: flags with reasons, none of which refuses.

Every check looks at what validation has proved already. A flag says that something is rare among honest runs, and
never that somebody lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

from vlmed.errors import VlmedError
from vlmed.files import read_json
from vlmed.hashing import file_hash
from vlmed.metrics.table import METRICS
from vlmed.results.audits import records_of
from vlmed.results.copies import FEWEST, likeness
from vlmed.results.predictions import (
    ClassificationPredictions,
    Predictions,
    RetrievalPredictions,
    read_predictions,
)
from vlmed.results.validate import find_runs
from vlmed.suite.manifest import FOLDER, read_manifest
from vlmed.suite.types import Suite, Task

_ORACLE = 0.995
_RARE = 1e-3
_LEAD = 0.05
_FAR = 0.1
_OUTLIER = 3.0  # standard deviations of the family's other runs
_ZERO_SHOT = ("zero_shot", "choose")


@dataclass(frozen=True)
class Flag:
    """Something to look at.

    Attributes:
        kind: `audit`, `copied`, `oracle`, `leaked`, `confidence`, `zero_shot` or `family`.
        unit: The unit's name.
        reason: One sentence with the numbers.
    """

    kind: str
    unit: str
    reason: str

    def to_json(self) -> dict[str, str]:
        """The flag as a JSON object, like a problem whose severity is `flag`."""
        return {"severity": "flag", **asdict(self)}

    def __str__(self) -> str:
        return f"{self.unit}: {self.reason} ({self.kind})"


@dataclass(frozen=True)
class _Unit:
    """A unit of a run that was validated."""

    run: str
    claim: Mapping[str, Any]
    model: Mapping[str, Any]
    task: Task
    folder: Path

    @property
    def place(self) -> tuple[Any, ...]:
        """Runs can be compared where these agree."""
        return tuple(self.claim[name] for name in ("task_digest", "track", "seed", "fraction"))

    @property
    def value(self) -> float | None:
        metrics = self.claim["scores"]["metrics"]
        value: float | None = (metrics["clean"] or metrics["all"])[self.task.main_metric]["value"]
        return value

    def predictions(self) -> Predictions:
        return read_predictions(self.folder / self.claim["predictions"]["file"], self.task)


def flags_of(run: Path, submissions: Path, suite: Suite, manifests: Path = FOLDER) -> list[Flag]:
    """The flags of one accepted run among all of `submissions`; those that can't be read are left out.

    Controls are what they are, and get none but those of audits.
    """
    ours = list(_units(run, suite))
    others = [unit for other in _runs(submissions) if other.resolve() != run.resolve() for unit in _units(other, suite)]
    flags = list(_audits(run))
    for unit in ours if ours and ours[0].model["kind"] != "control" else []:
        predictions = unit.predictions()
        flags += _copied(unit, predictions, others)
        flags += _oracle(unit)
        flags += _leaked(unit, predictions, manifests)
        flags += _confidence(unit, predictions)
        flags += _family(unit, others)
    return flags + list(_zero_shot(ours, suite))


def _runs(submissions: Path) -> list[Path]:
    try:
        return find_runs(submissions)
    except VlmedError:
        return []


def _units(run: Path, suite: Suite) -> Iterator[_Unit]:
    try:
        result = read_json(run / "result.json")
        for claim in result["units"]:
            if task := suite.tasks.get(claim["task"]):
                yield _Unit(f"{run.parent.name}/{run.name}", claim, result["model"], task, run)
    except (VlmedError, LookupError, TypeError):
        return  # Validation tells what is wrong with it.


def _audits(run: Path) -> Iterator[Flag]:
    """Units that the model's own second run contradicts."""
    for path, record in records_of(run, file_hash(run / "result.json")):
        for unit in record["units"]:
            if unit["verdict"] == "contradicted":
                said = f"{unit['differing']} of {unit['compared']} predictions differ from what the model says"
                yield Flag("audit", unit["unit"], f"{said}, says {record['auditor']} ({path.name})")


def _copied(unit: _Unit, predictions: Predictions, others: Sequence[_Unit]) -> Iterator[Flag]:
    """Predictions that are another model's, or nearly so, whatever track, seed or share they are said to be of."""
    for other in others:
        if other.claim["task_digest"] != unit.claim["task_digest"] or _same_model(unit, other):
            continue
        if _far(unit, other):
            continue  # Each file takes its time to read, and of many runs few score alike.
        if other.claim["predictions"]["sha256"] == unit.claim["predictions"]["sha256"]:
            yield Flag("copied", unit.claim["unit"], f"the predictions are those of {other.run}, byte by byte")
            continue
        try:
            found = likeness(predictions, other.predictions())
        except VlmedError:
            continue
        if found:
            yield Flag("copied", unit.claim["unit"], f"{found} of {other.run}")


def _far(unit: _Unit, other: _Unit) -> bool:
    """Whether the scores lie so far apart that one is no copy of the other that is worth making."""
    if unit.value is None or other.value is None or METRICS[unit.task.main_metric].high != 1:
        return False
    return abs(unit.value - other.value) > _FAR


def _same_model(unit: _Unit, other: _Unit) -> bool:
    """Whether two runs are of one model: of one folder, or the same weights under the same name."""
    ours, theirs = (
        (_name(each.model["ref"]), each.model["revision"], (each.model["adapter"] or {}).get("revision"))
        for each in (unit, other)
    )
    return ours == theirs or unit.run.partition("/")[0] == other.run.partition("/")[0]


def _name(ref: str) -> str:
    """A reference without what may differ: scheme, revision, case."""
    return ref.removeprefix("hf:").partition("@")[0].lower()


def _oracle(unit: _Unit) -> Iterator[Flag]:
    name, value = unit.task.main_metric, unit.value
    metric, enough = METRICS[name], unit.claim["scores"]["n"]["all"] >= FEWEST
    if value is not None and enough and metric.higher_is_better and value >= _ORACLE:
        yield Flag("oracle", unit.claim["unit"], f"{name} is {value:.4f}, as if the answers were known")


def _leaked(unit: _Unit, predictions: Predictions, manifests: Path) -> Iterator[Flag]:
    """Far more right on leaked samples than on clean ones, by Fisher's exact test, one-sided."""
    right = _right(predictions)
    if unit.task.pending or right is None:
        return
    leaks = {row.sample_id for row in read_manifest(unit.task, manifests).split("test") if row.leaks}
    leaked = np.array([name in leaks for name in predictions.sample_ids], bool)
    hits, n = int(right[leaked].sum()), int(leaked.sum())
    total, total_right = len(right), int(right.sum())
    if not 0 < n < total:
        return
    p = fisher(hits, n, total_right, total)
    shares = f"{hits}/{n} right on leaked samples, {total_right - hits}/{total - n} on clean ones"
    if p < _RARE:
        yield Flag("leaked", unit.claim["unit"], f"{shares}; by chance in {p:.1g} of cases")


def fisher(hits: int, drawn: int, marked: int, total: int) -> float:
    """Chance that at least `hits` of `drawn` samples are among `marked` of `total`: the hypergeometric upper tail.

    >>> round(fisher(3, 3, 3, 6), 3)
    0.05
    """
    ways = sum(comb(marked, k) * comb(total - marked, drawn - k) for k in range(hits, min(drawn, marked) + 1))
    return ways / comb(total, drawn)


def _right(predictions: Predictions) -> Any:
    """(N,) bool, whether each prediction is right; None where that is no matter of yes and no."""
    if isinstance(predictions, ClassificationPredictions):
        return predictions.probabilities.argmax(axis=1) == predictions.targets
    if isinstance(predictions, RetrievalPredictions):
        return predictions.image_to_text.ranks == 1
    return None


def _confidence(unit: _Unit, predictions: Predictions) -> Iterator[Flag]:
    """Probabilities that no softmax makes."""
    if not isinstance(predictions, ClassificationPredictions) or len(predictions.targets) < FEWEST:
        return
    values = predictions.probabilities
    if exact := int(np.isin(values, (0.0, 1.0)).all(axis=1).sum()):
        yield Flag("confidence", unit.claim["unit"], f"{exact} of {len(values)} rows are exactly 0 and 1")
    distinct = len(np.unique(values, axis=0))
    if distinct <= len(values) // 10:
        yield Flag("confidence", unit.claim["unit"], f"only {distinct} different rows of {len(values)}")


def _zero_shot(units: Sequence[_Unit], suite: Suite) -> Iterator[Flag]:
    """The same model does better untuned than tuned on all the training data."""
    scored = [unit for unit in units if unit.value is not None and unit.claim["fraction"] == 1]
    untuned = [unit for unit in scored if suite.tracks[unit.claim["track"]].method in _ZERO_SHOT]
    for one in untuned:
        for other in scored:
            if other not in untuned and other.task.id == one.task.id:
                yield from _better_untuned(one, other)


def _better_untuned(one: _Unit, other: _Unit) -> Iterator[Flag]:
    higher = METRICS[one.task.main_metric].higher_is_better
    untuned, tuned = (float(unit.value or 0) for unit in (one, other))
    if higher and untuned > tuned + _LEAD:
        yield Flag("zero_shot", one.claim["unit"], f"{untuned:.3f} untuned, {tuned:.3f} tuned ({other.claim['unit']})")


def _family(unit: _Unit, others: Sequence[_Unit]) -> Iterator[Flag]:
    """A main metric outside what other models of the family reach."""
    alike = [
        other.value
        for other in others
        if other.place == unit.place and other.model["family"] == unit.model["family"] and other.value is not None
    ]
    if len(alike) < 5 or unit.value is None:
        return
    mean, spread = float(np.mean(alike)), max(float(np.std(alike, ddof=1)), 0.01)
    if abs(unit.value - mean) > _OUTLIER * spread:
        said = f"{unit.task.main_metric} is {unit.value:.3f}, where {len(alike)} other runs of the family"
        yield Flag("family", unit.claim["unit"], f"{said} reach {mean:.3f} ± {spread:.3f}")
