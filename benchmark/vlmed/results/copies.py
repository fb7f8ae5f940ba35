"""Whether the predictions of one model are another's, also if noise was put over them or rows were changed.

Two honest models may agree on nearly all labels. They do not agree on the digits of probabilities that are neither 0
nor 1, on the ten best of many items, or on whole sentences; nor are they alike sure or unsure of each image of a class.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmed.results.predictions import (
    AnswerPredictions,
    ClassificationPredictions,
    Predictions,
    RetrievalPredictions,
)

FEWEST = 30  # samples below which a share says little
_MANY = 0.5  # share of telling samples on which two runs say the same
_ALL = 0.99  # likewise of all samples
_ALIKE = 0.98  # correlation of log odds
_SURE = 0.999  # a probability beyond it has no digits that tell
_SENTENCE = 5  # words from which an answer tells who gave it


def likeness(ours: Predictions, theirs: Predictions) -> str:
    """What two files have in common that no two models have, in words; empty if nothing."""
    shared = set(ours.sample_ids) & set(theirs.sample_ids)
    mine, other = _rows(ours, shared), _rows(theirs, shared)
    said, echoed = _said(ours, mine), _said(theirs, other)
    equal = np.array([one == two for one, two in zip(said, echoed, strict=True)], bool)
    if len(equal) >= FEWEST and equal.mean() >= _ALL:
        return f"{int(equal.sum())} of {len(equal)} predictions are those"
    telling = _telling(ours, mine, said) & _telling(theirs, other, echoed)
    if telling.sum() >= FEWEST and equal[telling].mean() >= _MANY:
        return f"{int(equal[telling].sum())} of {int(telling.sum())} predictions that tell models apart are those"
    if isinstance(ours, ClassificationPredictions) and isinstance(theirs, ClassificationPredictions):
        chosen = np.flatnonzero(telling)
        one, two = ours.probabilities[mine][chosen], theirs.probabilities[other][chosen]
        found = _correlation(one, two, ours.targets[mine][chosen]) if len(chosen) >= FEWEST else 0.0
        if found >= _ALIKE:
            return f"the log odds within classes correlate by {found:.4f} with those"
    return ""


def _rows(predictions: Predictions, shared: set[str]) -> list[int]:
    """The rows of the shared samples, by their ids."""
    place = {name: row for row, name in enumerate(predictions.sample_ids)}
    return [place[name] for name in sorted(shared)]


def _said(predictions: Predictions, rows: Sequence[int]) -> list[Hashable]:
    """What is predicted, rounded so that another machine's rounding changes nothing."""
    if isinstance(predictions, ClassificationPredictions):
        return [tuple(row) for row in np.round(predictions.probabilities[rows], 3).tolist()]
    if isinstance(predictions, RetrievalPredictions):
        found = predictions.image_to_text
        return [(int(found.ranks[row]), *found.top[row]) for row in rows]
    if isinstance(predictions, AnswerPredictions):
        return [predictions.answers[row] for row in rows]
    return []


def _telling(predictions: Predictions, rows: Sequence[int], said: Sequence[Any]) -> NDArray[np.bool_]:
    """Which samples tell models apart, (N,)."""
    if isinstance(predictions, ClassificationPredictions):
        unsure: NDArray[np.bool_] = predictions.probabilities[rows].max(axis=1) < _SURE
        return unsure
    if isinstance(predictions, AnswerPredictions):
        times: dict[str, int] = {}
        for answer in said:
            times[answer] = times.get(answer, 0) + 1
        return np.array([times[answer] == 1 and len(answer.split()) >= _SENTENCE for answer in said], bool)
    return np.ones(len(rows), bool)


def _correlation(ours: NDArray[np.float64], theirs: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Of the log probabilities (N, C), centred by sample and within each target, so that being right is no likeness."""
    one, two = (_centred(np.log(np.clip(each, 1e-6, 1)), targets).ravel() for each in (ours, theirs))
    size = float(np.sqrt((one @ one) * (two @ two)))
    return float(one @ two) / size if size else 0.0


def _centred(values: NDArray[np.float64], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    centred: NDArray[np.float64] = values - values.mean(axis=1, keepdims=True)
    for target in np.unique(targets):
        centred[targets == target] -= centred[targets == target].mean(axis=0)
    return centred
