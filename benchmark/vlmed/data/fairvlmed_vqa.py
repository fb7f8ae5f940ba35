"""Questions on Harvard-FairVLMed10k that a holder of its licence writes, or has written by an LLM, from the notes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmed.data.fairvlmed import FairVLMedSource
from vlmed.data.locate import holder
from vlmed.data.records import Record
from vlmed.data.tables import refuse
from vlmed.data.vqa_rad import Question, read_questions, refuse_duplicates
from vlmed.errors import Problem

QUESTIONS = "fairvlmed_vqa.jsonl"
HINT = (
    "the questions were never published with the data: get Harvard-FairVLMed10k (CC BY-NC-ND 4.0: non-commercial "
    "research only), write one open and one closed question per image from its clinical note with a model that the "
    f"licence lets you use, and put them as {QUESTIONS} beside Training/, Validation/ and Test/, one JSON object per "
    'line: {"filename": "data_00001.npz", "question": "...", "answer": "...", "answer_type": "OPEN" or "CLOSED"}'
)
# Of the published columns, those about the patient; the note would give the answers away.
_PATIENT = ("sex", "age_band", "race", "ethnicity", "language", "maritalstatus")


class FairVlmedVqaSource:
    """Questions on SLO fundus images; images, patients and splits are FairVLMed's own.

    An image has at most one question of each `answer_type`, so that ids do not depend on the order of lines.
    """

    def __init__(self, options: Mapping[str, Any], root: Path) -> None:
        self._path = holder(root, "Test") / QUESTIONS
        self._images = FairVLMedSource(options, root)

    def records(self) -> list[Record]:
        """One record per question, in the file's order; raises as `Source.records` says."""
        rows = read_questions(self._path, ("filename", "answer_type"), HINT)
        stems = [Path(row.fields["filename"]).stem for row in rows]
        kinds = [row.fields["answer_type"].lower() for row in rows]
        ids = [f"fairvlmed_vqa-{stem}-{kind}" for stem, kind in zip(stems, kinds, strict=True)]
        refuse_duplicates(rows, ids, HINT)
        eyes = {record.group: record for record in self._images.records()}
        refuse([_no_eye(row) for row, stem in zip(rows, stems, strict=True) if stem not in eyes])
        return [_record(id_, row.fields, eyes[stem]) for id_, row, stem in zip(ids, rows, stems, strict=True)]

    def image(self, key: str) -> bytes:
        """The photograph of an eye as a grey PNG; raises as `Source.image` says."""
        return self._images.image(key)


def _record(sample_id: str, row: Mapping[str, str], eye: Record) -> Record:
    fields = {name: row[name] for name in ("question", "answer", "answer_type")}
    fields |= {name: eye.fields[name] for name in _PATIENT}
    return Record(sample_id, eye.image, eye.group, eye.split, fields)


def _no_eye(row: Question) -> Problem:
    wanted = "a file name of data_summary.csv"
    return Problem("no such image", str(row.file), row.place, wanted, repr(row.fields["filename"]), HINT)
