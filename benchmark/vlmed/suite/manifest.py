"""The frozen list of a task's samples: no image, no text, no label in clear, and yet proof of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from vlmed.errors import InputError, MissingError, Problem
from vlmed.files import new_file
from vlmed.hashing import file_hash
from vlmed.suite.frozen_rows import COLUMNS, SCHEMA, Keyed, Row, Rows
from vlmed.suite.types import SPLITS, Task

FOLDER = Path(__file__).parent / "manifests"


@dataclass(frozen=True)
class Manifest:
    """A task's samples, sorted by id."""

    file: str
    rows: Sequence[Row]

    def split(self, name: str) -> Rows:
        """The rows of one split, in id order."""
        return Rows.of(self.rows).of_split(name)

    def by_id(self) -> Keyed:
        """The rows keyed by sample id."""
        return Keyed(Rows.of(self.rows))


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
    with new_file(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(",".join(COLUMNS) + "\n")
        file.writelines(f"{_line(row, path)}\n" for row in Rows.of(rows).by_id())
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


def _read_rows(path: Path, problems: list[Problem]) -> Rows:
    convert = pacsv.ConvertOptions(column_types=SCHEMA, strings_can_be_null=False)
    try:
        table = pacsv.read_csv(path, convert_options=convert)
    except pa.ArrowInvalid as error:
        raise InputError([*problems, Problem(f"this is not a manifest: {error}", path.name)]) from None
    if tuple(table.column_names) != COLUMNS:
        got = ",".join(table.column_names)
        raise InputError([*problems, Problem("wrong columns", path.name, "row 1", ",".join(COLUMNS), got)])
    return Rows(table)


def _row_problems(rows: Rows, file: str) -> list[Problem]:
    if _plainly_right(rows):
        return []
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


def _plainly_right(rows: Rows) -> bool:
    """Whether there is no problem, asked of whole columns."""
    ids = rows.texts("sample_id").array
    # Arrow compares texts by their bytes in UTF-8, which sorts them as Python does.
    rising = pc.all(pc.greater(ids[1:], ids[:-1])).as_py() and ids[0].as_py()
    return bool(rising) and set(rows.folded("split")[0]) <= set(SPLITS)
