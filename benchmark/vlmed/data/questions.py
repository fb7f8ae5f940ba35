"""The questions of a VQA task: what is asked, and what may be answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmed.data.table import Sample, TaskTable
from vlmed.errors import UsageError
from vlmed.metrics.answers import candidates_of
from vlmed.suite.ledger import LEDGER, read_ledger
from vlmed.suite.manifest import FOLDER
from vlmed.suite.questions import FrozenQuestion, candidates_digest, write_questions

# What VQA-RAD and the phantom call it, and what SLAKE does.
_TYPES = ("question_type", "content_type")


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        candidates: What may be answered to a closed question; empty for an open one.
        type: The publisher's kind of question, such as its organ or abnormality; empty where there is none.
    """

    text: str
    candidates: tuple[str, ...]
    type: str


def questions(table: TaskTable, samples: Sequence[Sample]) -> dict[str, Question]:
    """Sample id -> its question, in the order of `samples`.

    The publisher's `answer_type` says which questions are closed. What may be answered to them follows from the
    answers to all closed questions of the task, whatever their split.
    """
    choices = tuple(sorted({sample.target for sample in table.samples if _closed(sample)}))
    return {sample.id: _question(sample, choices) for sample in samples}


def freeze_questions(table: TaskTable, manifests: Path = FOLDER) -> Path:
    """Write how a task's test questions are scored, for everyone without the data; gives the file's path.

    The ledger then names the file, and no frozen one is ever written again.

    Raises:
        UsageError: The ledger names them already; nothing is written.
    """
    ledger = manifests.parent / LEDGER.name
    if f"questions.{table.task.id}" in {line.id for line in read_ledger(ledger)}:
        raise UsageError(f"the questions of {table.task.id} are frozen already", file=ledger)
    tests = [sample for sample in table.samples if sample.split == "test"]
    return write_questions(table.task, (
        FrozenQuestion(
            name, "closed" if each.candidates else "open", each.type, candidates_digest(table.task, each.candidates)
        )
        for name, each in questions(table, tests).items()
    ), manifests)  # fmt: skip


def _closed(sample: Sample) -> bool:
    return sample.fields["answer_type"] == "CLOSED"


def _question(sample: Sample, choices: tuple[str, ...]) -> Question:
    text = sample.fields["question"]
    candidates = candidates_of(text, sample.target, choices) if _closed(sample) else ()
    kind = next((sample.fields[name] for name in _TYPES if sample.fields.get(name)), "")
    return Question(text, candidates, kind)
