"""What class probabilities show beyond their metrics: which classes are taken for which, and how sure to be right.

Both come from one pass over a unit's prediction file and are a few hundred numbers, so that they can be kept under the
hash of that file and the digest of its task.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from vlmed.metrics.classification import ECE_BINS
from vlmed.results.classified import ClassificationPredictions

Numbers = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Outcome:
    """Counts of one unit of C classes, or of several together.

    Attributes:
        confusion: (C, C) int64, samples by target and by most probable class.
        bins: (15, 3) float64: samples whose top probability lies in (k/15, (k+1)/15], the sum of these probabilities,
            and how many of the samples were right.
    """

    confusion: Whole
    bins: Numbers

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.confusion + other.confusion, self.bins + other.bins)

    @classmethod
    def of(cls, predictions: ClassificationPredictions, leave_out: Collection[str] = ()) -> Outcome:
        """Count the predictions of the samples that are not in `leave_out`."""
        kept = np.array([name not in leave_out for name in predictions.sample_ids], bool)
        probabilities, targets = predictions.probabilities[kept], predictions.targets[kept]
        classes, predicted = probabilities.shape[1], probabilities.argmax(axis=1)
        cells = np.bincount(targets * classes + predicted, minlength=classes**2)
        return cls(cells.reshape(classes, classes), _bins(probabilities.max(axis=1), predicted == targets))

    @classmethod
    def sum(cls, parts: Iterable[Outcome]) -> Outcome:
        """The counts of one unit or more, together."""
        return reduce(cls.__add__, parts)


def _bins(top: Numbers, right: NDArray[np.bool_]) -> Numbers:
    """As `metrics.classification.ece` bins them."""
    place = np.searchsorted(np.arange(1, ECE_BINS) / ECE_BINS, top, side="left")
    sums = (np.bincount(place, weights, minlength=ECE_BINS) for weights in (None, top, right))
    return np.stack([np.asarray(one, np.float64) for one in sums], axis=1)
