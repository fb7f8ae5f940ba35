"""The frozen questions of a VQA task: which are closed, of what type, and what may be answered, without a word of text.

A manifest proves images and targets. This file beside it proves how a question is scored: whether it is closed, its
published type, and its candidates by a digest. The ledger names the file by its hash.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from vlmed.errors import InputError, MissingError, Problem
from vlmed.files import read_bytes, write_text
from vlmed.hashing import canonical_json, file_hash, target_digest
from vlmed.suite.ledger import LEDGER, questions_path, read_ledger
from vlmed.suite.manifest import FOLDER
from vlmed.suite.types import Task

_LARGEST = 64 * 2**20


@dataclass(frozen=True, slots=True)
class FrozenQuestion:
    """One question of the test split.

    Attributes:
        closed: `closed` or `open`.
        question_type: The publisher's kind of question; empty where there is none.
        candidates: `candidates_digest` of what may be answered; empty for an open question.
    """

    sample_id: str
    closed: str
    question_type: str
    candidates: str


COLUMNS = tuple(field.name for field in fields(FrozenQuestion))


def candidates_digest(task: Task, candidates: Sequence[str]) -> str:
    """16 hex digits that stand for candidates in their order; empty for none."""
    return target_digest(task.name, canonical_json(list(candidates)).decode()) if candidates else ""


def write_questions(task: Task, rows: Iterable[FrozenQuestion], manifests: Path = FOLDER) -> Path:
    """Write the questions of a task, sorted by sample id, and give the file's path.

    Raises:
        VlmedError: The disk is full.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(astuple(row) for row in sorted(rows, key=lambda row: row.sample_id))
    path = questions_path(task, manifests.parent)
    write_text(path, file.getvalue())
    return path


def read_questions(task: Task, manifests: Path = FOLDER) -> Mapping[str, FrozenQuestion] | None:
    """Sample id -> its frozen question, proved to be those that the ledger names; None where nobody has frozen any.

    Raises:
        MissingError: The ledger names a file that is gone.
        InputError: The file is not the frozen one, or damaged.
    """
    # The ledger stands beside the folder of manifests.
    ledger = manifests.parent / LEDGER.name
    frozen = {line.id: line.definition for line in read_ledger(ledger)}.get(f"questions.{task.id}")
    if frozen is None:
        return None
    path = questions_path(task, manifests.parent)
    if not path.is_file():
        raise MissingError(f"the questions of {task.id} are gone", file=path, hint="reinstall vlmed")
    if (got := file_hash(path)) != frozen:
        hint = "restore the file from the release"
        raise InputError("these are not the frozen questions", file=path, expected=frozen, got=got, hint=hint)
    return {row.sample_id: row for row in _rows(path)}


def _rows(path: Path) -> list[FrozenQuestion]:
    lines = list(csv.reader(io.StringIO(read_bytes(path, _LARGEST).decode())))
    if tuple(lines[0]) != COLUMNS or any(len(line) != len(COLUMNS) for line in lines):
        raise InputError("wrong columns", file=path, expected=",".join(COLUMNS))
    return [FrozenQuestion(*line) for line in lines[1:]]


def question_problems(task: Task, test: Iterable[str], manifests: Path = FOLDER) -> list[Problem]:
    """Where the frozen questions of a task are not those of its test samples."""
    try:
        frozen = read_questions(task, manifests)
    except (InputError, MissingError) as error:
        return error.problems
    if frozen is None:
        return []
    file, expected = questions_path(task).name, set(test)
    problems = [
        Problem("a test sample without exactly one frozen question", file, name)
        for name in sorted(expected ^ frozen.keys())
    ]
    return problems + [
        Problem("a closed question has candidates, an open one none", file, row.sample_id, row.closed, row.candidates)
        for row in frozen.values()
        if row.closed not in ("closed", "open") or (row.closed == "closed") != bool(row.candidates)
    ]
