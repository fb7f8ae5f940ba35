"""The freeze ledger: one line per frozen task and track version, and no line ever changes or goes.

A line holds the digest of the definition and, for a task, the manifest's hash (`pending` until someone with access
freezes it). A later line of the same task may only turn `pending` into a hash. A line of a VQA task's questions holds
the hash of their file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from vlmed.errors import InputError, Problem
from vlmed.files import write_text
from vlmed.hashing import file_hash
from vlmed.suite.types import PENDING, Suite, Task

LEDGER = Path(__file__).parent / "ledger.jsonl"
_NOT_FROZEN = "this is not frozen"


@dataclass(frozen=True)
class Line:
    """One frozen version.

    Attributes:
        id: `tasks.NAME@VERSION` or `tracks.NAME@VERSION`, its place in `tasks.yaml`; `questions.NAME@VERSION` for the
            questions of a task.
        definition: Digest of what decides a score; for questions the SHA-256 of their file.
        manifest: SHA-256 of the manifest or `pending`; empty for others.
    """

    id: str
    definition: str
    manifest: str = ""


def read_ledger(path: Path = LEDGER) -> list[Line]:
    """The ledger's lines, oldest first.

    Raises:
        InputError: A line is not one of a ledger.
    """
    lines = []
    for number, text in enumerate(path.read_text("utf-8").splitlines() if path.exists() else [], start=1):
        try:
            lines.append(Line(**json.loads(text)))
        except (json.JSONDecodeError, TypeError):
            expected = '{"id": ..., "definition": ..., "manifest": ...}'
            raise InputError("this is not a ledger line", file=path, path=f"line {number}", expected=expected) from None
    return lines


def ledger_problems(suite: Suite, path: Path = LEDGER) -> list[Problem]:
    """Where the suite differs from what was frozen."""
    lines = read_ledger(path)
    frozen = {line.id: line for line in lines}
    problems = list(_history_problems(lines, path.name))
    for line in _lines_of(suite, path.parent):
        old = frozen.pop(line.id, None)
        if old is None:
            problems.append(Problem(_NOT_FROZEN, path.name, line.id, hint="freeze it with `vlmed tasks freeze`"))
        else:
            problems += _differences(line, old, path.name)
    gone = [Problem("something frozen is gone", *_place(name), hint="old versions stay") for name in frozen]
    return problems + gone


def freeze(suite: Suite, path: Path = LEDGER) -> list[str]:
    """Append a line for every version that has none, or whose manifest is no longer pending; gives their ids.

    Raises:
        InputError: A frozen definition or manifest has changed; nothing is written.
    """
    frozen = {line.id: line for line in read_ledger(path)}
    new = [line for line in _lines_of(suite, path.parent) if line.id not in frozen or _completes(line, frozen[line.id])]
    added = {line.id for line in new}
    changed = [problem for problem in ledger_problems(suite, path) if problem.what != _NOT_FROZEN]
    if left := [problem for problem in changed if problem.path.removeprefix("$.") not in added]:
        raise InputError(left)
    old = path.read_text("utf-8") if path.exists() else ""
    write_text(path, old + "".join(json.dumps(asdict(line)) + "\n" for line in new))
    return [line.id for line in new]


def questions_path(task: Task, folder: Path = LEDGER.parent) -> Path:
    """Where the questions of a task lie, below the folder of the ledger."""
    return folder / "questions" / f"{task.name}-v{task.version}.csv"


def _lines_of(suite: Suite, folder: Path) -> list[Line]:
    tasks = [Line(f"tasks.{task.id}", task.definition_digest, task.manifest) for task in suite.tasks.values()]
    files = {task.id: questions_path(task, folder) for task in suite.tasks.values()}
    asked = [Line(f"questions.{name}", file_hash(path)) for name, path in files.items() if path.is_file()]
    return tasks + [Line(f"tracks.{track.id}", track.digest) for track in suite.tracks.values()] + asked


def _place(line_id: str) -> tuple[str, str]:
    """The file and the place in it that a line freezes."""
    room, _, name = line_id.partition(".")
    return (f"questions/{name.replace('@', '-v')}.csv", "") if room == "questions" else ("tasks.yaml", f"$.{line_id}")


def _completes(line: Line, old: Line) -> bool:
    """Whether a line only gives the manifest that an older one was waiting for."""
    return line.definition == old.definition and old.manifest == PENDING != line.manifest


def _differences(line: Line, old: Line, file: str) -> Iterator[Problem]:
    name, version = line.id.split(".")[1].split("@")
    if line.definition != old.definition:
        hint = f"undo the change, or add {name}@{int(version) + 1} beside it"
        what = "a frozen definition changed without a new version"
        yield Problem(what, *_place(line.id), old.definition, line.definition, hint)
    if line.manifest != old.manifest:
        waits = old.manifest == PENDING
        hint = "freeze it with `vlmed tasks freeze`" if waits else "restore the frozen manifest"
        what = "a frozen manifest changed without a new version"
        yield Problem(what, file, line.id, old.manifest, line.manifest, hint)


def _history_problems(lines: list[Line], file: str) -> Iterator[Problem]:
    seen: dict[str, Line] = {}
    for number, line in enumerate(lines, start=1):
        if (old := seen.get(line.id)) and not _completes(line, old):
            yield Problem("a frozen line was written again", file, f"line {number}", got=line.id)
        seen[line.id] = line
