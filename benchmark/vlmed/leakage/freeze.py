"""A task's data -> its manifest, with the test samples that leak marked; `tasks.yaml` then names it by its hash."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from vlmed.data.questions import freeze_questions
from vlmed.data.table import TaskTable, manifest_rows
from vlmed.errors import UsageError
from vlmed.files import write_text
from vlmed.leakage.find import Finding
from vlmed.suite.manifest import manifest_path, write_manifest
from vlmed.suite.types import PENDING, Task


def freeze_manifest(table: TaskTable, findings: Iterable[Finding], suite_file: Path, folder: Path) -> Path:
    """Write the manifest of a task and its hash into `suite_file`; gives the manifest's path.

    A VQA task's questions are written beside it. Nothing else of the task file changes, so that comments and layout
    stay as their authors left them.

    Raises:
        UsageError: The task is frozen already: a frozen manifest never changes, a correction is a new version. Or
            `suite_file` has no line for the hash. Nothing is written.
        InputError: A value can't stand in a manifest; nothing is written.
    """
    task = table.task
    if not task.pending:
        hint = f"add {task.name}@{task.version + 1} beside it"
        raise UsageError(f"{task.id} is frozen already", file=suite_file, got=task.manifest, hint=hint)
    before, after = _around_the_hash(suite_file, task)
    path = manifest_path(task, folder)
    if task.kind == "vqa":
        freeze_questions(table, folder)
    digest = write_manifest(path, manifest_rows(table, leak_kinds(findings)))
    write_text(suite_file, before + digest + after)
    return path


def leak_kinds(findings: Iterable[Finding]) -> Mapping[str, str]:
    """Test sample id -> its kinds of leak, sorted and joined by `;`."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for finding in findings:
        kinds[finding.sample].add(finding.kind)
    return {sample: ";".join(sorted(found)) for sample, found in kinds.items()}


def _around_the_hash(suite_file: Path, task: Task) -> tuple[str, str]:
    """The text of the task file before and after the word `pending` of one task."""
    text = suite_file.read_text("utf-8")
    # An entry ends where another key stands at its own depth or above. Deeper lines, comments and blanks belong to it.
    inside = r"(?:(?:    .*| *#.*| *)\n)*?"
    places = list(re.finditer(rf"(?m)^  {re.escape(task.id)}:.*\n{inside}    manifest: ({PENDING})\b", text))
    if len(places) != 1:
        expected = f"one line `    manifest: {PENDING}` under `  {task.id}:`"
        raise UsageError("the task file has no place for the hash", file=suite_file, expected=expected)
    return text[: places[0].start(1)], text[places[0].end(1) :]
