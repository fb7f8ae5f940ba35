"""What is frozen of the tasks, read and proved once for many runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vlmed.suite.frozen_rows import Keyed
from vlmed.suite.manifest import FOLDER, Manifest, read_manifest
from vlmed.suite.questions import FrozenQuestion, read_questions
from vlmed.suite.types import Task


@dataclass
class Frozen:
    """Manifests and questions of tasks that are not pending.

    Attributes:
        folder: Where the manifests lie.
    """

    folder: Path = FOLDER
    _manifests: dict[str, Manifest] = field(default_factory=dict, repr=False)
    _tests: dict[str, Keyed] = field(default_factory=dict, repr=False)
    _questions: dict[str, Mapping[str, FrozenQuestion] | None] = field(default_factory=dict, repr=False)

    def manifest(self, task: Task) -> Manifest:
        """A task's manifest; raises as `read_manifest`."""
        if task.id not in self._manifests:
            self._manifests[task.id] = read_manifest(task, self.folder)
        return self._manifests[task.id]

    def test(self, task: Task) -> Keyed:
        """Sample id -> its row, of the test split; raises as `read_manifest`."""
        if task.id not in self._tests:
            self._tests[task.id] = Keyed(self.manifest(task).split("test"))
        return self._tests[task.id]

    def questions(self, task: Task) -> Mapping[str, FrozenQuestion] | None:
        """A task's frozen questions, None if there are none; raises as `read_questions`."""
        if task.kind != "vqa":
            return None
        if task.id not in self._questions:
            self._questions[task.id] = read_questions(task, self.folder)
        return self._questions[task.id]
