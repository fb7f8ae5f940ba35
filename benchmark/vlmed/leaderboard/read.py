"""A folder of submissions -> the runs that anyone can believe, and why the others are left out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from vlmed.errors import MissingError, Problem, errors_in
from vlmed.files import parse_json
from vlmed.results import audits
from vlmed.results.description import Description, read_description
from vlmed.results.many import Validator
from vlmed.results.places import EXPECTED, NAME
from vlmed.results.submit import retraction_problems
from vlmed.results.unit_check import Choice
from vlmed.results.untrusted import printable
from vlmed.suite.manifest import FOLDER
from vlmed.suite.types import Suite

_MODEL_FOLDER = re.compile(rf"({NAME})__({NAME})")
_RUN_FOLDER = re.compile(NAME)


@dataclass(frozen=True)
class Run:
    """A model's run.

    Attributes:
        result: Its `result.json`; control characters and lone surrogates in texts are replaced by U+FFFD.
    """

    org: str
    model: str
    run: str
    result: Mapping[str, Any]

    @property
    def path(self) -> str:
        """The folder's place among the submissions."""
        return f"{self.org}__{self.model}/{self.run}"


@dataclass(frozen=True)
class Entry(Run):
    """One accepted run.

    Attributes:
        folder: Where it lies.
        sha256: Of `result.json`, which its audits name.
        description: What its submitter says; None for the oldest.
    """

    folder: Path
    sha256: str
    description: Description | None = None

    @property
    def control(self) -> bool:
        """Whether the model is a control, which is shown but never ranked."""
        return "control" in (self.result["model"]["kind"], self.result["model"]["family"])

    @cached_property
    def verified(self) -> frozenset[str]:
        """The units that an audit confirmed and none contradicted."""
        return audits.verified(self.folder, self.result, self.sha256)

    @cached_property
    def contradicted(self) -> frozenset[str]:
        """The units that an audit contradicted."""
        return audits.contradicted(self.folder, self.sha256)

    def files(self) -> Iterator[str]:
        """The evidence, relative to the run's folder."""
        yield "result.json"
        yield from (["submission.json"] if self.description else [])
        yield from sorted({unit["predictions"]["file"] for unit in self.result["units"]})
        yield from sorted(f"{audits.FOLDER}/{path.name}" for path in (self.folder / audits.FOLDER).glob("*.json"))


@dataclass(frozen=True)
class Refused:
    """A folder that is left out, and all that is wrong with it; files are named relative to the submissions."""

    path: str
    problems: Sequence[Problem]


@dataclass(frozen=True)
class Submissions:
    """What a folder of submissions holds, by path, a model's runs in natural order (2 before 10)."""

    entries: Sequence[Entry]
    refused: Sequence[Refused]


def read_submissions(
    folder: Path,
    suite: Suite,
    manifests: Path = FOLDER,
    intervals: bool | Choice = True,
    kept: Path | None = None,
    jobs: int = 1,
) -> Submissions:
    """Validate every run below `folder`.

    Args:
        intervals: Of which units to recompute the intervals too, which takes nearly all the time; True for all.
        kept: Folder of kept verdicts, as `vlmed.results.many` has them.
        jobs: Number of processes.

    Raises:
        MissingError: There is no such folder.
    """
    if not folder.is_dir():
        raise MissingError("there is no such folder of submissions", file=folder)
    paths = {run: run.relative_to(folder).as_posix() for run in _run_folders(folder)}
    problems = {run: _layout_problems(run, path) for run, path in paths.items()}
    validator, proved = Validator(suite, manifests, intervals, kept), {}
    for report in validator.reports([run for run, found in problems.items() if not found], jobs):
        problems[report.folder] = errors_in(report.problems) or list(retraction_problems(report.folder))
        proved[report.folder] = report.sha256
    refused = [
        Refused(printable(paths[run]), [_relative(problem, folder) for problem in found])
        for run, found in problems.items()
        if found
    ]
    standing, superseded = _standing([_entry(run, proved[run]) for run, found in problems.items() if not found])
    return Submissions(standing, [*refused, *superseded])


def _standing(entries: Sequence[Entry]) -> tuple[list[Entry], list[Refused]]:
    """The entries that no accepted run of the same model supersedes, and the others."""
    later = {
        (entry.org, entry.model, entry.description.supersedes): entry.run
        for entry in entries
        if entry.description and entry.description.supersedes
    }

    def successor(entry: Entry) -> str | None:
        return later.get((entry.org, entry.model, entry.run))

    return [entry for entry in entries if not successor(entry)], [
        Refused(entry.path, [Problem(f"this run is superseded by {successor(entry)}", entry.path)])
        for entry in entries
        if successor(entry)
    ]


def natural_key(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Sorts names as people count.

    >>> sorted(["run-10", "run-9"], key=natural_key)
    ['run-9', 'run-10']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(False, int(part), "") if part.isdecimal() else (True, 0, part) for part in parts], name


def _run_folders(folder: Path) -> Iterator[Path]:
    """Every `<org>__<model>/<run>`; hidden ones are submissions under way."""
    for model in _folders(folder):
        runs = _folders(model)
        # A folder that is no model's is named once, not once for each of its parts.
        yield from runs if _MODEL_FOLDER.fullmatch(model.name) else [model]


def _folders(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(found, key=lambda path: natural_key(path.name))


def _layout_problems(run: Path, path: str) -> list[Problem]:
    folders = path.split("/")
    if len(folders) != 2 or not _RUN_FOLDER.fullmatch(folders[1]):
        return [Problem("this is no folder of a submission", path, "", EXPECTED, path, "use `vlmed submit`")]
    places = [run.parent, run, run / "result.json", run / "predictions"]
    links = [str(place) for place in places if place.is_symlink()] + _links(run / "predictions")
    return [Problem("a link is no evidence", place, hint="copy the file itself") for place in links]


def _links(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [entry.path for entry in entries if entry.is_symlink()]


def _entry(run: Path, proved: str) -> Entry:
    """An accepted run, of whose `result.json` validation saw the bytes with the SHA-256 `proved`."""
    org, model = run.parent.name.split("__")
    content = (run / "result.json").read_bytes()
    digest = sha256(content).hexdigest()
    # What validation has read strictly needs no second strict reading, which takes three times as long.
    result = json.loads(content) if digest == proved else parse_json(content, run / "result.json")
    return Entry(org, model, run.name, _shown(result, content), run, digest, read_description(run))


def _shown(result: Any, content: bytes) -> Any:
    """The parsed `content`, printable: JSON in ASCII without escapes can hold no control character but DEL."""
    plain = content.isascii() and b"\\" not in content and b"\x7f" not in content
    return result if plain else printable(result)


def _relative(problem: Problem, folder: Path) -> Problem:
    texts = {name: printable(text.replace(f"{folder}/", "")) for name, text in vars(problem).items()}
    return replace(problem, **texts)
