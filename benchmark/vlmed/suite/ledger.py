"""The freeze ledger: one line per frozen task version, and no line ever changes or goes.

A line holds the digest of the definition and the manifest's hash (`pending` until someone with access freezes
it). A later line of the same task may only turn `pending` into a hash.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from vlmed.errors import InputError, Problem
from vlmed.files import write_text
from vlmed.suite.types import PENDING, Suite, Task

LEDGER = Path(__file__).parent / "ledger.jsonl"


@dataclass(frozen=True)
class Line:
    """One frozen task version."""

    task: str
    definition: str
    manifest: str


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
            expected = '{"task": ..., "definition": ..., "manifest": ...}'
            raise InputError("this is not a ledger line", file=path, path=f"line {number}", expected=expected) from None
    return lines


def ledger_problems(suite: Suite, path: Path = LEDGER) -> list[Problem]:
    """Where the suite differs from what was frozen."""
    lines = read_ledger(path)
    frozen = {line.task: line for line in lines}
    problems = _history_problems(lines, path.name)
    for task in suite.tasks.values():
        line = frozen.pop(task.id, None)
        if line is None:
            hint = "freeze it with `vlmed tasks freeze`"
            problems.append(Problem("this task is not frozen", path.name, task.id, hint=hint))
        else:
            problems += _task_problems(task, line, path.name)
    gone = [Problem("a frozen task is gone", "tasks.yaml", name, hint="old versions stay") for name in frozen]
    return problems + gone


def freeze(suite: Suite, path: Path = LEDGER) -> list[str]:
    """Append a line for every task version that has none, or whose manifest is no longer pending; gives their ids.

    Raises:
        InputError: A frozen definition has changed; nothing is written.
    """
    new = [problem.path for problem in ledger_problems(suite, path) if problem.what == "this task is not frozen"]
    frozen = {line.task: line for line in read_ledger(path)}
    late = [name for name, line in frozen.items() if line.manifest == PENDING and not suite.tasks[name].pending]
    changed = [
        problem
        for task in suite.tasks.values()
        if (line := frozen.get(task.id))
        for problem in _task_problems(task, line, path.name)
        if task.id not in late
    ]
    if changed:
        raise InputError(changed)
    old = path.read_text("utf-8") if path.exists() else ""
    lines = [json.dumps(vars(_line(suite.tasks[name]))) + "\n" for name in new + late]
    write_text(path, old + "".join(lines))
    return new + late


def _line(task: Task) -> Line:
    return Line(task.id, task.definition_digest, task.manifest)


def _task_problems(task: Task, line: Line, file: str) -> list[Problem]:
    problems = []
    if line.definition != task.definition_digest:
        hint = f"undo the change, or add {task.name}@{task.version + 1} beside it"
        what = "a frozen task's definition or prompts changed without a new version"
        problems.append(
            Problem(what, "tasks.yaml", f"$.tasks.{task.id}", line.definition, task.definition_digest, hint)
        )
    if line.manifest != task.manifest:
        what = "a frozen task's manifest changed without a new version"
        hint = "freeze it with `vlmed tasks freeze`" if line.manifest == PENDING else "restore the frozen manifest"
        problems.append(Problem(what, file, task.id, line.manifest, task.manifest, hint))
    return problems


def _history_problems(lines: list[Line], file: str) -> list[Problem]:
    problems = []
    seen: dict[str, Line] = {}
    for number, line in enumerate(lines, start=1):
        old = seen.get(line.task)
        if old and (old.definition != line.definition or old.manifest != PENDING):
            problems.append(Problem("a frozen line was written again", file, f"line {number}", got=line.task))
        seen[line.task] = line
    return problems
