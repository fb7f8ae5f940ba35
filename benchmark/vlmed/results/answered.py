"""Prediction files of VQA tasks: raw answers, and what they were compared with.

Open answers are scored by their words, so that the targets stand in the file in clear. Whoever publishes a file of a
data set that is not open publishes these; `validate` warns of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from vlmed.metrics.vqa import Answered, score_answers
from vlmed.results.columns import lists, parse_table, schema_of, stored_texts, texts, write_table

_LIST = pa.list_(pa.string())
SCHEMA = schema_of(
    target=pa.string(),
    closed=pa.bool_(),
    candidates=_LIST,
    lettered=pa.bool_(),
    question_type=pa.string(),
    answer=pa.string(),
).append(pa.field("parsed", pa.string()))


@dataclass(frozen=True, eq=False)
class AnswerPredictions:
    """Raw answers of one unit, in sample id order. The parsed ones and all scores follow from them.

    Attributes:
        sample_ids: N ids.
        groups: N group names, by which intervals are drawn.
        targets: N claimed target answers in clear, as the publisher spells them.
        closed: (N,) bool, whether the question is closed.
        candidates: N lists of what may be answered to a closed question, as `metrics.answers.candidates_of` gives it;
            empty for an open one.
        answers: N raw outputs.
        question_types: N published kinds of question; empty texts where the publisher gives none.
        lettered: (N,) bool, whether the prompt listed the candidates as A, B, ...
        claimed: The parsed answers that a file claims, None where there is none; None if made and not read.
    """

    sample_ids: Sequence[str]
    groups: Sequence[str]
    targets: Sequence[str]
    closed: NDArray[np.bool_]
    candidates: Sequence[tuple[str, ...]]
    answers: Sequence[str]
    question_types: Sequence[str]
    lettered: NDArray[np.bool_]
    claimed: Sequence[str | None] | None = None

    @cached_property
    def answered(self) -> Answered:
        """The answers, parsed and scored.

        Raises:
            InputError: A closed question lacks its target among its candidates; lists every row.
        """
        return score_answers(self.answers, self.targets, self.closed, self.candidates, lettered=self.lettered)

    def samples(self, rows: ArrayLike) -> dict[str, Answered]:
        """As `predictions.Predictions` says; raises as `answered`."""
        return {"": self.answered.take(rows)}

    def claims(self, rows: ArrayLike) -> list[Any]:
        """What `rows` claim of their questions, as JSON: target, closed, candidates."""
        return [
            [self.targets[row], bool(self.closed[row]), list(self.candidates[row])]
            for row in np.arange(len(self.targets))[np.asarray(rows)]
        ]


def write_answered(path: Path, predictions: AnswerPredictions) -> None:
    """As `predictions.write_predictions`; writes the parsed answers, whatever was claimed."""
    columns = [
        texts(predictions.sample_ids),
        texts(predictions.groups),
        texts(predictions.targets),
        pa.array(predictions.closed, pa.bool_()),
        pa.array(predictions.candidates, _LIST),
        pa.array(predictions.lettered, pa.bool_()),
        texts(predictions.question_types),
        texts(predictions.answers),
        pa.array(predictions.answered.parsed, pa.string()),
    ]
    write_table(path, columns, SCHEMA)


def parse_answered(content: bytes, path: Path, most_rows: int | None = None) -> AnswerPredictions:
    """As `predictions.parse_predictions`."""
    table = parse_table(content, path, SCHEMA, most_rows)
    column = {name: table[name].to_pylist() for name in SCHEMA.names[2:] if name != "candidates"}
    return AnswerPredictions(
        sample_ids=stored_texts(table, "sample_id"),
        groups=stored_texts(table, "group"),
        targets=column["target"],
        closed=np.array(column["closed"], bool),
        candidates=lists(table, "candidates", path),
        answers=column["answer"],
        question_types=column["question_type"],
        lettered=np.array(column["lettered"], bool),
        claimed=column["parsed"],
    )
