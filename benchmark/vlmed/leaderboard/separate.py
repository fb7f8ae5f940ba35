"""Which models a paired test can tell apart, and the ranks that leaves open."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from vlmed.leaderboard.seeds import SeedError
from vlmed.metrics.classification import Indices
from vlmed.metrics.intervals import MAX_UNDEFINED, Z, count_groups, deviate, student
from vlmed.metrics.table import Metric, Samples, no_interval_of, scored_members, trials

ALPHA = 0.05  # the chance of any false separation in a table
_SAME = 1e-7  # what rounding may leave between equal numbers


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


def separated(deviates: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which pairs of M models differ significantly after Holm's correction over all pairs, symmetric (M, M).

    Args:
        deviates: (M, M), as of `deviates_of`.
    """
    upper = np.triu_indices(len(deviates), k=1)
    known = deviates[upper]
    significant = np.zeros(deviates.shape, bool)
    # One quantile of each level, since a p-value of each of half a million pairs would take long.
    significant[upper] = _fallen(len(known), lambda level: known >= -NormalDist().inv_cdf(level / 2), ALPHA)
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


@dataclass(frozen=True, eq=False)
class Reach:
    """How sure the differences of M scores are.

    Attributes:
        half: (M, M), how far the 95 % interval of each reaches to either side; infinite where nothing can be said.
        freedom: (M, M), or () where it is one for all: the degrees of freedom of Student's t that it stands on, >= 1.
    """

    half: NDArray[np.float64]
    freedom: NDArray[np.float64]


def metric_reaches(
    metric: Metric, draws: NDArray[np.float64], basis: Basis, seeds: Sequence[SeedError] | None = None
) -> Reach:
    """`reaches` of a metric of any kind of task; infinite for a metric, or groups, that have no interval either."""
    if no_interval_of(metric, draws.shape[1], 0, basis.groups):
        return _unknown(len(draws))
    return reaches(draws, basis.groups, basis.trials, seeds)


def deviates_of(values: NDArray[np.float64], reach: Reach) -> NDArray[np.float64]:
    """How far scores (M,) are apart (M, M), as standard normal deviates of the same two-sided p-values.

    0 where nothing can be said.
    """
    distance = np.abs(values[:, None] - values[None, :])
    return np.asarray(np.where(distance > _SAME, deviate(distance / reach.half, reach.freedom), 0.0))


def reaches(
    draws: NDArray[np.float64], groups: int, trials: int | None, seeds: Sequence[SeedError] | None = None
) -> Reach:
    """How sure the differences of M scores are, symmetric (M, M).

    The test of `vlmed.metrics.compare`, for all pairs at once: a difference over its standard error meets Student's
    quantile. Counting draws instead could give no p-value that survives the correction over many pairs. The errors of
    samples and of seeds add up; together they have the degrees of freedom of Welch (Biometrika 34, 1947, 28-35).

    Args:
        draws: (M, B), the models' scores, means over their seeds, in B bootstrap draws of the samples that are the same
            for all models; NaN where undefined.
        groups: Number of groups that were drawn from.
        trials: Number of independent trials that a score in [0, 1] stands on at least; None for a median, where draws
            that all agree show nothing.
        seeds: How sure its seeds leave each model; None for single ones.
    """
    reach = _unknown(len(draws))
    usable = np.flatnonzero(np.isnan(draws).mean(axis=1) <= MAX_UNDEFINED)
    known = draws[usable][:, ~np.isnan(draws[usable]).any(axis=0)]
    if groups < 2 or known.shape[1] < 2 or len(usable) < 2:
        return reach
    of_samples = _variances(known, groups)
    of_seeds = [(seeds or [SeedError()] * len(draws))[at] for at in usable.tolist()]
    variance, freedom = _with_seeds(of_samples, groups - 1, of_seeds)
    # Where all draws agree, the share of discordant trials that may have stayed unseen, as in `compare`.
    unseen = math.inf if trials is None else Z**2 / (trials + Z**2)
    half = np.where(variance > _SAME**2, student(freedom) * np.sqrt(variance), unseen)
    reach.half[np.ix_(usable, usable)] = half
    if not freedom.ndim:
        return Reach(reach.half, freedom)
    reach.freedom[np.ix_(usable, usable)] = freedom
    return reach


def _unknown(models: int) -> Reach:
    return Reach(np.full((models, models), math.inf), np.ones((models, models)))


def _variances(draws: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    """Of all differences of the rows of `draws` (M, B), (M, M), freed of the bootstrap's shrinkage."""
    covariance = np.cov(draws)
    variance = np.diag(covariance)
    spread = np.maximum(variance[:, None] + variance[None, :] - 2 * covariance, 0)
    return np.asarray(spread * groups / (groups - 1))


def _with_seeds(
    of_samples: NDArray[np.float64], freedom: int, seeds: Sequence[SeedError]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variances (M, M) with those of the seeds added, and their degrees of freedom, (M, M) or one for all.

    Seeds of two models count as independent, also where their numbers are equal: that may err upwards alone.
    """
    own = np.array([seed.variance for seed in seeds])
    if not own.any():
        return of_samples, np.array(float(freedom))
    squares = np.array([seed.variance**2 / seed.freedom if seed.freedom else 0.0 for seed in seeds])
    total = of_samples + own[:, None] + own[None, :]
    parts = of_samples**2 / freedom + squares[:, None] + squares[None, :]
    return total, np.divide(total**2, parts, out=np.full_like(total, freedom), where=parts > 0)


def holm(p: NDArray[np.float64], alpha: float = ALPHA) -> NDArray[np.bool_]:
    """Which of K hypotheses fall when the chance of any false rejection is held at `alpha`, (K,) bool.

    Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.

    >>> holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist()
    [True, False, False, True]
    """
    return _fallen(len(p), lambda level: p <= level, alpha)


def _fallen(count: int, meeting: Callable[[float], NDArray[np.bool_]], alpha: float) -> NDArray[np.bool_]:
    """Holm's step-down without sorting: whatever falls makes the level less strict, until nothing more meets it.

    Args:
        meeting: Which of the `count` hypotheses have a p-value of at most that level.
    """
    fallen = np.zeros(count, bool)
    while not fallen.all():
        before, fallen = fallen, meeting(alpha / np.count_nonzero(~fallen))
        if np.array_equal(before, fallen):
            break
    return fallen
