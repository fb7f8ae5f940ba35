"""What a judge said of open answers: files of scores, and `judgement.json`, whose every number follows from them.

A judgement stands beside `result.json` and never enters it: models are ranked by what anyone can recompute without a
judge. An answer that could not be judged has no scores, is counted, and enters the means with the lowest score: else
an answer that breaks the judge would raise them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vlmed.errors import InputError, Problem, VlmedError
from vlmed.files import read_bytes
from vlmed.hashing import file_hash
from vlmed.metrics.agreement import Agreement, agreement
from vlmed.metrics.intervals import Estimate
from vlmed.metrics.means import mean_estimate
from vlmed.results.answered import AnswerPredictions
from vlmed.results.columns import LARGEST_FILE, parse_table, schema_of, texts, write_table
from vlmed.results.compare import Run, read_run
from vlmed.results.document import read_document
from vlmed.results.judge_prompt import frozen_prompts
from vlmed.suite.types import Suite

CRITERIA = ("helpfulness", "relevance", "accuracy", "level_of_detail")
LOWEST, HIGHEST = 1, 100
PASSES = 2
_COLUMNS = [f"{name}_{number}" for number in range(1, PASSES + 1) for name in CRITERIA]
SCHEMA = pa.schema([*schema_of(), *(pa.field(name, pa.int32()) for name in _COLUMNS)])
_DIGITS = 6
_TOLERANCE = 0.5 * 10**-_DIGITS + 1e-9


@dataclass(frozen=True, eq=False)
class Judged:
    """The scores of one unit's open answers, in sample id order.

    Attributes:
        sample_ids: N ids.
        groups: N group names, by which intervals are drawn.
        scores: float64 (N, 2, 4), whole numbers from 1 to 100 by pass and criterion, in the order of `CRITERIA`; NaN
            where there is none.
    """

    sample_ids: Sequence[str]
    groups: Sequence[str]
    scores: NDArray[np.float64]

    @property
    def unjudged(self) -> NDArray[np.bool_]:
        """Which answers the first pass could not judge, (N,)."""
        return np.asarray(np.isnan(self.scores[:, 0]).any(axis=1))


def write_judged(path: Path, judged: Judged) -> None:
    """Write a file of scores in one step.

    Raises:
        VlmedError: The disk is full.
    """
    flat = judged.scores.reshape(len(judged.sample_ids), len(_COLUMNS))
    numbers = [pa.array([None if np.isnan(value) else int(value) for value in column], pa.int32()) for column in flat.T]
    write_table(path, [texts(judged.sample_ids), texts(judged.groups), *numbers], SCHEMA)


def read_judged(path: Path) -> Judged:
    """Read a file of scores.

    Raises:
        MissingError: It is not there.
        InputError: It is no Parquet file of these columns, a score lies outside 1 to 100, or a pass scored some
            criteria of an answer and not others; lists every row.
    """
    table = parse_table(read_bytes(path, LARGEST_FILE, links=False), path, SCHEMA)
    columns = [table[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in _COLUMNS]
    scores = np.stack(columns, axis=1).reshape(len(table), PASSES, len(CRITERIA))
    ids = table["sample_id"].to_pylist()
    if problems := list(_score_problems(ids, scores, str(path))):
        raise InputError(problems)
    return Judged(ids, table["group"].to_pylist(), scores)


def _score_problems(ids: Sequence[str], scores: NDArray[np.float64], file: str) -> Iterator[Problem]:
    absent: NDArray[np.bool_] = np.isnan(scores)
    outside = np.asarray(~absent & ((scores < LOWEST) | (scores > HIGHEST)))
    partial = np.asarray(absent.any(axis=2) & ~absent.all(axis=2))
    expected = f"{LOWEST} to {HIGHEST} for each criterion, or none"
    for row in np.flatnonzero(outside.any(axis=(1, 2)) | partial.any(axis=1)).tolist():
        yield Problem("these are no scores", file, ids[row], expected, str(scores[row].tolist()))


def score_judged(judged: Judged, passes: int) -> dict[str, Any]:
    """The `scores` of a unit, ready for JSON.

    Means are over all answers of the first pass; `overall` is the mean of the four criteria of an answer. Agreement is
    over the answers that both passes judged.
    """
    lowest = np.where(np.isnan(judged.scores), LOWEST, judged.scores)[:, 0]
    means = {
        name: _estimate(mean_estimate((column - LOWEST) / (HIGHEST - LOWEST), judged.groups))
        for name, column in _by_name(lowest)
    }
    first, second = (dict(_by_name(judged.scores[:, number])) for number in range(PASSES))
    return {
        "n": len(judged.sample_ids),
        "unjudged": int(judged.unjudged.sum()),
        "criteria": means,
        "agreement": {name: _agreed(agreement(first[name], second[name])) for name in first} if passes > 1 else None,
    }


def _by_name(scores: NDArray[np.float64]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    yield from zip(CRITERIA, scores.T, strict=True)
    yield "overall", scores.mean(axis=1)


def _estimate(estimate: Estimate) -> dict[str, float | None]:
    """A mean in [0, 1] as one from 1 to 100."""
    numbers = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {
        name: None if value is None else round(LOWEST + (HIGHEST - LOWEST) * value, _DIGITS)
        for name, value in numbers.items()
    }


def _agreed(found: Agreement) -> dict[str, Any]:
    return {name: round(value, _DIGITS) if isinstance(value, float) else value for name, value in asdict(found).items()}


def judgement_problems(folder: Path, suite: Suite) -> list[Problem]:
    """Recompute a run's `judgement.json` from its files; needs no judge, no data and no network.

    It proves that the numbers follow from the scores, that these are of the run's own open answers, and that the
    prompt is a frozen one. What the judge really replied, nobody can prove.

    Returns:
        Everything that is wrong; nothing where the run has no judgement.
    """
    path = folder / "judgement.json"
    if not path.exists() and not path.is_symlink():
        return []
    try:
        judgement = read_document(path, "judge.schema.json").value
        return [*_prompt_problems(judgement, str(path)), *_unit_problems(judgement, read_run(folder), suite, path)]
    except VlmedError as error:
        return error.problems


def _prompt_problems(judgement: Mapping[str, Any], file: str) -> Iterator[Problem]:
    name, got = judgement["prompt"]["id"], judgement["prompt"]["sha256"]
    if (frozen := frozen_prompts().get(name)) != got:
        yield Problem("the judge had another prompt than the frozen one", file, "$.prompt", str(frozen), got)


def _unit_problems(judgement: Mapping[str, Any], run: Run, suite: Suite, file: Path) -> Iterator[Problem]:
    units = {unit["unit"]: unit for unit in run.units}
    for index, claim in enumerate(judgement["units"]):
        place, unit = f"$.units[{index}]", units.get(claim["unit"])
        if unit is None:
            yield Problem("the run has no such unit", str(file), f"{place}.unit", ", ".join(units), claim["unit"])
            continue
        try:
            yield from _claim_problems(claim, judgement["passes"], run, unit, suite, file, place)
        except VlmedError as error:
            yield from error.problems


def _claim_problems(
    claim: Mapping[str, Any], passes: int, run: Run, unit: Mapping[str, Any], suite: Suite, file: Path, place: str
) -> Iterator[Problem]:
    scores = file.parent / claim["judged"]["file"]
    judged, predictions = read_judged(scores), open_answers(run, unit, suite)
    got = {"sha256": file_hash(scores), "rows": len(judged.sample_ids), "file": claim["judged"]["file"]}
    yield from _differences(got, claim["judged"], str(file), f"{place}.judged")
    hashed = unit["predictions"]["sha256"]
    yield from _differences(hashed, claim["predictions_sha256"], str(file), f"{place}.predictions_sha256")
    mine = list(zip(judged.sample_ids, judged.groups, strict=True))
    if mine != [(name, group) for name, group, _, _ in predictions]:
        what = "these are not the open questions of the unit, in their order"
        yield Problem(what, str(scores), expected=f"{len(predictions)} samples", got=f"{len(mine)} samples")
        return
    if passes == 1 and not np.isnan(judged.scores[:, 1]).all():
        yield Problem("one pass was made and the file holds two", str(scores))
    yield from _differences(score_judged(judged, passes), claim["scores"], str(file), f"{place}.scores")


def open_answers(run: Run, unit: Mapping[str, Any], suite: Suite) -> list[tuple[str, str, str, str]]:
    """Sample id, group, target and raw answer of a VQA unit's open questions, in the order of its file.

    Raises:
        MissingError, InputError: As `Run.task` and `Run.predictions`.
    """
    predictions = cast(AnswerPredictions, run.predictions(unit, run.task(unit, suite)))
    rows = zip(predictions.sample_ids, predictions.groups, predictions.targets, predictions.answers, strict=True)
    return [row for row, closed in zip(rows, predictions.closed.tolist(), strict=True) if not closed]


def _differences(expected: Any, got: Any, file: str, path: str) -> Iterator[Problem]:
    """The places where two JSON trees differ by more than rounding."""
    if isinstance(expected, dict) and isinstance(got, dict):
        for name in sorted(expected.keys() | got.keys()):
            yield from _differences(expected.get(name, "nothing"), got.get(name, "nothing"), file, f"{path}.{name}")
    elif isinstance(expected, float) and isinstance(got, int | float):
        if abs(expected - got) > _TOLERANCE:
            yield Problem("this is not what the scores give", file, path, str(expected), str(got))
    elif expected != got:
        yield Problem("this is not what the files give", file, path, str(expected), str(got))
