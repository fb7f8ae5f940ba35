"""The JSON documents of a submission: read once, within limits, and held against their schema."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

from vlmed.errors import InputError, Problem
from vlmed.files import json_text, parse_json, read_bytes
from vlmed.results.form import follows
from vlmed.suite.load import schema_problems

_LARGEST = 8 * 2**20
# A schema's errors take some kilobytes each, and each of these might be one.
_MOST_VALUES = 200_000
_LONGEST_KEY = 200


@dataclass(frozen=True)
class Document:
    """A JSON document that follows its schema.

    Attributes:
        sha256: Of the bytes that were parsed.
        canonical: Whether these are the bytes that vlmed writes for the value.
    """

    path: Path
    value: Any
    sha256: str
    canonical: bool

    def form_problems(self) -> Iterator[Problem]:
        """A date that is no day; a warning where the bytes are not canonical.

        Only between canonical documents does a diff show what changed.
        """
        if isinstance(self.value, dict) and not _is_day(self.value.get("date", "2026-01-01")):
            yield Problem("there is no such day", str(self.path), "$.date", "YYYY-MM-DD", self.value["date"])
        if not self.canonical:
            hint = "one space of indent, sorted keys, no ASCII escapes: vlmed.files.write_json writes it"
            yield Problem("this is not in canonical form", str(self.path), hint=hint, severity="warning")


def read_document(path: Path, schema: str) -> Document:
    """A document that follows one of the JSON Schemas in `vlmed/schemas`.

    Raises:
        MissingError: There is no such file.
        InputError: It is a link, too long or too large, no strict JSON, or does not follow the schema; lists every
            place.
    """
    content = read_bytes(path, _LARGEST, links=False)
    value = parse_json(content, path)
    _check_size(value, path)
    if not follows(schema)(value) and (problems := schema_problems(value, schema, str(path))):
        raise InputError(problems)
    return Document(path, value, sha256(content).hexdigest(), _is_canonical(value, content))


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_canonical(value: Any, content: bytes) -> bool:
    try:
        return json_text(value).encode() == content
    except UnicodeEncodeError:
        return False  # a lone surrogate, which only an escape can write


def _check_size(value: Any, path: Path) -> None:
    nodes, values = [value], 0
    while nodes:
        node = nodes.pop()
        values += 1
        if isinstance(node, dict):
            if long := [key for key in node if len(key) > _LONGEST_KEY]:
                expected = f"at most {_LONGEST_KEY} characters"
                raise InputError("a key is too long", file=path, expected=expected, got=f"{long[0][:40]!r}…")
            nodes += node.values()
        elif isinstance(node, list):
            nodes += node
    if values > _MOST_VALUES:
        raise InputError(
            "this document is too large", file=path, expected=f"at most {_MOST_VALUES} values", got=str(values)
        )
