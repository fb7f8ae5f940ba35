"""Paired comparison of two models on the same samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from vlmed.errors import InputError
from vlmed.metrics.classification import Indices, Values
from vlmed.metrics.inputs import number_groups
from vlmed.metrics.intervals import Z, bootstrap, count_groups, deviate, standard_error, student
from vlmed.metrics.table import Metric, Samples, metrics_of, no_interval_of, scored_members, trials, values_of


@dataclass(frozen=True)
class Difference:
    """The first model's metric minus the second's.

    Attributes:
        value: In [-1, 1], but for a median; None where either metric is undefined.
        low, high: The 95 % interval; None where there is none.
        p: Two-sided, for the hypothesis of no difference; below 0.05 exactly where the interval leaves 0 out.
        undefined: Draws in which either metric was undefined; they are left out.
        reason: Why a number is None; empty if none is.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    undefined: int = 0
    reason: str = ""


def compare_metrics(
    names: Sequence[str], first: Samples, second: Samples, groups: ArrayLike, draws: int = 1000, seed: int = 0
) -> dict[str, Difference]:
    """How two models differ in each metric, keyed by its name.

    Both models are scored on the same draws of groups, so that what is hard for both cancels.

    Args:
        names: Rows of the table.
        first, second: The models' predictions of the same samples in the same order.
        groups: (N,) names or numbers of groups.
        draws: Bootstrap draws, >= 2.
        seed: In [0, 2**32).

    Raises:
        UsageError: A name, `draws` or `seed` does not exist or fit.
        InputError: The models do not share their samples, or the groups do not fit them.
    """
    metrics = metrics_of(names, first)
    _check_paired(first, second)
    members = number_groups(groups, len(first))
    one = np.ones((len(first), 1), np.int32)
    values = (values_of(metrics, first, one) - values_of(metrics, second, one))[:, 0]
    drawn = bootstrap(
        lambda counts: values_of(metrics, first, counts) - values_of(metrics, second, counts), members, draws, seed
    )
    return {
        metric.name: _difference(metric, float(value), row, first, members)
        for metric, value, row in zip(metrics, values, drawn, strict=True)
    }


def _check_paired(first: Samples, second: Samples) -> None:
    if len(first) != len(second):
        expected, got = f"{len(first)} samples", f"{len(second)}"
        raise InputError("the models were not scored on the same samples", expected=expected, got=got)
    differing = np.flatnonzero(first.strata != second.strata)
    if len(differing):
        row = differing[0]
        expected, got = f"target {first.strata[row]}", f"target {second.strata[row]}"
        raise InputError(
            "the models were not scored on the same targets", path=f"row {row}", expected=expected, got=got
        )


def _difference(metric: Metric, value: float, drawn: Values, samples: Samples, members: Indices) -> Difference:
    if math.isnan(value):
        return Difference(None, undefined=len(drawn), reason=metric.undefined)
    defined = drawn[~np.isnan(drawn)]
    lost = len(drawn) - len(defined)
    groups = count_groups(scored_members(metric, samples, members))
    reason = no_interval_of(metric, len(drawn), lost, groups)
    if metric.is_median and not reason and standard_error(defined, groups) == 0:
        reason = "all draws give one difference of medians, which shows no spread"
    if reason:
        return Difference(value, undefined=lost, reason=reason)
    low, high, p = _test(value, defined, groups, trials(metric, samples, members))
    span = metric.high - metric.low
    return Difference(value, max(-span, low), min(span, high), p, lost)


def _test(value: float, drawn: Values, groups: int, independent: int) -> tuple[float, float, float]:
    """Low, high and p of a difference whose sampling distribution is near normal, and its error known from the groups.

    Where all draws agree the reach is the share of discordant trials that may have stayed unseen (Wilson's bound at 0).
    """
    reach = float(student(groups - 1)) * standard_error(drawn, groups) or Z**2 / (independent + Z**2)
    p = 2 * NormalDist().cdf(-float(deviate(abs(value) / reach, groups - 1)))
    return value - reach, value + reach, p
