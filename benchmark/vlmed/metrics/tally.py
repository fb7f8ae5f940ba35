"""Means over many bootstrap draws at once that do not depend on the order of the samples.

Counts are summed as integers for each distinct value, and only then multiplied with the values, from the lowest up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmed.metrics.classification import Bins, Counts, Values


def tally(values: NDArray[Any], counts: Counts) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The distinct ones of `values` (N,) in rising order, (U,), and how often each draw of counts (N, B) holds each."""
    distinct, where = np.unique(values, return_inverse=True)
    held: NDArray[np.int64] = Bins.of(where, len(distinct)).sum(counts)
    return distinct, held


def mean(values: NDArray[Any], counts: Counts) -> Values:
    """Mean of `values` (N,) in each draw of counts (N, B), float64 (B,); NaN where a draw holds no sample.

    >>> mean(np.array([1.0, 0.0, 0.5]), np.array([[1, 2], [1, 0], [0, 2]]))
    array([0.5 , 0.75])
    """
    distinct, held = tally(values, counts)
    total = held.sum(axis=0)
    quotient: Values = np.full(counts.shape[1], np.nan)
    np.divide((held * distinct[:, None]).sum(axis=0), total, out=quotient, where=total > 0)
    return quotient
