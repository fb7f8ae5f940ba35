"""How well two ratings of the same things agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from vlmed.errors import InputError


@dataclass(frozen=True)
class Agreement:
    """Two ratings of N things, compared.

    Attributes:
        n: How many things were rated twice.
        exact: Share of equal ratings, in [0, 1].
        mean_difference: Mean absolute difference, in the unit of the ratings.
        alpha: Krippendorff's alpha for interval data, at most 1; 0 is what chance gives. None where the ratings
            do not vary, so that nothing can be told apart.
    """

    n: int
    exact: float | None
    mean_difference: float | None
    alpha: float | None


def agreement(first: ArrayLike, second: ArrayLike) -> Agreement:
    """Compares two ratings.

    Alpha is 1 - observed / expected squared difference (Krippendorff, Content Analysis, 2004, chapter 11), with what
    is expected taken over all pairs among the 2 N ratings.

    Args:
        first, second: (N,) numbers; NaN where there is no rating, which leaves the pair out.

    Raises:
        InputError: They are no columns of one length.

    >>> agreement([10, 20, 30], [10, 20, 40])
    Agreement(n=3, exact=0.6666666666666666, mean_difference=3.3333333333333335, alpha=0.8780487804878049)
    """
    mine, theirs = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if mine.ndim != 1 or mine.shape != theirs.shape:
        got = f"{mine.shape} and {theirs.shape}"
        raise InputError("two ratings differ in length", expected="two columns (N,)", got=got)
    both = ~(np.isnan(mine) | np.isnan(theirs))
    mine, theirs = mine[both], theirs[both]
    if not len(mine):
        return Agreement(0, None, None, None)
    apart = np.abs(mine - theirs)
    expected = 2 * float(np.concatenate([mine, theirs]).var(ddof=1))
    alpha = 1 - float((apart**2).mean()) / expected if expected else None
    return Agreement(len(mine), float((apart == 0).mean()), float(apart.mean()), alpha)
