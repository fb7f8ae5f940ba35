"""The samples that a unit gets most wrong, for a person who wants to look at them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmed.results.predictions import AnswerPredictions, ClassificationPredictions, Predictions, RetrievalPredictions
from vlmed.suite.types import Task

_SHOWN = 60


@dataclass(frozen=True)
class Mistake:
    """One sample.

    Attributes:
        loss: What it is sorted by: -ln p of the true class, the rank of the true caption, or 1 - token F1.
        what: What the model did, in words.
    """

    sample_id: str
    group: str
    loss: float
    what: str


def worst_samples(task: Task, predictions: Predictions, rows: NDArray[np.int64], number: int = 10) -> list[Mistake]:
    """The wrongly predicted samples among `rows` with the highest loss, worst first, ties by id.

    Args:
        rows: Indices (M,) of the samples to look at.
    """
    mistakes = sorted(_mistakes(task, predictions, rows.tolist()), key=lambda each: (-each.loss, each.sample_id))
    return mistakes[:number]


def _mistakes(task: Task, predictions: Predictions, rows: Iterable[int]) -> Iterator[Mistake]:
    if isinstance(predictions, ClassificationPredictions):
        return _misclassified(task, predictions, rows)
    if isinstance(predictions, RetrievalPredictions):
        return _missed(predictions, rows)
    if isinstance(predictions, AnswerPredictions):
        return _misanswered(predictions, rows)
    raise TypeError(f"no mistakes are known of {type(predictions).__name__}")


def _misclassified(task: Task, predictions: ClassificationPredictions, rows: Iterable[int]) -> Iterator[Mistake]:
    names = [spec.name for spec in task.classes]
    for row in rows:
        odds, target = predictions.probabilities[row], int(predictions.targets[row])
        said = int(odds.argmax())
        # A tie that the true class shares is no mistake of which anything could be seen.
        if odds[said] > odds[target]:
            loss = -math.log(odds[target]) if odds[target] > 0 else math.inf
            what = f"{names[target]}: p = {odds[target]:.3f}; said {names[said]}: p = {odds[said]:.3f}"
            yield Mistake(predictions.sample_ids[row], predictions.groups[row], loss, what)


def _missed(predictions: RetrievalPredictions, rows: Iterable[int]) -> Iterator[Mistake]:
    found, gallery = predictions.image_to_text, len(predictions.sample_ids)
    for row in rows:
        if (rank := int(found.ranks[row])) > 1:
            what = f"its caption has rank {rank} of {gallery}; first came that of {found.top[row][0]}"
            yield Mistake(predictions.sample_ids[row], predictions.groups[row], float(rank), what)


def _misanswered(predictions: AnswerPredictions, rows: Iterable[int]) -> Iterator[Mistake]:
    answered = predictions.answered
    for row in rows:
        if not answered.exact[row]:
            said, target = _short(predictions.answers[row]), _short(predictions.targets[row])
            unparsed = "" if answered.parsed[row] is not None else ", which is none of its answers"
            what = f"{target!r} is true; said {said!r}{unparsed}"
            yield Mistake(predictions.sample_ids[row], predictions.groups[row], 1 - float(answered.token_f1[row]), what)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
