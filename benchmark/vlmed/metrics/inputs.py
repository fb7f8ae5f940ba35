"""What metrics are given: checks that name the row that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmed.errors import InputError, Problem

SUM_TOLERANCE = 1e-5  # a row of float32 probabilities sums to 1 no better than this
_LISTED = 20  # rows that are named one by one for each kind of fault


def check_inputs(probabilities: ArrayLike, targets: ArrayLike) -> None:
    """Checks that every row is a distribution over the classes and every target is a class.

    Args:
        probabilities: Numbers (N, C) in [0, 1], N >= 1, C >= 2, each row summing to 1 within 1e-5.
        targets: Integers (N,) in [0, C).

    Raises:
        InputError: Lists every fault with its row.
    """
    given, wanted = np.asarray(probabilities), np.asarray(targets)
    problems = list(_shape_problems(given, wanted))
    if not problems:
        problems = [*_probability_problems(given), *_target_problems(wanted, given.shape[1])]
    if problems:
        raise InputError(problems)


def check_weights(weights: NDArray[Any], samples: int) -> None:
    """Checks that `weights` are non-negative integer counts of shape (B, samples).

    Raises:
        InputError: They are not; names the first draw that is wrong.
    """
    if weights.ndim != 2 or weights.shape[1] != samples or weights.dtype.kind not in "iu":
        got = f"{weights.dtype} {weights.shape}"
        raise InputError("weights do not fit the samples", expected=f"integers (draws, {samples})", got=got)
    negative = np.flatnonzero((weights < 0).any(axis=1))
    if len(negative):
        got = str(weights[negative[0]].min())
        raise InputError("weight is negative", path=f"draw {negative[0]}", expected="a count >= 0", got=got)


def number_groups(groups: ArrayLike, samples: int) -> NDArray[np.intp]:
    """The group of each sample (N,) as a number from 0 to G - 1, in the order of their names.

    Args:
        groups: (N,) names (text) or numbers (integers).
        samples: N.

    Raises:
        InputError: There is not one group per sample, or one is neither text nor an integer.
    """
    given = np.asarray(groups)
    if given.shape != (samples,):
        got = f"shape {given.shape}"
        raise InputError("groups and samples differ in length", expected=f"{samples} groups", got=got)
    if given.dtype.kind not in "iuU":
        named = np.array([isinstance(group, str) for group in given.tolist()], bool)
        problems = list(row_problems("group is no name", ~named, "text or an integer", given.astype(object)))
        if problems:
            raise InputError(problems)
    if given.dtype.kind in "iu":
        return np.unique(given, return_inverse=True)[1]
    # Names mostly come sorted already, which Python's sort uses and NumPy's does not.
    names = given.tolist()
    numbers = {name: number for number, name in enumerate(sorted(dict.fromkeys(names)))}
    return np.fromiter(map(numbers.__getitem__, names), np.intp, len(names))


def _shape_problems(probabilities: NDArray[Any], targets: NDArray[Any]) -> Iterator[Problem]:
    if probabilities.ndim != 2 or probabilities.shape[1] < 2 or probabilities.dtype.kind not in "fiu":
        got = f"{probabilities.dtype} {probabilities.shape}"
        yield Problem("probabilities are no table of numbers", expected="(samples, classes), classes >= 2", got=got)
    elif not len(probabilities):
        yield Problem("there are no samples", expected="at least one row", got="0 rows")
    elif targets.shape != (len(probabilities),):
        expected = f"{len(probabilities)} targets"
        yield Problem("probabilities and targets differ in length", expected=expected, got=f"shape {targets.shape}")
    elif targets.dtype.kind not in "iu":
        yield Problem("targets are no class indices", expected="integers", got=str(targets.dtype))


def _probability_problems(probabilities: NDArray[Any]) -> Iterator[Problem]:
    finite = np.isfinite(probabilities).all(axis=1)
    inside = ((probabilities >= 0) & (probabilities <= 1)).all(axis=1)
    with np.errstate(invalid="ignore"):  # infinities of both signs in a row
        sums = probabilities.sum(axis=1, dtype=np.float64)
        whole = np.abs(sums - 1) <= SUM_TOLERANCE
    yield from row_problems("probability is not finite", ~finite, "numbers in [0, 1]", probabilities)
    yield from row_problems("probability lies outside [0, 1]", finite & ~inside, "numbers in [0, 1]", probabilities)
    expected = f"1 within {SUM_TOLERANCE:g}"
    yield from row_problems("probabilities do not sum to 1", inside & ~whole, expected, sums)


def _target_problems(targets: NDArray[Any], classes: int) -> Iterator[Problem]:
    outside = (targets < 0) | (targets >= classes)
    yield from row_problems("target is no class", outside, f"an integer in [0, {classes - 1}]", targets)


def row_problems(what: str, wrong: NDArray[np.bool_], expected: str, got: NDArray[Any]) -> Iterator[Problem]:
    """One problem per wrong row, and after the first twenty one for the rest."""
    rows = np.flatnonzero(wrong)
    for row in rows[:_LISTED]:
        yield Problem(what, path=f"row {row}", expected=expected, got=str(np.asarray(got[row]).tolist()))
    if len(rows) > _LISTED:
        yield Problem(what, path=f"{len(rows) - _LISTED} more rows", expected=expected)
