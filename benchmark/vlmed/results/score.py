"""Predictions -> scores: the one computation that both a run and its validation do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmed.metrics.classification import Classified
from vlmed.metrics.intervals import Estimate
from vlmed.metrics.table import METRICS, Samples, evaluate_samples, metrics_named, values_of
from vlmed.metrics.vqa import OPEN
from vlmed.results.predictions import AnswerPredictions, ClassificationPredictions, Predictions
from vlmed.results.ranked import PREFIXES
from vlmed.suite.manifest import Row
from vlmed.suite.types import Kind, Task

DIGITS = 6
_DRAWS = 1000
_SEED = 0
# A metric of fewer samples says more about chance than about a subgroup.
_SMALLEST_SUBGROUP = 20
_NO_ROW = Row("", "", "", "", "")
_NOTHING = {"value": None, "low": None, "high": None, "undefined": "no sample is left"}
# What stands beside a task's own metrics. Published results hold exactly these, so that the lists may never change.
_FURTHER: Mapping[Kind, tuple[str, ...]] = {
    "classification": (),
    "retrieval": (
        "strict_recall_at_1",
        "strict_recall_at_5",
        "strict_recall_at_10",
        "strict_mean_reciprocal_rank",
        "strict_median_rank",
    ),
    "vqa": ("open_token_recall", "open_bleu_1", "open_rouge_l"),
}
_PREFIXES: Mapping[Kind, tuple[str, ...]] = {
    "classification": ("",),
    "retrieval": tuple(PREFIXES.values()),
    "vqa": ("",),
}


def score(
    task: Task, predictions: Predictions, frozen: Mapping[str, Row] | None, intervals: bool = True
) -> dict[str, Any]:
    """The `scores` object of a unit, ready for JSON.

    Its `metrics` are the task's own. For a retrieval task these are of image to text; beside them stand the same with
    the query's own item alone counting (`strict_recall_at_1`), and all of text to image
    (`text_to_image_recall_at_1`, `text_to_image_strict_recall_at_1`). The clean samples are then clean queries to the
    whole gallery. For a VQA task recall, BLEU-1 and ROUGE-L of open answers stand beside, and `n` counts the
    open, closed and unparsed ones.

    Subgroups are those of the manifest; for a VQA task also `question_type`, as the file claims it.

    Args:
        frozen: Sample id -> its row of the manifest; None where that is pending, so that nobody knows which samples
            are clean and whom they show.
        intervals: Whether to compute the 95 % intervals, which take nearly all the time.

    Raises:
        InputError: A prediction is not one of its kind, or a target is out of range; names the row.
    """
    everything = np.ones(len(predictions.sample_ids), bool)
    rows = None if frozen is None else [frozen.get(name, _NO_ROW) for name in predictions.sample_ids]
    clean = None if rows is None else np.array([not row.leaks for row in rows], bool)
    return {
        "n": {
            "all": len(predictions.sample_ids),
            "clean": None if clean is None else int(clean.sum()),
            "groups": len(set(predictions.groups)),
            **_answer_counts(predictions),
        },
        "metrics": {
            "all": _metrics(task, predictions, everything, intervals),
            "clean": None if clean is None else _metrics(task, predictions, clean, intervals),
        },
        "subgroups": None if rows is None else _subgroups(task, predictions, rows),
        "prompt_sensitivity": _prompt_sensitivity(task, predictions),
    }


def _answer_counts(predictions: Predictions) -> dict[str, int]:
    if not isinstance(predictions, AnswerPredictions):
        return {}
    answered = predictions.answered
    opened = int((answered.strata == OPEN).sum())
    return {"open": opened, "closed": len(answered) - opened, "unparsed": answered.n_unparsed}


def _metrics(task: Task, predictions: Predictions, chosen: NDArray[np.bool_], intervals: bool) -> dict[str, Any]:
    names = [*task.metrics, *(name for name in _FURTHER[task.kind] if name not in task.metrics)]
    if not chosen.any():
        return {prefix + name: dict(_NOTHING) for prefix in _PREFIXES[task.kind] for name in names}
    groups = np.asarray(predictions.groups)[chosen]
    estimates = {
        prefix: evaluate_samples(names, samples, groups, _DRAWS, _SEED) if intervals else _values(names, samples)
        for prefix, samples in predictions.samples(chosen).items()
    }
    return {prefix + name: _estimate(known[name]) for prefix, known in estimates.items() for name in names}


def _values(names: Sequence[str], samples: Samples) -> dict[str, Estimate]:
    once = np.ones((len(samples), 1), np.int32)
    values = values_of(metrics_named(names), samples, once)[:, 0]
    return {name: Estimate(_defined(value)) for name, value in zip(names, values, strict=True)}


def _estimate(estimate: Estimate) -> dict[str, Any]:
    numbers = {"value": _rounded(estimate.value), "low": _rounded(estimate.low), "high": _rounded(estimate.high)}
    return numbers | ({"undefined": estimate.reason} if estimate.reason else {})


def _subgroups(task: Task, predictions: Predictions, rows: Sequence[Row]) -> dict[str, Any]:
    """The main metric of every subgroup that is large enough, the worst of them, and its distance to the best."""
    members: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, row in enumerate(rows):
        for name, value in _labels(predictions, index, row):
            members[name][value].append(index)
    return {
        name: _fairness(task, {value: _value(task, predictions, chosen) for value, chosen in values.items()}, values)
        for name, values in members.items()
    }


def _labels(predictions: Predictions, index: int, row: Row) -> Iterator[tuple[str, str]]:
    """The fields of a sample and its values there."""
    frozen = [pair.partition("=") for pair in row.subgroups.split(";") if pair]
    yield from ((name, value) for name, _, value in frozen)
    claimed = predictions.question_types[index] if isinstance(predictions, AnswerPredictions) else ""
    if claimed and "question_type" not in (name for name, _, _ in frozen):
        yield "question_type", claimed


def _fairness(task: Task, metric: Mapping[str, float | None], members: Mapping[str, list[int]]) -> dict[str, Any]:
    defined = {value: number for value, number in metric.items() if number is not None}
    better = METRICS[task.main_metric].higher_is_better
    worst = (min if better else max)(sorted(defined), key=lambda value: defined[value], default=None)
    gap = max(defined.values()) - min(defined.values()) if defined else None
    values = {value: {"n": len(members[value]), "value": _rounded(metric[value])} for value in sorted(members)}
    return {"metric": task.main_metric, "values": values, "worst": worst, "gap": _rounded(gap)}


def _value(task: Task, predictions: Predictions, chosen: Sequence[int]) -> float | None:
    if len(chosen) < _SMALLEST_SUBGROUP:
        return None
    return _main_metric(task, predictions.samples(chosen)[""])


def _main_metric(task: Task, samples: Samples) -> float | None:
    return _values([task.main_metric], samples)[task.main_metric].value


def _prompt_sensitivity(task: Task, predictions: Predictions) -> dict[str, Any] | None:
    """How the main metric moves when one template stands for the whole ensemble."""
    if not isinstance(predictions, ClassificationPredictions) or not predictions.by_template.shape[1]:
        return None
    ensemble, *values = (
        _main_metric(task, Classified(probabilities, predictions.targets))
        for probabilities in (predictions.probabilities, *predictions.by_template.swapaxes(0, 1))
    )
    defined = [number for number in values if number is not None]
    return {
        "metric": task.main_metric,
        "ensemble": _rounded(ensemble),
        "templates": [_rounded(number) for number in values],
        "spread": _rounded(max(defined) - min(defined)) if defined else None,
    }


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, DIGITS)
