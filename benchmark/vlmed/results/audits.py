"""Audits: what a second run of a model on drawn samples must show, and the records that say whether it did.

A sample differs where the two runs say something else of it by more than hardware and libraries explain:

- classification: any class probability differs by more than the tolerance;
- retrieval: the rank of the true item differs by more than one and a share of the gallery, in either direction;
- VQA: the parsed answers differ.

`tolerance` has the numbers. A record is worth as much as whoever merges it: a submission can't bring its own
(`history`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmed.errors import Problem, VlmedError
from vlmed.results.document import read_document
from vlmed.results.predictions import (
    AnswerPredictions,
    ClassificationPredictions,
    Predictions,
    RetrievalPredictions,
)
from vlmed.results.tolerance import TOLERANCES, Tolerance
from vlmed.results.untrusted import printable
from vlmed.suite.splits import bucket
from vlmed.suite.types import Suite

FOLDER = "audits"
_SCHEMA = "audit.schema.json"
_FEWEST = 16  # samples; fewer say little


@dataclass(frozen=True)
class Comparison:
    """Two runs on the drawn samples of a unit.

    Attributes:
        compared: How many were drawn.
        differing: On how many the runs differ by more than the tolerance.
        largest_difference: In a probability or rank; 0 or 1 for answers.
        allowed: How many may differ.
    """

    compared: int
    differing: int
    largest_difference: float
    tolerance: float
    allowed: int

    @property
    def confirmed(self) -> bool:
        """Whether the second run says what the first one did."""
        return self.compared > 0 and self.differing <= self.allowed


def draw(sample_ids: Sequence[str], samples: int, seed: int) -> list[str]:
    """A seeded draw of `samples` ids without replacement, all where there are fewer; in id order."""
    return sorted(sorted(sample_ids, key=lambda name: (bucket(f"audit {seed}", name), name))[:samples])


def compare(
    claimed: Predictions, again: Predictions, drawn: Sequence[str], within: Tolerance = TOLERANCES["fp32"]
) -> Comparison:
    """Hold predictions against those of a second run, on the drawn samples, which both must have.

    Args:
        within: What is allowed for the precision of the claimed run.

    Raises:
        KeyError: One of them lacks a drawn sample.
    """
    ours, theirs = (_rows(each, drawn) for each in (claimed, again))
    tolerance, allowed, differences = 0.0, 0, np.zeros(0)
    if isinstance(claimed, ClassificationPredictions) and isinstance(again, ClassificationPredictions):
        differences = np.abs(claimed.probabilities[ours] - again.probabilities[theirs]).max(axis=1)
        tolerance = within.probability
    elif isinstance(claimed, RetrievalPredictions) and isinstance(again, RetrievalPredictions):
        differences = _rank_differences(claimed, again, ours, theirs)
        tolerance = 1 + within.rank_share * len(claimed.sample_ids)
    elif isinstance(claimed, AnswerPredictions) and isinstance(again, AnswerPredictions):
        first, second = (each.answered.take(rows).parsed for each, rows in ((claimed, ours), (again, theirs)))
        differences = np.array([float(one != other) for one, other in zip(first, second, strict=True)])
        allowed = int(within.answers * len(drawn))
    differing = int((differences > tolerance).sum())
    return Comparison(len(drawn), differing, float(differences.max(initial=0)), tolerance, allowed)


def _rows(predictions: Predictions, drawn: Sequence[str]) -> list[int]:
    place = {name: row for row, name in enumerate(predictions.sample_ids)}
    return [place[name] for name in drawn]


def _rank_differences(
    claimed: RetrievalPredictions, again: RetrievalPredictions, ours: Sequence[int], theirs: Sequence[int]
) -> NDArray[np.float64]:
    pairs = zip(claimed.directions.values(), again.directions.values(), strict=True)
    moved = np.array([np.abs(one.ranks[ours] - other.ranks[theirs]) for one, other in pairs], np.float64)
    largest: NDArray[np.float64] = moved.max(axis=0)
    return largest


def power(total: int, altered: int, samples: int, allowed: int = 0) -> float:
    """Chance that a draw contradicts a unit of which `altered` of `total` predictions are not the model's.

    One minus the chance that at most `allowed` altered ones are drawn, a hypergeometric probability.

    >>> round(power(1000, 50, 64), 3)
    0.966
    """
    samples = min(samples, total)
    missed = sum(comb(altered, k) * comb(total - altered, samples - k) for k in range(min(allowed, samples) + 1))
    return 1 - missed / comb(total, samples)


def audit_problems(run: Path, result: Mapping[str, Any], sha256: str, suite: Suite) -> Iterator[Problem]:
    """What is wrong with the audits of a run: no such record, of another result, or laxer than any audit is."""
    known = {unit["unit"]: _lenience(unit, suite) for unit in result["units"]}
    for path in sorted((run / FOLDER).glob("*")):
        try:
            document = read_document(path, _SCHEMA)
        except VlmedError as error:
            yield from error.problems
            continue
        record = document.value
        yield from document.form_problems()
        yield from _record_problems(record, known, str(path))
        if record["result"] != sha256:
            yield Problem("this audit is of another result.json", str(path), "$.result", sha256, record["result"])


def _lenience(unit: Mapping[str, Any], suite: Suite) -> tuple[float, float]:
    """The largest tolerance that an audit of a unit may have, and the largest share of samples that may differ."""
    kind = suite.tasks[unit["task"]].kind if unit["task"] in suite.tasks else None
    if kind == "retrieval":
        return 1 + max(each.rank_share for each in TOLERANCES.values()) * unit["predictions"]["rows"], 0.0
    share = max(each.answers for each in TOLERANCES.values()) if kind == "vqa" else 0.0
    return max(each.probability for each in TOLERANCES.values()), share


def _record_problems(
    record: Mapping[str, Any], known: Mapping[str, tuple[float, float]], file: str
) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, unit in enumerate(record["units"]):
        place = f"$.units[{index}]"
        if unit["unit"] not in known:
            yield Problem("the run has no such unit", file, f"{place}.unit", "a unit of the run", unit["unit"])
        else:
            yield from _lax_problems(unit, *known[unit["unit"]], file, place)
        if unit["unit"] in seen:
            yield Problem("this unit stands twice", file, f"{place}.unit", "once", unit["unit"])
        seen.add(unit["unit"])
        right = unit["compared"] > 0 and unit["differing"] <= unit["allowed"]
        expected = "confirmed" if right else "contradicted" if unit["compared"] else "skipped"
        if unit["verdict"] != expected:
            yield Problem(
                "the verdict is not what the numbers give", file, f"{place}.verdict", expected, unit["verdict"]
            )
    if record["verdict"] != (expected := verdict([unit["verdict"] for unit in record["units"]])):
        yield Problem("the verdict is not what the units give", file, "$.verdict", expected, record["verdict"])


def _lax_problems(unit: Mapping[str, Any], tolerance: float, share: float, file: str, place: str) -> Iterator[Problem]:
    """Numbers by which nearly everything would be confirmed."""
    bounds = (("tolerance", tolerance), ("allowed", int(share * unit["compared"])), ("differing", unit["compared"]))
    for name, most in bounds:
        if unit[name] > most:
            what = f"no audit has such a number of {name}" if name != "tolerance" else "no audit has such a tolerance"
            yield Problem(what, file, f"{place}.{name}", f"at most {most:g}", str(unit[name]))
    if unit["verdict"] == "confirmed" and unit["compared"] < _FEWEST:
        chance = power(100, 10, unit["compared"])
        what = f"so few samples meet 10 % altered predictions with a chance of {chance:.0%} only"
        yield Problem(what, file, f"{place}.compared", f"at least {_FEWEST}", str(unit["compared"]), severity="warning")


def verdict(units: Sequence[str]) -> str:
    """A record's verdict from those of its units: one contradiction is enough, and confirmed are all or none."""
    if "contradicted" in units:
        return "contradicted"
    return "incomplete" if "skipped" in units or not units else "confirmed"


def records_of(run: Path, sha256: str) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The audits of a run whose `result.json` has this hash, by name; damaged ones count for nothing."""
    for path in sorted((run / FOLDER).glob("*.json")):
        try:
            record = read_document(path, _SCHEMA).value
        except VlmedError:
            continue
        if record["result"] == sha256:
            yield path, printable(record)


def verified(run: Path, result: Mapping[str, Any], sha256: str) -> frozenset[str]:
    """The units of a run that an audit confirmed and none contradicted."""
    confirmed = _units(run, sha256, "confirmed") & {unit["unit"] for unit in result["units"]}
    return confirmed - contradicted(run, sha256)


def contradicted(run: Path, sha256: str) -> frozenset[str]:
    """The units of a run that an audit contradicted, whatever others say."""
    return _units(run, sha256, "contradicted")


def _units(run: Path, sha256: str, said: str) -> frozenset[str]:
    units = (unit for _, record in records_of(run, sha256) for unit in record["units"])
    return frozenset(unit["unit"] for unit in units if unit["verdict"] == said)
