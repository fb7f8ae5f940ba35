"""Which models a paired test can tell apart, and the ranks that leaves open."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmed.metrics.classification import Indices
from vlmed.metrics.intervals import MAX_UNDEFINED, Z, count_groups, student
from vlmed.metrics.table import Metric, Samples, no_interval_of, scored_members, trials

ALPHA = 0.05  # the chance of any false separation in a table
_SAME = 1e-7  # what rounding may leave between equal numbers


def rank_intervals(
    values: NDArray[np.float64], p: NDArray[np.float64], higher_is_better: bool
) -> list[tuple[int, int]]:
    """The lowest and highest rank of each of M models, from the p-values (M, M) of the differences of scores (M,)."""
    return ranks_of(values, separated(p), higher_is_better)


def ranks_of(values: NDArray[np.float64], apart: NDArray[np.bool_], higher_is_better: bool) -> list[tuple[int, int]]:
    """The lowest and highest rank of each of M models, 1 being best.

    A model's lowest rank is 1 + the number of models that are significantly better, its highest is M - the number
    that are significantly worse.

    Args:
        values: (M,), the models' scores.
        apart: (M, M), which of them differ significantly.
    """
    higher = apart & (values[:, None] > values[None, :])
    lower = apart & (values[:, None] < values[None, :])
    below, above = (higher, lower) if higher_is_better else (lower, higher)
    return [
        (1 + over, len(values) - under)
        for over, under in zip(above.sum(axis=1).tolist(), below.sum(axis=1).tolist(), strict=True)
    ]


def separated(p: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which pairs of M models differ significantly after Holm's correction over all pairs, symmetric (M, M)."""
    upper = np.triu_indices(len(p), k=1)
    significant = np.zeros(p.shape, bool)
    significant[upper] = holm(p[upper])
    return significant | significant.T


@dataclass(frozen=True)
class Basis:
    """What the differences of a metric stand on, for all models that scored the same samples.

    Attributes:
        groups: Number of groups that were drawn from.
        trials: Number of independent trials that a score in [0, 1] stands on at least; None for a median, where draws
            that all agree show nothing.
    """

    groups: int
    trials: int | None

    @classmethod
    def of(cls, metric: Metric, samples: Samples, members: Indices) -> Basis:
        """That of what one of the models predicted, whose strata are those of all, in groups (N,)."""
        groups = count_groups(scored_members(metric, samples, members))
        return cls(groups, None if metric.is_median else trials(metric, samples, members))


def metric_reaches(metric: Metric, draws: NDArray[np.float64], basis: Basis) -> NDArray[np.float64]:
    """`reaches` of a metric of any kind of task; infinite for a metric, or groups, that have no interval either."""
    if no_interval_of(metric, draws.shape[1], 0, basis.groups):
        return np.full((len(draws), len(draws)), math.inf)
    return reaches(draws, basis.groups, basis.trials)


def p_values(
    values: NDArray[np.float64], draws: NDArray[np.float64], groups: int, trials: int | None
) -> NDArray[np.float64]:
    """Two-sided p-values of all differences of M scores, symmetric (M, M); 1 where nothing can be said.

    Args:
        values: (M,), the models' scores.
        draws, groups, trials: As for `reaches`.
    """
    return p_of_reaches(values, reaches(draws, groups, trials))


def p_of_reaches(values: NDArray[np.float64], reach: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two-sided p-values (M, M) of the differences of scores (M,) with intervals of that reach (M, M) to each side."""
    p = np.ones(reach.shape)
    upper = np.triu_indices(len(values), k=1)
    distance = np.abs(values[upper[0]] - values[upper[1]])
    deviates = distance / reach[upper] * Z / math.sqrt(2)
    tail = np.fromiter(map(math.erfc, deviates.tolist()), np.float64, len(deviates))
    p[upper] = np.where(distance > _SAME, tail, 1.0)
    return np.minimum(p, p.T)


def reaches(draws: NDArray[np.float64], groups: int, trials: int | None) -> NDArray[np.float64]:
    """How far the 95 % interval of each difference of M scores reaches to either side, symmetric (M, M).

    The test of `vlmed.metrics.compare`, for all pairs at once: a difference over its bootstrap standard error meets
    Student's quantile. Counting draws instead could give no p-value that survives the correction over many pairs.

    Args:
        draws: (M, B), the models' scores in B bootstrap draws that are the same for all models; NaN where undefined.
        groups: Number of groups that were drawn from.
        trials: Number of independent trials that a score in [0, 1] stands on at least; None for a median, where draws
            that all agree show nothing.

    Returns:
        Infinite where nothing can be said.
    """
    reach = np.full((len(draws), len(draws)), math.inf)
    usable = np.flatnonzero(np.isnan(draws).mean(axis=1) <= MAX_UNDEFINED)
    known = draws[usable][:, ~np.isnan(draws[usable]).any(axis=0)]
    if groups < 2 or known.shape[1] < 2 or len(usable) < 2:
        return reach
    error = _standard_errors(known, groups)
    # Where all draws agree, the share of discordant trials that may have stayed unseen, as in `compare`.
    unseen = math.inf if trials is None else Z**2 / (trials + Z**2)
    reach[np.ix_(usable, usable)] = np.where(error > _SAME, student(groups - 1) * error, unseen)
    return reach


def _standard_errors(draws: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    """Of all differences of the rows of `draws` (M, B), (M, M)."""
    covariance = np.cov(draws)
    variance = np.diag(covariance)
    spread = np.maximum(variance[:, None] + variance[None, :] - 2 * covariance, 0)
    return np.asarray(np.sqrt(spread * groups / (groups - 1)))


def holm(p: NDArray[np.float64], alpha: float = ALPHA) -> NDArray[np.bool_]:
    """Which of K hypotheses fall when the chance of any false rejection is held at `alpha`, (K,) bool.

    Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.

    >>> holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist()
    [True, False, False, True]
    """
    small = np.flatnonzero(p <= alpha)  # nothing else can fall, and sorting takes long
    order = small[np.argsort(p[small], kind="stable")]
    kept = p[order] > alpha / np.arange(len(p), len(p) - len(order), -1)
    rejected = np.zeros(len(p), bool)
    rejected[order] = ~np.maximum.accumulate(kept)
    return rejected
