"""Published tables and image files, read with every fault named."""

from __future__ import annotations

import csv
import difflib
import io
import math
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from vlmed.data.records import Record
from vlmed.errors import InputError, MissingError, Problem

Row = dict[str, str]


def missing_file(path: Path, what: str, hint: str) -> MissingError:
    """The error for a published file that is not at `path`; `hint` says where to get it and under which licence."""
    return MissingError(f"{what} is not there", file=path, hint=hint)


def refuse(problems: Sequence[Problem]) -> None:
    """Raises one InputError with all `problems`, if there are any."""
    if problems:
        raise InputError(problems)


def read_csv(path: Path, required: Iterable[str] = (), hint: str = "") -> list[Row]:
    """The rows of a comma-separated file, each as column -> text, in the file's order.

    Reads UTF-8 with or without byte order mark, else Latin-1, and any line ends. Column names and cells are
    stripped; columns beyond `required` are kept; blank lines are skipped.

    Raises:
        MissingError: The file is not there.
        InputError: It is empty, lacks a required column, names one twice, or has rows of another length (all of
            them are listed, with their line).

    >>> read_csv(Path("no.csv"), hint="see https://example.org")
    Traceback (most recent call last):
        ...
    vlmed.errors.MissingError: no.csv: the table is not there
      next: see https://example.org
    """
    lines = _lines(_text(path, hint), path, hint)
    if not lines:
        raise InputError("the table is empty", file=path, expected="a header line and rows", hint=hint)
    columns = [name.strip() for name in lines[0][1]]
    check_columns(columns, required, path, hint)
    refuse(
        [
            Problem("wrong number of cells", str(path), f"line {number}", f"{len(columns)}", f"{len(cells)}", hint)
            for number, cells in lines[1:]
            if len(cells) != len(columns)
        ]
    )
    # Interned cells keep tables of half a million rows, whose values repeat, small.
    return [dict(zip(columns, (sys.intern(cell.strip()) for cell in cells), strict=True)) for _, cells in lines[1:]]


def check_columns(columns: Sequence[str], required: Iterable[str], path: Path, hint: str = "") -> None:
    """Refuses a table that names a column twice or lacks a required one, telling the nearest columns present."""
    twice = sorted(name for name, count in Counter(columns).items() if name and count > 1)
    problems = [Problem(f"column {name!r} stands twice", str(path), "the header", hint=hint) for name in twice]
    for name in required:
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=3, cutoff=0.5) or columns[:20]
            got = ", ".join(map(repr, near))
            problems.append(Problem(f"column {name!r} is missing", str(path), "the header", repr(name), got, hint))
    refuse(problems)


def collect(rows: Iterable[Row], make: Callable[[Row], Record], path: Path, hint: str = "") -> list[Record]:
    """A record from each row; the faults of all rows are collected.

    Args:
        make: Builds one record, or raises InputError without saying where.
        path: The table, named in the faults together with the row's number (the first after the header is 1).

    Raises:
        InputError: Rows that `make` refuses, and ids that come twice.
    """
    records: list[Record] = []
    problems: list[Problem] = []
    first: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        try:
            record = make(row)
        except InputError as error:
            where = f"row {number}"
            problems += [replace(problem, file=str(path), path=where, hint=hint) for problem in error.problems]
            continue
        earlier = first.setdefault(record.id, number)
        if earlier != number:
            got = f"{record.id}, as in row {earlier}"
            problems.append(Problem("the row repeats an id", str(path), f"row {number}", "each id once", got, hint))
        records.append(record)
    refuse(problems)
    return records


def pick(row: Mapping[str, str], column: str, allowed: Collection[str]) -> str:
    """The cell of a column that has a closed set of values.

    Raises:
        InputError: Any other value; says which are allowed.
    """
    value = row[column]
    if value not in allowed:
        expected = ", ".join(map(repr, allowed))
        raise InputError(f"unknown value in column {column!r}", expected=f"one of {expected}", got=repr(value))
    return value


def age_band(age: str) -> str:
    """The decade of an age in years, empty for an unknown one.

    Raises:
        InputError: `age` is no number from 0 to 130.

    >>> age_band("80.0"), age_band("7"), age_band("nan")
    ('80-89', '0-9', '')
    """
    if age.lower() in ("", "nan", "unknown"):
        return ""
    try:
        years = float(age)
    except ValueError:
        years = math.inf
    if not 0 <= years <= 130:
        raise InputError("the age is no number of years", expected="0 to 130, or nothing", got=repr(age))
    decade = int(years) // 10 * 10
    return f"{decade}-{decade + 9}"


def read_image(path: Path, hint: str = "") -> bytes:
    """The bytes of an image file, after decoding it once to be sure that it is whole.

    Raises:
        MissingError: The file is not there.
        InputError: PIL can't decode it to its last row.
    """
    content = _bytes(path, "the image", hint)
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    # Which exception damaged bytes cause depends on PIL's plugin: OSError, SyntaxError, struct.error, IndexError, ...
    except Exception as error:
        reason = "no image format that PIL knows" if isinstance(error, UnidentifiedImageError) else str(error)
        got = f"{len(content)} bytes, {reason}"
        raise InputError("the image can't be decoded", file=path, got=got, hint=hint) from error
    return content


def _bytes(path: Path, what: str, hint: str) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise missing_file(path, what, hint) from None
    except OSError as error:
        raise InputError(f"{what} can't be read", file=path, got=error.strerror or str(error), hint=hint) from error


def _text(path: Path, hint: str) -> str:
    content = _bytes(path, "the table", hint)
    if b"\0" in content:
        raise InputError("the table holds NUL bytes", file=path, expected="text in UTF-8 or Latin-1", hint=hint)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _lines(text: str, path: Path, hint: str) -> list[tuple[int, list[str]]]:
    """Lines that are not blank, each with the number of the line that it ends on."""
    # Without strict, a quote that is never closed swallows the rest of the table in silence.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        got = f"{error} (line {reader.line_num})"
        raise InputError("the table is no comma-separated text", file=path, got=got, hint=hint) from error
