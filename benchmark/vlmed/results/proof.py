"""Whether a prediction file claims nothing but what is frozen and what agrees with itself, asked of whole columns.

`claims` says of each row what is wrong with it. Nearly all files are right, and of these nobody wants to know more. So
a yes here stands for no problem there; whatever is not plainly right is a no, which costs time and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from vlmed.hashing import target_digest
from vlmed.metrics.retrieval import TOP
from vlmed.results.predictions import ClassificationPredictions, Predictions, RetrievalPredictions
from vlmed.results.ranked import Found
from vlmed.suite.frozen_rows import Keyed, Rows
from vlmed.suite.types import Task

_Integers = NDArray[np.int64]


def plainly_right(task: Task, predictions: Predictions, test: Keyed) -> bool:
    """Whether `claims` would find no problem; a no says nothing, and answers to questions always get one.

    Args:
        test: The manifest's test split.
    """
    if predictions.sample_ids != test.ids or predictions.groups != test.rows.texts("group"):
        return False
    if isinstance(predictions, ClassificationPredictions):
        return _has_classes(task, predictions.targets, test.rows)
    if isinstance(predictions, RetrievalPredictions):
        keys = zip(predictions.targets, test.rows.texts("target"), strict=True)
        return all(key == target or not target for key, target in keys) and _agrees(predictions)
    return False


def _has_classes(task: Task, targets: _Integers, frozen: Rows) -> bool:
    known, numbers = frozen.folded("target")
    digests = [target_digest(task.name, spec.name) for spec in task.classes]
    places = np.array([known.index(each) if each in known else -1 for each in digests])
    return bool(((targets >= 0) & (targets < len(digests))).all() and (places[targets] == numbers).all())


def _agrees(predictions: RetrievalPredictions) -> bool:
    """Whether ranks and best items say the same, in both directions."""
    rows = {name: row for row, name in enumerate(predictions.sample_ids)}
    _, keys, times = np.unique(predictions.targets, return_inverse=True, return_counts=True)
    return all(_direction_agrees(found, rows, keys, times[keys]) for found in predictions.directions.values())


def _direction_agrees(found: Found, rows: Mapping[str, int], keys: _Integers, alike: _Integers) -> bool:
    """As the checks of `claims._Query`, for all queries at once.

    Args:
        keys: (N,) numbers of the captions that are equal.
        alike: (N,) how many items have the query's key.
    """
    size, every = min(TOP, len(keys)), np.arange(len(keys))
    listed = list(map(rows.get, chain.from_iterable(found.top)))
    if set(map(len, found.top)) != {size} or None in listed:
        return False
    top = np.array(listed).reshape(-1, size)
    if not np.diff(np.sort(top, axis=1), axis=1).all():
        return False
    relevant = keys[top] == keys[:, None]
    place = np.where(relevant.any(axis=1), relevant.argmax(axis=1) + 1, size + 1)
    ranked = (found.ranks == place) | ((found.ranks > size) & (place > size))
    ranked &= (found.ranks >= 1) & (found.ranks <= len(keys) - alike + 1)
    first, last = _strict_range(relevant, top == every[:, None], alike)
    strict = (found.strict_ranks >= np.maximum(first, found.ranks)) & (found.strict_ranks <= last)
    return bool((ranked & strict & ((alike > 1) | (found.strict_ranks == found.ranks))).all())


def _strict_range(relevant: NDArray[np.bool_], own: NDArray[np.bool_], alike: _Integers) -> tuple[_Integers, _Integers]:
    """The lowest and highest strict rank, (N,), that the best items (N, size) allow."""
    queries, size = relevant.shape
    listed, place = own.any(axis=1), own.argmax(axis=1) + 1
    wrong_behind = ~relevant & (np.arange(size) >= place[:, None])
    upto = np.cumsum(relevant, axis=1)[np.arange(queries), place - 1]
    last = np.where(wrong_behind.any(axis=1), wrong_behind.argmax(axis=1), place + alike - upto)
    return np.where(listed, place, size + 1), np.where(listed, last, queries)
