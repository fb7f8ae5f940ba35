"""A task's data -> its manifest, with the test samples that leak marked; `tasks.yaml` then names it by its hash."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from vlmed.data.table import TaskTable, manifest_rows
from vlmed.errors import UsageError
from vlmed.files import write_text
from vlmed.leakage.find import Finding
from vlmed.suite.manifest import manifest_path, write_manifest
from vlmed.suite.types import PENDING, Task


def freeze_manifest(table: TaskTable, findings: Iterable[Finding], suite_file: Path, folder: Path) -> Path:
    """Write the manifest of a task and its hash into `suite_file`; gives the manifest's path.

    Raises:
        UsageError: The task is frozen already: a frozen manifest never changes, a correction is a new version.
        InputError: A value can't stand in a manifest; nothing is written.
    """
    task = table.task
    if not task.pending:
        hint = f"add {task.name}@{task.version + 1} beside it"
        raise UsageError(f"{task.id} is frozen already", file=suite_file, got=task.manifest, hint=hint)
    path = manifest_path(task, folder)
    digest = write_manifest(path, manifest_rows(table, leak_kinds(findings)))
    _write_hash(suite_file, task, digest)
    return path


def leak_kinds(findings: Iterable[Finding]) -> Mapping[str, str]:
    """Test sample id -> its kinds of leak, sorted and joined by `;`."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for finding in findings:
        kinds[finding.sample].add(finding.kind)
    return {sample: ";".join(sorted(found)) for sample, found in kinds.items()}


def _write_hash(suite_file: Path, task: Task, digest: str) -> None:
    text = suite_file.read_text("utf-8")
    # Line by line, so that comments and layout of the file stay as their authors left them.
    entry = re.compile(rf"(?ms)^(  {re.escape(task.id)}:\n(?:    .*\n|\n)*?    manifest: ){PENDING}$")
    changed, count = entry.subn(rf"\g<1>{digest}", text)
    if count != 1:
        expected = f"a line `    manifest: {PENDING}` under `  {task.id}:`"
        raise UsageError("the hash can't be written into the task file", file=suite_file, expected=expected, got=digest)
    write_text(suite_file, changed)
