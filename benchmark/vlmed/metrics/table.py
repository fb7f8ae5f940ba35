"""The one table of metrics, and its use: every metric of a set of predictions, with its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmed.errors import unknown
from vlmed.metrics.classification import (
    Classified,
    Counts,
    Indices,
    Values,
    accuracy,
    auc,
    average_precision,
    balanced_accuracy,
    ece,
    f1,
)
from vlmed.metrics.inputs import number_groups
from vlmed.metrics.intervals import Estimate, bootstrap, count_groups, interval, no_interval


class Samples(Protocol):
    """Checked predictions with their targets, as the metrics of one kind of task take them."""

    def __len__(self) -> int: ...

    @property
    def strata(self) -> NDArray[np.int64]:
        """The class (N,) of each sample; all 0 for a kind without classes."""
        ...


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Attributes:
        name: As in `tasks.yaml` and `result.json`.
        kind: The kind of task that it scores.
        function: Maps samples of that kind and counts (N, B) to values (B,), NaN where undefined.
        title: For readers.
        undefined: Why there may be no value.
        rests_on: `groups` if all groups weigh alike, `classes` if classes do, however few groups a class has.
        no_interval: Why a bootstrap interval would mislead; empty where it does not.
        higher_is_better: Else lower is.
        low, high: The range. `intervals.interval` takes it to be [0, 1].
    """

    name: str
    kind: Literal["classification", "retrieval", "vqa"]
    function: Callable[[Any, Counts], Values]
    title: str
    undefined: str = ""
    rests_on: Literal["groups", "classes"] = "groups"
    no_interval: str = ""
    higher_is_better: bool = True
    low: float = 0.0
    high: float = 1.0


_NO_PAIR = "no class has both a positive and a negative sample"
_NO_POSITIVE = "no positive and no predicted positive"
_BIASED = "binned estimates are biased upwards, and draws from them twice: an interval would miss the true error"
_ROWS = (
    Metric("auc", "classification", auc.of, "AUC", _NO_PAIR, "classes"),
    Metric("accuracy", "classification", accuracy.of, "Accuracy"),
    Metric("balanced_accuracy", "classification", balanced_accuracy.of, "Balanced accuracy", rests_on="classes"),
    Metric("f1", "classification", f1.of, "F1", _NO_POSITIVE, "classes"),
    Metric("average_precision", "classification", average_precision.of, "Average precision", _NO_PAIR, "classes"),
    Metric("ece", "classification", ece.of, "Calibration error", no_interval=_BIASED, higher_is_better=False),
)
METRICS = {metric.name: metric for metric in _ROWS}


def metrics_named(names: Sequence[str]) -> list[Metric]:
    """Rows of the table.

    Raises:
        UsageError: A name is not in the table; says which are near.
    """
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    return [METRICS[name] for name in names]


def evaluate_metrics(
    names: Sequence[str],
    probabilities: ArrayLike,
    targets: ArrayLike,
    groups: ArrayLike,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Metrics of class probabilities with their 95 % intervals, keyed by name.

    Args:
        names: Rows of the table, of kind `classification`.
        probabilities: (N, C), as `check_inputs` demands.
        targets: (N,) class indices.
        groups: (N,) names or numbers of groups.
        draws: Bootstrap draws, >= 2.
        seed: In [0, 2**32).

    Raises:
        UsageError: A name, `draws` or `seed` does not exist or fit.
        InputError: The arrays are damaged or do not fit; lists every fault with its row.
    """
    return evaluate_samples(names, Classified(np.asarray(probabilities), np.asarray(targets)), groups, draws, seed)


def evaluate_samples(
    names: Sequence[str], samples: Samples, groups: ArrayLike, draws: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """As `evaluate_metrics`, for checked samples of any kind of task."""
    metrics = metrics_named(names)
    members = number_groups(groups, len(samples))
    values = values_of(metrics, samples, np.ones((len(samples), 1), np.int32))[:, 0]
    drawn = bootstrap(lambda counts: values_of(metrics, samples, counts), members, draws, seed)
    return {
        metric.name: _estimate(metric, float(value), row, samples, members)
        for metric, value, row in zip(metrics, values, drawn, strict=True)
    }


def _estimate(metric: Metric, value: float, drawn: Values, samples: Samples, members: Indices) -> Estimate:
    if np.isnan(value):
        return Estimate(None, undefined=len(drawn), reason=metric.undefined)
    defined = drawn[~np.isnan(drawn)]
    lost = len(drawn) - len(defined)
    reason = metric.no_interval or no_interval(len(drawn), lost, count_groups(members))
    if reason:
        return Estimate(value, undefined=lost, reason=reason)
    low, high = interval(value, defined, count_groups(members), trials(metric, samples, members))
    return Estimate(value, low, high, lost)


def values_of(metrics: Sequence[Metric], samples: Samples, counts: Counts) -> Values:
    """Each metric of each draw, float64 (metrics, B), for counts (N, B)."""
    return np.array([metric.function(samples, counts) for metric in metrics]).reshape(len(metrics), counts.shape[1])


def trials(metric: Metric, samples: Samples, members: Indices) -> int:
    """How many independent trials a metric's value stands on at least.

    That is the number of groups; or, where each of K classes weighs alike, K - 1 times the groups of the rarest: so few
    trials may hide the failures that would cost a perfect score most.
    """
    if metric.rests_on == "groups":
        return count_groups(members)
    pairs = np.unique(np.stack([samples.strata, members]), axis=1)
    per_class = np.unique(pairs[0], return_counts=True)[1]
    return min(count_groups(members), int(per_class.min()) * max(1, len(per_class) - 1))
