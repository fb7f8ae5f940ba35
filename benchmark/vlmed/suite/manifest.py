"""The frozen list of a task's samples: no image, no text, no label in clear, and yet proof of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from vlmed.errors import InputError, MissingError, Problem
from vlmed.files import write_text
from vlmed.hashing import file_hash
from vlmed.suite.types import SPLITS, Task

FOLDER = Path(__file__).parent / "manifests"


@dataclass(frozen=True, slots=True)
class Row:
    """One sample of a manifest.

    Attributes:
        sample_id: The record's id.
        split: `train`, `val` or `test`.
        image: `vlmed.hashing.pixel_hash` of its image; empty where only ids could be frozen.
        group: The coarsest published identity.
        target: `vlmed.hashing.target_digest`, salted with the task's name.
        subgroups: `field=value` pairs joined by `;`.
        leaks: Kinds of confirmed leak that this test sample has, joined by `;`. Empty means clean.
    """

    sample_id: str
    split: str
    image: str
    group: str
    target: str
    subgroups: str = ""
    leaks: str = ""


COLUMNS = tuple(field.name for field in fields(Row))


@dataclass(frozen=True)
class Manifest:
    """A task's samples, sorted by id."""

    file: str
    rows: tuple[Row, ...]

    def split(self, name: str) -> list[Row]:
        """The rows of one split, in id order."""
        return [row for row in self.rows if row.split == name]

    def by_id(self) -> Mapping[str, Row]:
        """The rows keyed by sample id."""
        return {row.sample_id: row for row in self.rows}


def manifest_path(task: Task, folder: Path = FOLDER) -> Path:
    """Where a task's manifest lies."""
    return folder / f"{task.name}-v{task.version}.csv"


def read_manifest(task: Task, folder: Path = FOLDER) -> Manifest:
    """The frozen manifest of a task, proved to be the one that `tasks.yaml` names.

    Raises:
        MissingError: Nobody has frozen it yet, or the file is gone.
        InputError: The file is not the frozen one, is not sorted, or names a sample twice; lists the places.
    """
    path = manifest_path(task, folder)
    if task.pending:
        hint = f"someone with access runs `vlmed data freeze {task.name}`"
        raise MissingError(f"the manifest of {task.id} is pending: nobody with access has frozen it yet", hint=hint)
    if not path.is_file():
        raise MissingError(f"the manifest of {task.id} is gone", file=path, hint="reinstall vlmed")
    problems = _hash_problems(task, path)
    rows = _read_rows(path, problems)
    problems += _row_problems(rows, path.name)
    if problems:
        raise InputError(problems)
    return Manifest(path.name, rows)


def write_manifest(path: Path, rows: Iterable[Row]) -> str:
    """Write rows sorted by id and give the file's SHA-256.

    Raises:
        InputError: A value holds a comma, a quote or a line end, which would make the file hard to diff.
    """
    ordered = sorted(rows, key=lambda row: row.sample_id)
    lines = [",".join(COLUMNS), *(_line(row, path) for row in ordered)]
    write_text(path, "\n".join(lines) + "\n")
    return file_hash(path)


def _line(row: Row, path: Path) -> str:
    values = [str(getattr(row, column)) for column in COLUMNS]
    line = ",".join(values)
    if line.count(",") != len(values) - 1 or any(mark in line for mark in '"\n\r'):
        raise InputError("a manifest value has a comma, quote or line end", file=path, path=row.sample_id, got=line)
    return line


def _hash_problems(task: Task, path: Path) -> list[Problem]:
    got = file_hash(path)
    if got == task.manifest:
        return []
    hint = "restore the file from the release, or give the task a new version"
    return [Problem("this is not the frozen manifest", path.name, "sha256", task.manifest, got, hint)]


def _read_rows(path: Path, problems: list[Problem]) -> tuple[Row, ...]:
    convert = pacsv.ConvertOptions(column_types={name: pa.string() for name in COLUMNS}, strings_can_be_null=False)
    try:
        table = pacsv.read_csv(path, convert_options=convert)
    except pa.ArrowInvalid as error:
        raise InputError([*problems, Problem(f"this is not a manifest: {error}", path.name)]) from None
    if tuple(table.column_names) != COLUMNS:
        got = ",".join(table.column_names)
        raise InputError([*problems, Problem("wrong columns", path.name, "row 1", ",".join(COLUMNS), got)])
    columns = [_texts(table[name]) for name in COLUMNS]
    return tuple(map(Row, *columns))


def _texts(column: pa.ChunkedArray) -> list[str]:
    """A column as texts; one that stands in many rows, such as a target, takes memory once."""
    folded = column.combine_chunks().dictionary_encode()
    texts: list[str] = np.array(folded.dictionary.to_pylist(), object)[folded.indices.to_numpy()].tolist()
    return texts


def _row_problems(rows: tuple[Row, ...], file: str) -> list[Problem]:
    problems = []
    previous = ""
    for line, row in enumerate(rows, start=2):
        if row.sample_id <= previous:
            what = "a sample stands twice" if row.sample_id == previous else "the rows are not sorted by sample id"
            problems.append(Problem(what, file, f"row {line}", f"an id after {previous}", row.sample_id))
        if row.split not in SPLITS:
            problems.append(Problem("unknown split", file, f"row {line}", "train, val or test", row.split))
        previous = row.sample_id
    return problems
