"""What several seeds of one unit say together: their mean, their spread, and how sure both leave the mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmed.metrics.intervals import student


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
    if len(values) == 1:
        return of_samples
    return math.hypot(of_samples, float(student(len(values) - 1)) * (spread(values) or 0.0) / math.sqrt(len(values)))


@dataclass(frozen=True)
class SeedError:
    """How sure its seeds leave a model's mean.

    Attributes:
        variance: Of the mean over S seeds; 0 for a single one, which shows none.
        freedom: S - 1.
    """

    variance: float = 0.0
    freedom: int = 0

    @classmethod
    def of(cls, draws: NDArray[np.float64]) -> SeedError:
        """From bootstrap draws (S, B) over samples, the same for all seeds; NaN where undefined."""
        if len(draws) == 1:
            return cls()
        known = draws[:, ~np.isnan(draws).any(axis=0)]
        if not known.size:
            return cls()
        # The mean draw stands for the seed's score: what the bootstrap shifts, it shifts alike for all seeds.
        return cls(float(np.var(known.mean(axis=1), ddof=1)) / len(draws), len(draws) - 1)
