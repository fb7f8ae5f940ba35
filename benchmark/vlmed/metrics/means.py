"""The mean of bounded scores with its interval, for scores that no task's metric is about."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vlmed.errors import InputError
from vlmed.metrics.inputs import number_groups, row_problems
from vlmed.metrics.intervals import Estimate, bootstrap, count_groups, interval, no_interval
from vlmed.metrics.tally import mean


def mean_estimate(scores: ArrayLike, groups: ArrayLike, draws: int = 1000, seed: int = 0) -> Estimate:
    """The mean of scores with its 95 % interval, drawn by group as `intervals` says.

    Args:
        scores: (N,) numbers in [0, 1].
        groups: (N,) group names.

    Raises:
        InputError: A score lies outside [0, 1], or there is not one group per score; names the row.
    """
    given = np.asarray(scores, np.float64)
    if problems := list(
        row_problems("the score lies outside", ~((given >= 0) & (given <= 1)), "a number in [0, 1]", given)
    ):
        raise InputError(problems)
    if not len(given):
        return Estimate(None, reason="there is no sample")
    members = number_groups(groups, len(given))
    count = count_groups(members)
    value = float(mean(given, np.ones((len(given), 1), np.int32))[0])
    drawn = bootstrap(lambda counts: mean(given, counts), members, draws, seed)
    if reason := no_interval(draws, 0, count):
        return Estimate(value, reason=reason)
    return Estimate(value, *interval(value, drawn, count, count))
