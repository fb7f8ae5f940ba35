"""Predictions -> scores: the one computation that both a run and its validation do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmed.metrics.classification import Classified
from vlmed.metrics.intervals import Estimate
from vlmed.metrics.table import METRICS, evaluate_samples, metrics_named, values_of
from vlmed.results.predictions import Predictions
from vlmed.suite.manifest import Row
from vlmed.suite.types import Task

DIGITS = 6
_DRAWS = 1000
_SEED = 0
# A metric of fewer samples says more about chance than about a subgroup.
_SMALLEST_SUBGROUP = 20
_NO_ROW = Row("", "", "", "", "")


def score(
    task: Task, predictions: Predictions, frozen: Mapping[str, Row] | None, intervals: bool = True
) -> dict[str, Any]:
    """The `scores` object of a unit, ready for JSON.

    Args:
        frozen: Sample id -> its row of the manifest; None where that is pending, so that nobody knows which samples
            are clean and whom they show.
        intervals: Whether to compute the 95 % intervals, which take nearly all the time.

    Raises:
        InputError: A probability is not one, or a target is out of range; names the row.
    """
    everything = np.ones(len(predictions.sample_ids), bool)
    rows = None if frozen is None else [frozen.get(name, _NO_ROW) for name in predictions.sample_ids]
    clean = None if rows is None else np.array([not row.leaks for row in rows])
    return {
        "n": {
            "all": len(predictions.sample_ids),
            "clean": None if clean is None else int(clean.sum()),
            "groups": len(set(predictions.groups)),
        },
        "metrics": {
            "all": _metrics(task, predictions, everything, intervals),
            "clean": None if clean is None else _metrics(task, predictions, clean, intervals),
        },
        "subgroups": None if rows is None else _subgroups(task, predictions, rows),
        "prompt_sensitivity": _prompt_sensitivity(task, predictions),
    }


def _metrics(task: Task, predictions: Predictions, chosen: NDArray[np.bool_], intervals: bool) -> dict[str, Any]:
    if not chosen.any():
        nothing = {"value": None, "low": None, "high": None, "undefined": "no sample is left"}
        return dict.fromkeys(task.metrics, nothing)
    samples = Classified(predictions.probabilities[chosen], predictions.targets[chosen])
    if intervals:
        groups = np.asarray(predictions.groups)[chosen]
        estimates = evaluate_samples(task.metrics, samples, groups, _DRAWS, _SEED)
    else:
        once = np.ones((len(samples), 1), np.int32)
        values = values_of(metrics_named(task.metrics), samples, once)[:, 0]
        estimates = {name: Estimate(_defined(value)) for name, value in zip(task.metrics, values, strict=True)}
    return {name: _estimate(estimate) for name, estimate in estimates.items()}


def _estimate(estimate: Estimate) -> dict[str, Any]:
    numbers = {"value": _rounded(estimate.value), "low": _rounded(estimate.low), "high": _rounded(estimate.high)}
    return numbers | ({"undefined": estimate.reason} if estimate.reason else {})


def _subgroups(task: Task, predictions: Predictions, rows: Sequence[Row]) -> dict[str, Any]:
    """The main metric of every subgroup that is large enough, the worst of them, and its distance to the best."""
    members: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, row in enumerate(rows):
        for name, _, value in (pair.partition("=") for pair in row.subgroups.split(";") if pair):
            members[name][value].append(index)
    return {
        name: _fairness(task, {value: _value(task, predictions, chosen) for value, chosen in values.items()}, values)
        for name, values in members.items()
    }


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
    return _main_metric(task, predictions.probabilities[chosen], predictions.targets[chosen])


def _main_metric(task: Task, probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float | None:
    once = np.ones((len(targets), 1), np.int32)
    value = values_of(metrics_named([task.main_metric]), Classified(probabilities, targets), once)[0, 0]
    return _defined(value)


def _prompt_sensitivity(task: Task, predictions: Predictions) -> dict[str, Any] | None:
    """How the main metric moves when one template stands for the whole ensemble."""
    templates = predictions.by_template.shape[1]
    if not templates:
        return None
    targets = predictions.targets
    values = [_main_metric(task, predictions.by_template[:, index], targets) for index in range(templates)]
    defined = [number for number in values if number is not None]
    return {
        "metric": task.main_metric,
        "ensemble": _rounded(_main_metric(task, predictions.probabilities, targets)),
        "templates": [_rounded(number) for number in values],
        "spread": _rounded(max(defined) - min(defined)) if defined else None,
    }


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, DIGITS)
