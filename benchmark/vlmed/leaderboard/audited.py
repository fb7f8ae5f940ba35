"""What audits say of a model: who ran it again, on how many samples, and what came out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vlmed.files import read_json
from vlmed.leaderboard.read import Entry
from vlmed.results.audits import FOLDER
from vlmed.results.untrusted import printable


@dataclass(frozen=True)
class Audit:
    """One record.

    Attributes:
        file: Its place among the submissions.
        record: Its content, as `schemas/audit.schema.json` describes it; texts are printable.
    """

    run: str
    file: str
    record: dict[str, Any]


def audits_of(entries: Iterable[Entry]) -> list[Audit]:
    """Every audit of accepted runs, run by run and by the names of their files; validation has checked their form."""
    return [
        Audit(entry.run, f"{entry.path}/{FOLDER}/{path.name}", printable(read_json(path)))
        for entry in entries
        for path in sorted((entry.folder / FOLDER).glob("*.json"))
    ]
