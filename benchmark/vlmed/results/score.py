"""Predictions -> scores: the one computation that both a run and its validation do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmed.metrics.classification import Classified
from vlmed.metrics.intervals import Estimate
from vlmed.metrics.table import evaluate_samples, metrics_named, values_of
from vlmed.results.predictions import Predictions
from vlmed.suite.types import Task

DIGITS = 6
_DRAWS = 1000
_SEED = 0


def score(
    task: Task, predictions: Predictions, leaks: Mapping[str, str] | None, intervals: bool = True
) -> dict[str, Any]:
    """The `scores` object of a unit, ready for JSON.

    Args:
        leaks: Sample id -> kinds of confirmed leak; None where the task's manifest is pending, so that nobody knows
            which samples are clean.
        intervals: Whether to compute the 95 % intervals, which take nearly all the time.

    Raises:
        InputError: A probability is not one, or a target is out of range; names the row.
    """
    everything = np.ones(len(predictions.sample_ids), bool)
    clean = None if leaks is None else np.array([not leaks.get(name, "") for name in predictions.sample_ids])
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


def _prompt_sensitivity(task: Task, predictions: Predictions) -> dict[str, Any] | None:
    """How the main metric moves when one template stands for the whole ensemble."""
    templates = predictions.by_template.shape[1]
    if not templates:
        return None
    metrics = metrics_named([task.main_metric])
    once = np.ones((len(predictions.targets), 1), np.int32)

    def value(probabilities: NDArray[np.float64]) -> float | None:
        return _defined(values_of(metrics, Classified(probabilities, predictions.targets), once)[0, 0])

    values = [value(predictions.by_template[:, index]) for index in range(templates)]
    defined = [number for number in values if number is not None]
    return {
        "metric": task.main_metric,
        "ensemble": _rounded(value(predictions.probabilities)),
        "templates": [_rounded(number) for number in values],
        "spread": _rounded(max(defined) - min(defined)) if defined else None,
    }


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, DIGITS)
