"""SLAKE 1.0: three JSON files of questions in English and Chinese, and one folder per image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmed.data.locate import holder
from vlmed.data.records import Record
from vlmed.data.tables import read_image
from vlmed.data.vqa_rad import Question, read_questions, refuse_duplicates

HINT = (
    "download SLAKE 1.0 from https://www.med-vqa.com/slake/ or the Hub data set BoKelvin/SLAKE (CC BY 4.0, open), at "
    "revision a9083ce6c34ac3ffb17671a605962924d8a8f9e9, unpack imgs.zip, and lay out train.json, validate.json (or "
    "validation.json), test.json and imgs/xmlab*/source.jpg"
)
# The Hub copy renamed the validation file.
_FILES = {"train": ("train.json",), "val": ("validate.json", "validation.json"), "test": ("test.json",)}
_KEYS = ("qid", "img_name", "answer_type", "q_lang")
_OPTIONAL = ("modality", "location", "content_type", "base_type")


class SlakeSource:
    """Questions in two languages on CT, MRI and X-ray images; the group is the image.

    The official split keeps images apart within a language only: a Chinese train question and an English test
    question may show the same image. A task that takes one language says so in `where`.
    """

    def __init__(self, options: Mapping[str, Any], root: Path) -> None:
        del options
        self._root = holder(root, "train.json")

    def records(self) -> list[Record]:
        """One record per question, train, val, test, each in its file's order; raises as `Source.records` says."""
        rows = [(split, row) for split in _FILES for row in read_questions(self._file(split), _KEYS, HINT)]
        ids = [f"slake-{row.fields['qid']}" for _, row in rows]
        refuse_duplicates([row for _, row in rows], ids, HINT)
        return [_record(sample_id, row, split) for sample_id, (split, row) in zip(ids, rows, strict=True)]

    def image(self, key: str) -> bytes:
        """The JPEG file of an `img_name`; raises as `Source.image` says."""
        return read_image(self._root / "imgs" / key, HINT)

    def _file(self, split: str) -> Path:
        paths = [self._root / name for name in _FILES[split]]
        return next((path for path in paths if path.exists()), paths[0])


def _record(sample_id: str, row: Question, split: str) -> Record:
    image = row.fields["img_name"]
    fields = {name: row.fields[name] for name in ("question", "answer", "answer_type", "q_lang")}
    fields |= {name: row.fields.get(name, "") for name in _OPTIONAL}
    return Record(sample_id, image, image.rpartition("/")[0] or image, split, fields)
