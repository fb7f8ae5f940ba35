"""What several seeds of one unit say together: their mean, their spread, and how sure both leave the mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlmed.metrics.intervals import Z


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation (n - 1) over seeds; None for a single one.

    >>> spread([0.5, 0.7])
    0.141421
    """
    return round(float(np.std(values, ddof=1)), 6) if len(values) > 1 else None


def reach(of_samples: float, values: Sequence[float]) -> float:
    """Half a 95 % interval of a mean over seeds: the errors of test samples and of seeds are independent and add up.

    Args:
        of_samples: Half the interval that the test samples alone leave.
        values: The score of each seed; their standard error is that of a mean of so many draws.
    """
    of_seeds = Z * (spread(values) or 0.0) / math.sqrt(len(values))
    return math.hypot(of_samples, of_seeds)


def draws_of_mean(draws: NDArray[np.float64], seeds: Sequence[int]) -> NDArray[np.float64]:
    """Bootstrap draws (B,) of a mean over S seeds, from draws (S, B) over samples alone: the seeds are drawn, too.

    Drawing S of S seeds with replacement shows (S - 1) / S of their variance, which is made good; one seed shows none.
    Models with the same seeds meet the same draws, so that what a seed does to all of them cancels in differences.
    """
    count = len(seeds)
    mean = draws.mean(axis=0)
    if count == 1:
        return np.asarray(mean)
    state = np.random.RandomState(np.array(seeds, np.uint64).view(np.uint32))
    drawn = state.randint(count, size=(count, draws.shape[1]))
    resampled = np.take_along_axis(draws, drawn, axis=0).mean(axis=0)
    return np.asarray(mean + math.sqrt(count / (count - 1)) * (resampled - mean))
