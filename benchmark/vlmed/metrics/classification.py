"""Metrics of class probabilities, each over many bootstrap draws at once.

A draw is a count per sample: how often it was drawn. Counts, ranks and their products are summed as integers, so a
metric of a draw equals the metric of the samples repeated, whatever their order. Where a metric is undefined it is NaN;
`Estimate` turns that into None at the edge of the package.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmed.metrics.inputs import check_inputs, check_weights

Counts = NDArray[np.integer[Any]]  # (N, B): a row per sample, a column per draw; fastest where a draw is contiguous
Values = NDArray[np.float64]  # (B,)
Indices = NDArray[np.intp]

ECE_BINS = 15
# Counts that are gathered and added up at a time: small enough to stay in a processor's cache.
_BLOCK_CELLS = 2**18
# Up to so many bins are added up one by one, in half the time; beyond, as differences of a running sum.
_FEW_BINS = 64


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
    _last: list[tuple[Counts, Counts]] = field(default_factory=list, init=False, repr=False)

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

    def confusion(self, counts: Counts) -> Counts:
        """How many samples of each target (first axis) got each prediction, for counts (N, B): (C, C, B)."""
        # Several metrics ask for the same draws one after another.
        if not self._last or self._last[0][0] is not counts:
            self._last[:] = [(counts, self.cells.sum(counts).reshape(self.classes, self.classes, -1))]
        return self._last[0][1]

    @cached_property
    def rankings(self) -> list[Ranking]:
        """Samples by score, for class 1 alone if there are two classes, else for every class against the rest."""
        scored = [1] if self.classes == 2 else range(self.classes)
        return [Ranking.of(self.probabilities[:, index], self.targets == index) for index in scored]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Samples sorted by score once, for all draws.

    Attributes:
        order: (N,) samples: the negatives by rising score, then the positives by rising score.
        below: (P,) how many negatives score less than each positive, in that order.
        upto: (P,) how many score no more.
        first: (P,) how many positives score less.
    """

    order: Indices
    below: Indices
    upto: Indices
    first: Indices

    @classmethod
    def of(cls, scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> Ranking:
        """Sorts samples by `scores` (N,)."""
        negatives, positives = np.flatnonzero(~positive), np.flatnonzero(positive)
        negatives, positives = (some[np.argsort(scores[some])] for some in (negatives, positives))
        low, high = scores[negatives], scores[positives]
        return cls(
            np.concatenate([negatives, positives]),
            np.searchsorted(low, high, "left"),
            np.searchsorted(low, high, "right"),
            np.searchsorted(high, high, "left"),
        )

    def split(self, draws: Counts) -> tuple[Counts, Counts]:
        """Of draws (B, N) the sums of the first 0, 1, ... negatives, (B, N - P + 1), and the positives, (B, P)."""
        held = draws.take(self.order, axis=1)
        negatives = len(self.order) - len(self.below)
        return _cumulative(held[:, :negatives]), held[:, negatives:]


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
        return cls(order, np.append(0, np.cumsum(np.bincount(bins, minlength=size))))

    def sum(self, counts: Counts) -> NDArray[Any]:
        """Number of samples in each bin and draw, (size, B), for counts (N, B)."""
        sums = [self._sum(draws.take(self.order, axis=1)) for draws in _blocks(counts)]
        return np.ascontiguousarray(np.concatenate(sums).T)

    def _sum(self, held: Counts) -> NDArray[Any]:
        """The same for draws (b, N) whose samples are sorted by bin, (b, size)."""
        if len(self.starts) > _FEW_BINS:
            return np.diff(_cumulative(held).take(self.starts, axis=1), axis=1)
        sums = np.zeros((len(held), len(self.starts) - 1), _wide(held))
        filled = np.flatnonzero(np.diff(self.starts))
        sums[:, filled] = np.add.reduceat(held, self.starts[filled], axis=1, dtype=sums.dtype)
        return sums

    def sum_values(self, counts: Counts, values: NDArray[np.float64]) -> Values:
        """Sum of `values` (N,) in each bin and draw, float64 (size, B), for counts (N, B)."""
        sums, rows = np.zeros((len(self.starts) - 1, counts.shape[1])), np.ascontiguousarray(counts)
        for index in np.flatnonzero(np.diff(self.starts)):
            chosen = self.order[self.starts[index] : self.starts[index + 1]]
            np.add.reduce(rows.take(chosen, axis=0) * values[chosen, None], axis=0, out=sums[index])
        return sums


def _blocks(counts: Counts) -> Iterator[Counts]:
    """Counts (N, B) as draws (b, N), each contiguous; the b of all blocks add up to B."""
    step = max(1, _BLOCK_CELLS // max(1, len(counts)))
    for start in range(0, counts.shape[1], step):
        yield np.ascontiguousarray(counts[:, start : start + step].T)


def _cumulative(draws: Counts) -> Counts:
    """Sums of the first 0, 1, ... counts of draws (B, N): one more each."""
    sums = np.zeros((len(draws), draws.shape[1] + 1), _wide(draws))
    np.cumsum(draws, axis=1, out=sums[:, 1:])
    return sums


def _wide(counts: Counts) -> np.dtype[Any]:
    """What sums of counts fit into: 32 bits at least."""
    return np.result_type(counts, np.int32)


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
        return self.of(samples, np.ascontiguousarray(weights, np.int64).T)


@ClassificationMetric
def auc(samples: Classified, counts: Counts) -> Values:
    """Area under the ROC curve in [0, 1]: the chance that a positive outscores a negative, ties counting half.

    Two classes: class 1 is positive. More: macro average one-vs-rest over the classes that have at least one positive
    and one negative. NaN if there is none. Hanley and McNeil, Radiology 143 (1982) 29-36.

    >>> auc([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.6, 0.4]], [0, 0, 1, 1])
    0.875
    """
    return _over_rankings(_auc_of, samples, counts)


def _over_rankings(of: Callable[[Ranking, Counts], Values], samples: Classified, counts: Counts) -> Values:
    """The mean over all rankings of what a metric makes of each and draws (b, N)."""
    blocks = [[of(ranking, draws) for ranking in samples.rankings] for draws in _blocks(counts)]
    return _macro(np.concatenate(blocks, axis=1))


def _auc_of(ranking: Ranking, draws: Counts) -> Values:
    negatives, positives = ranking.split(draws)
    # A negative below counts twice, one that ties once.
    won = negatives.take(ranking.below, axis=1)
    won += negatives.take(ranking.upto, axis=1)
    # Whole numbers up to 2 N**2, which float64 holds exactly for N < 67 million.
    return _ratio(_dot(positives, won) / 2, _total(positives) * negatives[:, -1])


def _total(draws: Counts) -> NDArray[np.int64]:
    """Sum of each draw, (B, N) to (B,); int32 would overflow in products."""
    total: NDArray[np.int64] = draws.sum(axis=1, dtype=np.int64)
    return total


def _dot(left: NDArray[Any], right: NDArray[Any]) -> Values:
    """Sum of products of each draw, (B, N) and (B, N) to (B,)."""
    products: Values = np.einsum("bn,bn->b", left, right, dtype=np.float64)
    return products


@ClassificationMetric
def average_precision(samples: Classified, counts: Counts) -> Values:
    """Average precision in [0, 1]: precision at each threshold, weighted by the recall gained there, not interpolated.

    Two classes: class 1 is positive. More: macro average one-vs-rest over the classes that have at least one positive
    and one negative. NaN if there is none. Samples that tie share one threshold.

    >>> average_precision([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]], [0, 0, 1, 1])
    0.8333333333333333
    """
    return _over_rankings(_average_precision_of, samples, counts)


def _average_precision_of(ranking: Ranking, draws: Counts) -> Values:
    negatives, positives = ranking.split(draws)
    running = _cumulative(positives)
    found = running[:, -1:] - running.take(ranking.first, axis=1)
    passed = found + negatives[:, -1:] - negatives.take(ranking.below, axis=1)
    # A threshold that no drawn sample passes has no precision; its positives weigh nothing.
    gained = _dot(positives, found / np.maximum(passed, 1))
    return _ratio(gained, _total(positives) * (negatives[:, -1] > 0))


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
    gaps = Bins.of(bins, ECE_BINS).sum_values(counts, top - (samples.predicted == samples.targets))
    return _ratio(np.abs(gaps).sum(axis=0), counts.sum(axis=0))


def _per_class(samples: Classified, counts: Counts) -> tuple[Counts, Counts, Counts]:
    """Hits, targets and predictions of each class in each draw, each (C, B)."""
    confusion = samples.confusion(counts)
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
