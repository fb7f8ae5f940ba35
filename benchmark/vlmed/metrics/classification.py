"""Metrics of class probabilities, each over many bootstrap draws at once.

A draw is a count per sample: how often it was drawn. Counts, ranks and their products are summed as integers, so a
metric of a draw equals the metric of the samples repeated, whatever their order. Where a metric is undefined it is NaN;
`Estimate` turns that into None at the edge of the package.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmed.metrics.inputs import check_inputs, check_weights

Counts = NDArray[np.integer[Any]]  # (N, B): a row per sample, a column per draw
Values = NDArray[np.float64]  # (B,)
Indices = NDArray[np.intp]

ECE_BINS = 15
# Up to so many draws at once, and for the samples as they are, `np.cumsum` beats a loop over rows; beyond, its strides
# down the columns make it three times as slow.
_NARROW = 64


@dataclass(frozen=True, eq=False)
class Classified:
    """Samples with class probabilities and targets, checked once, and the orders that metrics and draws share.

    Attributes:
        probabilities: float64 (N, C), each row a distribution over C >= 2 classes.
        targets: int64 (N,), class indices in [0, C).

    Raises:
        InputError: As `check_inputs`.
    """

    probabilities: NDArray[np.float64]
    targets: NDArray[np.int64]

    def __post_init__(self) -> None:
        check_inputs(self.probabilities, self.targets)
        object.__setattr__(self, "probabilities", np.asarray(self.probabilities, np.float64))
        object.__setattr__(self, "targets", np.asarray(self.targets, np.int64))

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def classes(self) -> int:
        """C."""
        return int(self.probabilities.shape[1])

    @property
    def strata(self) -> NDArray[np.int64]:
        """The parts (N,) that a metric over classes averages; the smallest one bounds what a sample can tell."""
        return self.targets

    @cached_property
    def predicted(self) -> Indices:
        """The most probable class of each sample, (N,); ties go to the lowest index."""
        most_probable: Indices = np.argmax(self.probabilities, axis=1)
        return most_probable

    @cached_property
    def cells(self) -> Bins:
        """Samples by their cell `target * C + predicted` of the confusion matrix."""
        return Bins.of(self.targets * self.classes + self.predicted, self.classes**2)

    @cached_property
    def rankings(self) -> list[Bins]:
        """Samples by rank, for class 1 alone if there are two classes, else for every class against the rest.

        With u counting the distinct scores of the positives upwards, bin 3u holds the negatives below the u-th and
        above the one before, 3u + 1 the negatives that tie with it, 3u + 2 its positives. The last holds the
        negatives above all positives.
        """
        scored = [1] if self.classes == 2 else range(self.classes)
        return [_ranking(self.probabilities[:, index], self.targets == index) for index in scored]


def _ranking(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> Bins:
    levels = np.unique(scores[positive])
    below = np.searchsorted(levels, scores, side="left")
    ties = np.append(levels, np.inf)[below] == scores
    return Bins.of(3 * below + ties * (1 + positive), 3 * len(levels) + 1)


@dataclass(frozen=True, eq=False)
class Bins:
    """Samples sorted by the bin they fall into: bin k holds `order[starts[k] : starts[k + 1]]`."""

    order: Indices
    starts: Indices

    @classmethod
    def of(cls, bins: NDArray[np.integer[Any]], size: int) -> Bins:
        """Sorts samples by `bins` (N,), integers in [0, size)."""
        # NumPy sorts 16-bit integers by radix, twice as fast.
        order = np.argsort(bins.astype(np.min_scalar_type(size)), kind="stable")
        return cls(order, _cumulative(np.bincount(bins, minlength=size)))

    def sum(self, counts: Counts, values: NDArray[np.float64] | None = None) -> NDArray[Any]:
        """Number of samples in each bin and draw, (size, B) of the counts' type, or the sum of their `values` (N,)."""
        if values is None and counts.shape[1] <= _NARROW:
            return np.diff(_cumulative(counts.take(self.order, axis=0)).take(self.starts, axis=0), axis=0)
        dtype = counts.dtype if values is None else np.dtype(np.float64)
        sums = np.zeros((len(self.starts) - 1, counts.shape[1]), dtype)
        sizes = np.diff(self.starts)
        # Rows hold all draws, so gathering and adding them costs far less than sorting or cumulating each draw. Bins of
        # one sample, which are most bins of a ranking, are gathered at once.
        lone = np.flatnonzero(sizes == 1) if values is None else np.empty(0, np.intp)
        sums[lone] = counts.take(self.order[self.starts[lone]], axis=0)
        for index in np.setdiff1d(np.flatnonzero(sizes), lone):
            rows = self.order[self.starts[index] : self.starts[index + 1]]
            held = counts.take(rows, axis=0)
            np.add.reduce(held if values is None else held * values[rows, None], axis=0, dtype=dtype, out=sums[index])
        return sums


def _cumulative(counts: NDArray[np.integer[Any]]) -> NDArray[Any]:
    """Sums of the first 0, 1, ... rows, for (N,) or (N, B): one row more, of the same type."""
    sums = np.zeros((len(counts) + 1, *counts.shape[1:]), counts.dtype)
    np.cumsum(counts, axis=0, out=sums[1:])
    return sums


class ClassificationMetric:
    """A metric of class probabilities, callable on arrays.

    `metric(probabilities, targets)` checks its input and returns a float. With `weights`, non-negative integer counts
    (B, N), it returns one value per draw, float64 (B,). `metric.of(samples, counts)` is the same for samples that are
    checked and sorted already, and counts (N, B).
    """

    def __init__(self, of: Callable[[Classified, Counts], Values]) -> None:
        self.of = of
        functools.update_wrapper(self, of)

    @overload
    def __call__(self, probabilities: ArrayLike, targets: ArrayLike, weights: None = None) -> float: ...

    @overload
    def __call__(self, probabilities: ArrayLike, targets: ArrayLike, weights: Counts) -> Values: ...

    def __call__(self, probabilities: ArrayLike, targets: ArrayLike, weights: Counts | None = None) -> float | Values:
        samples = Classified(np.asarray(probabilities), np.asarray(targets))
        if weights is None:
            return float(self.of(samples, np.ones((len(samples), 1), np.int32))[0])
        check_weights(weights, len(samples))
        return self.of(samples, np.ascontiguousarray(weights.T, np.int64))


@ClassificationMetric
def auc(samples: Classified, counts: Counts) -> Values:
    """Area under the ROC curve in [0, 1]: the chance that a positive outscores a negative, ties counting half.

    Two classes: class 1 is positive. More: macro average one-vs-rest over the classes that have at least one positive
    and one negative. NaN if there is none. Hanley and McNeil, Radiology 143 (1982) 29-36.

    >>> auc([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.6, 0.4]], [0, 0, 1, 1])
    0.875
    """
    return _macro([_auc_of(ranking.sum(counts)) for ranking in samples.rankings])


def _auc_of(sums: Counts) -> Values:
    """From the sums over a ranking, (3U + 1, B)."""
    gaps, ties, positives = sums[0::3], sums[1::3], sums[2::3]
    upto = _running(gaps[:-1] + ties)
    # Whole numbers up to N**2, which float64 holds exactly for N < 67 million.
    won = _dot(positives, upto) - _dot(positives, ties) / 2
    return _ratio(won, _total(positives) * (_total(gaps) + _total(ties)))


def _running(sums: Counts) -> Counts:
    """Cumulative sum over the rows, (U, B)."""
    if sums.shape[1] <= _NARROW:
        return _cumulative(sums)[1:]
    running = sums.copy()
    for before, row in pairwise(running):
        row += before
    return running


def _total(sums: Counts) -> NDArray[np.int64]:
    """Sum over the rows, (U, B) to (B,); int32 would overflow in products."""
    total: NDArray[np.int64] = sums.sum(axis=0, dtype=np.int64)
    return total


def _dot(left: NDArray[Any], right: NDArray[Any]) -> Values:
    """Sum of products over the rows, (U, B) and (U, B) to (B,)."""
    products: Values = np.einsum("ub,ub->b", left, right, dtype=np.float64)
    return products


@ClassificationMetric
def average_precision(samples: Classified, counts: Counts) -> Values:
    """Average precision in [0, 1]: precision at each threshold, weighted by the recall gained there, not interpolated.

    Two classes: class 1 is positive. More: macro average one-vs-rest over the classes that have at least one positive
    and one negative. NaN if there is none. Samples that tie share one threshold.

    >>> average_precision([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]], [0, 0, 1, 1])
    0.8333333333333333
    """
    return _macro([_average_precision_of(ranking.sum(counts)) for ranking in samples.rankings])


def _average_precision_of(sums: Counts) -> Values:
    """From the sums over a ranking, (3U + 1, B)."""
    gaps, ties, positives = sums[0::3], sums[1::3], sums[2::3]
    found = _running(positives[::-1])[::-1]
    passed = found + _running((gaps[1:] + ties)[::-1])[::-1]
    # A threshold that no drawn sample passes has no precision; its positives weigh nothing.
    gained = _dot(positives, found / np.maximum(passed, 1))
    return _ratio(gained, _total(positives) * (_total(gaps) + _total(ties) > 0))


@ClassificationMetric
def accuracy(samples: Classified, counts: Counts) -> Values:
    """Share of samples whose most probable class is the target, in [0, 1].

    >>> accuracy([[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]], [0, 0, 0])
    0.6666666666666666
    """
    hits, targets, _ = _per_class(samples, counts)
    return _ratio(hits.sum(axis=0), targets.sum(axis=0))


@ClassificationMetric
def balanced_accuracy(samples: Classified, counts: Counts) -> Values:
    """Mean recall, in [0, 1], over the classes that have a sample. Brodersen et al., ICPR 2010.

    >>> balanced_accuracy([[0.9, 0.1], [0.3, 0.7], [0.4, 0.6]], [0, 0, 1])
    0.75
    """
    hits, targets, _ = _per_class(samples, counts)
    return _macro(_ratio(hits, targets))


@ClassificationMetric
def f1(samples: Classified, counts: Counts) -> Values:
    """F1, the harmonic mean of precision and recall, in [0, 1].

    Two classes: of class 1. More: macro average over the classes that are the target or the prediction of a sample.
    NaN if there is none, which takes two classes and neither a positive nor a predicted positive.

    >>> f1([[0.9, 0.1], [0.3, 0.7], [0.4, 0.6]], [0, 0, 1])
    0.6666666666666666
    """
    hits, targets, predictions = _per_class(samples, counts)
    values = _ratio(2 * hits, targets + predictions)
    return values[1] if samples.classes == 2 else _macro(values)


@ClassificationMetric
def ece(samples: Classified, counts: Counts) -> Values:
    """Expected calibration error in [0, 1]: the gap between top probability and accuracy, averaged over 15 bins.

    The bins are (k/15, (k+1)/15], weighted by their samples. Guo et al., ICML 2017. The estimate is biased upwards in
    small samples: a perfectly calibrated model does not get 0.

    >>> round(ece([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]], [0, 1, 0]), 6)
    0.3
    """
    top = samples.probabilities.max(axis=1)
    bins = np.searchsorted(np.arange(1, ECE_BINS) / ECE_BINS, top, side="left")
    gaps = Bins.of(bins, ECE_BINS).sum(counts, top - (samples.predicted == samples.targets))
    return _ratio(np.abs(gaps).sum(axis=0), counts.sum(axis=0))


def _per_class(samples: Classified, counts: Counts) -> tuple[Counts, Counts, Counts]:
    """Hits, targets and predictions of each class in each draw, each (C, B)."""
    confusion = samples.cells.sum(counts).reshape(samples.classes, samples.classes, -1)
    return np.diagonal(confusion).T, confusion.sum(axis=1), confusion.sum(axis=0)


def _ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Values:
    """The quotient, NaN where the denominator is 0."""
    quotient: Values = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _macro(per_class: ArrayLike) -> Values:
    """Mean over classes, (C, B) to (B,), of what is defined; NaN where nothing is."""
    values = np.asarray(per_class)
    defined = ~np.isnan(values)
    return _ratio(values.sum(axis=0, where=defined), defined.sum(axis=0))
