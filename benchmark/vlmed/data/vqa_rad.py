"""VQA-RAD in its OSF release, and the reader of JSON question files that it shares with the other VQA sources."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from vlmed.data.locate import holder
from vlmed.data.records import Record
from vlmed.data.tables import missing_file, read_image, refuse
from vlmed.errors import InputError, Problem

QUESTIONS = "VQA_RAD Dataset Public.json"
IMAGES = "VQA_RAD Image Folder"
HINT = (
    f"download '{QUESTIONS}' and '{IMAGES}' from https://osf.io/89kps/ (CC0 1.0, open) and put both into this folder; "
    "copies on the Hugging Face Hub lack the image names and can't be used"
)
_KEYS = ("qid", "image_name", "image_case_url", "phrase_type", "answer_type")
_OPTIONAL = (
    "question_type",
    "evaluation",
    "qid_linked_id",
    "question_rephrase",
    "question_relation",
    "question_frame",
)


@dataclass(frozen=True, slots=True)
class Question:
    """One row of a question file.

    Attributes:
        file: The file that it stands in.
        place: Where: `$[0]` in a JSON array, `line 1` in JSON lines.
        fields: Lower-case key -> stripped text.
    """

    file: Path
    place: str
    fields: Mapping[str, str]


class VqaRadSource:
    """Questions by radiologists on MedPix images; the group is the MedPix case.

    The official split is by question: `phrase_type` starts with `test` for test, all else is train, none is val.
    """

    def __init__(self, options: Mapping[str, Any], root: Path) -> None:
        del options
        self._root = holder(root, QUESTIONS)

    def records(self) -> list[Record]:
        """One record per question, in the file's order; raises as `Source.records` says."""
        rows = read_questions(self._root / QUESTIONS, _KEYS, HINT)
        ids = [f"vqa_rad-{row.fields['qid']}" for row in rows]
        refuse_duplicates(rows, ids, HINT)
        cases = _cases((row.fields["image_name"], case_id(row.fields["image_case_url"])) for row in rows)
        return [_record(sample_id, row.fields, cases) for sample_id, row in zip(ids, rows, strict=True)]

    def image(self, key: str) -> bytes:
        """The JPEG file of an `image_name`; raises as `Source.image` says."""
        return read_image(self._root / IMAGES / key, HINT)


def read_questions(path: Path, required: Iterable[str], hint: str) -> list[Question]:
    """The rows of a JSON array, or of one JSON object per line where the name ends in `.jsonl`.

    Reads UTF-8 with or without byte order mark, else Latin-1. Numbers become text and lists are
    joined by `, `; `null` counts as missing. `answer_type` is put in upper case.

    Args:
        required: Keys that need a text beside `question`; `answer` has to be there, but may be empty.

    Raises:
        MissingError: The file is not there.
        InputError: It is cut off or no list of objects, or rows lack a key or have an `answer_type` other than
            OPEN and CLOSED (all of them are listed).
    """
    text = _text(path, hint)
    raw, problems = _from_lines(text, path, hint) if path.suffix == ".jsonl" else _from_array(text, path, hint)
    rows = []
    for place, value in raw:
        if isinstance(value, dict):
            row = Question(path, place, _fields(value))
            problems += _faults(row, (*required, "question"), hint)
            rows.append(row)
        else:
            problems.append(Problem("the row is no JSON object", str(path), place, "{...}", repr(value)[:60], hint))
    refuse(problems)
    return rows


def refuse_duplicates(rows: Sequence[Question], ids: Sequence[str], hint: str) -> None:
    """Refuses rows that share an id, telling both places of each; `ids` are the ids of `rows`."""
    first: dict[str, Question] = {}
    problems = []
    for row, sample_id in zip(rows, ids, strict=True):
        known = first.setdefault(sample_id, row)
        if known is not row:
            got = f"it also stands in {known.file.name}, {known.place}"
            problems.append(Problem(f"id {sample_id!r} stands twice", str(row.file), row.place, "one row", got, hint))
    refuse(problems)


def case_id(url: str) -> str:
    """The MedPix case that a case address names, whatever its scheme, letter case and further parameters.

    >>> case_id("http://MedPix.nlm.nih.gov/case/?id=1B1E3E74&x=1") == case_id("https://medpix.nlm.nih.gov/case?id=1b1e3e74")
    True
    """
    parts = urlsplit(url.strip())
    ids = parse_qs(parts.query).get("id", [])
    return ids[0].strip().lower() if ids else f"{parts.netloc}{parts.path}".lower().rstrip("/")


def _cases(links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Image -> case, where images that share a case, over any number of steps, have the same.

    Five images of the release stand under two to four addresses that differ in the last digits only, as a
    spreadsheet's fill makes them. So the address alone would tear one image into several groups.
    """
    joined: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for image, case in links:
        nodes = (("image", image), ("case", case))
        together = set().union(*(joined.get(node, {node}) for node in nodes))
        joined.update(dict.fromkeys(together, together))
    return {
        name: min(case for kind, case in together if kind == "case")
        for (node, name), together in joined.items()
        if node == "image"
    }


def _record(sample_id: str, row: Mapping[str, str], cases: Mapping[str, str]) -> Record:
    # The release writes NULL where a question was never rephrased or framed.
    optional = {name: "" if row.get(name) == "NULL" else row.get(name, "") for name in _OPTIONAL}
    fields = {name: row[name] for name in ("question", "answer", "answer_type", "phrase_type")}
    fields |= {"organ": row.get("image_organ", ""), **optional}
    image = row["image_name"]
    split = "test" if row["phrase_type"].startswith("test") else "train"
    return Record(sample_id, image, cases[image], split, fields)


def _text(path: Path, hint: str) -> str:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise missing_file(path, "the question file", hint) from None
    except OSError as error:
        raise InputError("the file can't be read", file=path, got=error.strerror or str(error), hint=hint) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _from_array(text: str, path: Path, hint: str) -> tuple[list[tuple[str, Any]], list[Problem]]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InputError("the JSON is damaged or cut off", file=path, path=place, got=error.msg, hint=hint) from None
    if not isinstance(values, list) or not values:
        raise InputError("the file holds no rows", file=path, expected="[{...}, ...]", got=text[:60].strip(), hint=hint)
    return [(f"$[{index}]", value) for index, value in enumerate(values)], []


def _from_lines(text: str, path: Path, hint: str) -> tuple[list[tuple[str, Any]], list[Problem]]:
    rows: list[tuple[str, Any]] = []
    problems = []
    # Not splitlines(): JSON strings may hold U+2028 and its like.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append((f"line {number}", json.loads(line)))
        except json.JSONDecodeError as error:
            what = "the JSON is damaged or cut off"
            problems.append(Problem(what, str(path), f"line {number}, column {error.colno}", got=error.msg, hint=hint))
    if not rows and not problems:
        raise InputError("the file holds no rows", file=path, expected="one JSON object per line", hint=hint)
    return rows, problems


def _fields(row: Mapping[str, Any]) -> dict[str, str]:
    fields = {name.strip().lower(): _as_text(value) for name, value in row.items() if value is not None}
    if "answer_type" in fields:
        # Two rows of VQA-RAD say `CLOSED ` with a blank.
        fields["answer_type"] = fields["answer_type"].upper()
    return fields


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_as_text, value))
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).strip()


def _faults(row: Question, required: Sequence[str], hint: str) -> Iterable[Problem]:
    fields, file = row.fields, str(row.file)
    for name in required:
        if not fields.get(name):
            state = "is empty" if name in fields else "is missing"
            yield Problem(f"{name!r} {state}", file, row.place, "a text or a number", ", ".join(fields)[:120], hint)
    if "answer" not in fields:
        yield Problem("'answer' is missing", file, row.place, "a text or a number", ", ".join(fields)[:120], hint)
    kind = fields.get("answer_type")
    if kind and kind not in ("OPEN", "CLOSED"):
        yield Problem("unknown 'answer_type'", file, row.place, "OPEN or CLOSED", repr(kind), hint)
