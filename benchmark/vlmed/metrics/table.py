"""The one table of metrics, and its use: every metric of a set of predictions, with its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmed.errors import unknown
from vlmed.metrics import retrieval, vqa
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
from vlmed.metrics.intervals import Estimate, bootstrap, count_groups, interval, median_interval, no_interval

Kind = Literal["classification", "retrieval", "vqa"]


class Samples(Protocol):
    """Checked predictions with their targets, as the metrics of one kind of task take them."""

    def __len__(self) -> int: ...

    @property
    def strata(self) -> NDArray[np.int64]:
        """The class (N,) of each sample, or what else its kind tells apart; all 0 where that is nothing."""
        ...


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Attributes:
        name: As in `tasks.yaml` and `result.json`.
        kind: The kind of task that it scores.
        also: Further kinds.
        function: Maps samples of that kind and counts (N, B) to values (B,), NaN where undefined.
        title: For readers.
        undefined: Why there may be no value.
        rests_on: `groups` if all groups weigh alike, `classes` if classes do, however few groups a class has.
        strata: The strata whose samples it scores; empty if all.
        no_interval: Why a bootstrap interval would mislead; empty where it does not.
        higher_is_better: Else lower is.
        low, high: The range: [0, 1] or, for a median, [1, inf].
    """

    name: str
    kind: Kind
    function: Callable[[Any, Counts], Values]
    title: str
    undefined: str = ""
    rests_on: Literal["groups", "classes"] = "groups"
    also: tuple[Kind, ...] = ()
    strata: tuple[int, ...] = ()
    no_interval: str = ""
    higher_is_better: bool = True
    low: float = 0.0
    high: float = 1.0

    @property
    def is_median(self) -> bool:
        """Whether it is a median, which has no upper bound and whose intervals are not those of a mean."""
        return self.high == inf

    def scores(self, kind: Kind) -> bool:
        """Whether it scores tasks of this kind."""
        return kind in (self.kind, *self.also)


def _accuracy(samples: Classified | vqa.Answered, counts: Counts) -> Values:
    return vqa.accuracy(samples, counts) if isinstance(samples, vqa.Answered) else accuracy.of(samples, counts)


def _of_ranks(name: str, title: str, function: retrieval.RankMetric, **options: Any) -> tuple[Metric, Metric]:
    """A row for ranks, any equal caption counting, and one for strict ranks."""
    strictly, alone = retrieval.strict(function), f"{title}, own item alone"
    return (
        Metric(name, "retrieval", function, title, **options),
        Metric(f"strict_{name}", "retrieval", strictly, alone, **options),
    )


def _of_open(name: str, title: str, function: Callable[[vqa.Answered, Counts], Values]) -> Metric:
    return Metric(name, "vqa", function, title, "no open question", strata=(vqa.OPEN,))


_NO_PAIR = "no class has both a positive and a negative sample"
_NO_POSITIVE = "no positive and no predicted positive"
_NOT_CLOSED = "no closed question"
_BIASED = "binned estimates are biased upwards, and draws from them twice: an interval would miss the true error"
_ROWS = (
    Metric("auc", "classification", auc.of, "AUC", _NO_PAIR, "classes"),
    Metric("accuracy", "classification", _accuracy, "Accuracy", also=("vqa",)),
    Metric("balanced_accuracy", "classification", balanced_accuracy.of, "Balanced accuracy", rests_on="classes"),
    Metric("f1", "classification", f1.of, "F1", _NO_POSITIVE, "classes"),
    Metric("average_precision", "classification", average_precision.of, "Average precision", _NO_PAIR, "classes"),
    Metric("ece", "classification", ece.of, "Calibration error", no_interval=_BIASED, higher_is_better=False),
    *_of_ranks("recall_at_1", "R@1", retrieval.recall_at(1)),
    *_of_ranks("recall_at_5", "R@5", retrieval.recall_at(5)),
    *_of_ranks("recall_at_10", "R@10", retrieval.recall_at(10)),
    *_of_ranks("mean_reciprocal_rank", "MRR", retrieval.mean_reciprocal_rank),
    *_of_ranks("median_rank", "Median rank", retrieval.median_rank, higher_is_better=False, low=1.0, high=inf),
    Metric("closed_accuracy", "vqa", vqa.closed_accuracy, "Closed accuracy", _NOT_CLOSED, strata=vqa.CLOSED),
    Metric(
        "balanced_closed_accuracy",
        "vqa",
        vqa.balanced_closed_accuracy,
        "Balanced closed accuracy",
        _NOT_CLOSED,
        "classes",
        strata=vqa.CLOSED,
    ),
    _of_open("open_exact_match", "Open exact match", vqa.open_exact_match),
    _of_open("open_token_f1", "Open token F1", vqa.open_token_f1),
    _of_open("open_token_recall", "Open token recall", vqa.open_token_recall),
    _of_open("open_bleu_1", "Open BLEU-1", vqa.open_bleu_1),
    _of_open("open_rouge_l", "Open ROUGE-L", vqa.open_rouge_l),
)
METRICS = {metric.name: metric for metric in _ROWS}
_KINDS: dict[type, Kind] = {Classified: "classification", retrieval.Ranked: "retrieval", vqa.Answered: "vqa"}


def metrics_named(names: Sequence[str]) -> list[Metric]:
    """Rows of the table.

    Raises:
        UsageError: A name is not in the table; says which are near.
    """
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    return [METRICS[name] for name in names]


def metrics_of(names: Sequence[str], samples: Samples) -> list[Metric]:
    """Rows of the table that score these samples.

    Raises:
        UsageError: A name is not in the table, or not for this kind; says which are.
    """
    kind = _KINDS[type(samples)]
    known = [metric.name for metric in _ROWS if metric.scores(kind)]
    for metric in metrics_named(names):
        if metric.name not in known:
            raise unknown(f"{kind} metric", metric.name, known)
    return metrics_named(names)


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
    """As `evaluate_metrics`, for checked samples of any kind of task: `Classified`, `Ranked` or `Answered`."""
    metrics = metrics_of(names, samples)
    members = number_groups(groups, len(samples))
    values = values_of(metrics, samples, np.ones((len(samples), 1), np.int32))[:, 0]
    with_interval = [metric for metric in metrics if not metric.no_interval]
    rows = bootstrap(lambda counts: values_of(with_interval, samples, counts), members, draws, seed)
    drawn = {metric.name: row for metric, row in zip(with_interval, rows, strict=True)}
    return {
        metric.name: _estimate(metric, float(value), drawn.get(metric.name, np.empty(0)), samples, members)
        for metric, value in zip(metrics, values, strict=True)
    }


def _estimate(metric: Metric, value: float, drawn: Values, samples: Samples, members: Indices) -> Estimate:
    if np.isnan(value):
        return Estimate(None, undefined=len(drawn), reason=metric.undefined)
    defined = drawn[~np.isnan(drawn)]
    lost = len(drawn) - len(defined)
    groups = count_groups(scored_members(metric, samples, members))
    if reason := no_interval_of(metric, len(drawn), lost, groups):
        return Estimate(value, undefined=lost, reason=reason)
    if metric.is_median:
        return Estimate(value, *median_interval(defined), lost)
    return Estimate(value, *interval(value, defined, groups, trials(metric, samples, members)), lost)


def no_interval_of(metric: Metric, draws: int, undefined: int, groups: int) -> str:
    """As `no_interval`, or why the metric has none on so many groups."""
    few = "fewer than six groups bound no median" if metric.is_median and groups < 6 else ""
    return metric.no_interval or no_interval(draws, undefined, groups) or few


def values_of(metrics: Sequence[Metric], samples: Samples, counts: Counts) -> Values:
    """Each metric of each draw, float64 (metrics, B), for counts (N, B)."""
    return np.array([metric.function(samples, counts) for metric in metrics]).reshape(len(metrics), counts.shape[1])


def trials(metric: Metric, samples: Samples, members: Indices) -> int:
    """How many independent trials a metric's value stands on at least.

    That is the number of groups; or, where each of K classes weighs alike, K - 1 times the groups of the rarest: so few
    trials may hide the failures that would cost a perfect score most.
    """
    scored = scored_members(metric, samples, members)
    if metric.rests_on == "groups":
        return count_groups(scored)
    classes, numbers = np.unique(samples.strata[_scored(metric, samples)], return_inverse=True)
    present = np.zeros((count_groups(scored), len(classes)), bool)
    present[scored, numbers] = True
    per_class = present.sum(axis=0)
    return min(count_groups(scored), int(per_class.min()) * max(1, len(per_class) - 1))


def scored_members(metric: Metric, samples: Samples, members: Indices) -> Indices:
    """The groups of the samples that a metric scores, numbered anew from 0, for the groups (N,) of all."""
    if not metric.strata:
        return members
    return np.unique(members[_scored(metric, samples)], return_inverse=True)[1]


def _scored(metric: Metric, samples: Samples) -> NDArray[np.bool_]:
    return np.isin(samples.strata, metric.strata) if metric.strata else np.ones(len(samples), bool)
