"""Which models a paired test can tell apart, and the ranks that leaves open."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vlmed.metrics.intervals import MAX_UNDEFINED, Z, student

ALPHA = 0.05  # the chance of any false separation in a table
_SAME = 1e-7  # what rounding may leave between equal numbers


def rank_intervals(
    values: NDArray[np.float64], p: NDArray[np.float64], higher_is_better: bool
) -> list[tuple[int, int]]:
    """The lowest and highest rank of each of M models, 1 being best.

    A model's lowest rank is 1 + the number of models that are significantly better, its highest is M - the number
    that are significantly worse.

    Args:
        values: (M,), the models' scores.
        p: (M, M), p-values of their differences.
    """
    better = np.sign(values[:, None] - values[None, :]) * (1 if higher_is_better else -1) * separated(p)
    above, below = (better < 0).sum(axis=1), (better > 0).sum(axis=1)
    return [(1 + int(over), len(values) - int(under)) for over, under in zip(above, below, strict=True)]


def separated(p: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which pairs of M models differ significantly after Holm's correction over all pairs, symmetric (M, M)."""
    upper = np.triu_indices(len(p), k=1)
    significant = np.zeros(p.shape, bool)
    significant[upper] = holm(p[upper])
    return significant | significant.T


def p_values(values: NDArray[np.float64], draws: NDArray[np.float64], groups: int, trials: int) -> NDArray[np.float64]:
    """Two-sided p-values of all differences of M scores, symmetric (M, M); 1 where nothing can be said.

    The test of `vlmed.metrics.compare`, for all pairs at once: a difference over its bootstrap standard error meets
    Student's quantile. Counting draws instead could give no p-value that survives the correction over many pairs.

    Args:
        values: (M,), the models' scores.
        draws: (M, B), their scores in B bootstrap draws that are the same for all models; NaN where undefined.
        groups: Number of groups that were drawn from.
        trials: Number of independent trials that a score stands on at least.
    """
    p = np.ones((len(values), len(values)))
    usable = np.flatnonzero(np.isnan(draws).mean(axis=1) <= MAX_UNDEFINED)
    known = draws[usable][:, ~np.isnan(draws[usable]).any(axis=0)]
    if groups < 2 or known.shape[1] < 2 or len(usable) < 2:
        return p
    distance = np.abs(values[usable][:, None] - values[usable][None, :])
    error = _standard_errors(known, groups)
    # Where all draws agree, the share of discordant trials that may have stayed unseen, as in `compare`.
    reach = np.where(error > _SAME, student(groups - 1) * error, Z**2 / (trials + Z**2))
    tail = np.vectorize(math.erfc, otypes=[np.float64])(distance / reach * Z / math.sqrt(2))
    p[np.ix_(usable, usable)] = np.where(distance > _SAME, tail, 1.0)
    return p


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
    order = np.argsort(p, kind="stable")
    kept = p[order] > alpha / np.arange(len(p), 0, -1)
    rejected = np.zeros(len(p), bool)
    rejected[order] = ~np.maximum.accumulate(kept)
    return rejected
