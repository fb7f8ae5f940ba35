"""Records of a data set -> the samples of one task, proved against its frozen manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from vlmed.data.records import Record
from vlmed.errors import InputError, Problem
from vlmed.hashing import target_digest
from vlmed.suite.frozen_rows import Row
from vlmed.suite.manifest import Manifest
from vlmed.suite.splits import assign_split
from vlmed.suite.types import SplitName, Task


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a task.

    Attributes:
        image: `pixel_hash` of the sample's image; empty where the images are absent.
        target: The canonical target: class name, answer or caption.
        label: Index of the class; -1 unless the task is a classification.
        leaks: Kinds of confirmed leak; empty means clean.
    """

    id: str
    split: SplitName
    image: str
    group: str
    target: str
    label: int
    fields: Mapping[str, str]
    leaks: str = ""


@dataclass(frozen=True)
class TaskTable:
    """All samples of a task, sorted by id."""

    task: Task
    samples: tuple[Sample, ...]

    @cached_property
    def _by_split(self) -> Mapping[str, tuple[Sample, ...]]:
        names = {sample.split for sample in self.samples}
        return {name: tuple(sample for sample in self.samples if sample.split == name) for name in names}

    def split(self, name: SplitName) -> tuple[Sample, ...]:
        """The samples of one split, in id order.

        Raises:
            InputError: The split has none.
        """
        if name not in self._by_split:
            raise InputError(f"{self.task.id} has no {name} samples", hint=f"vlmed data verify {self.task.name}")
        return self._by_split[name]


def build_table(task: Task, records: Iterable[Record], manifest: Manifest | None) -> TaskTable:
    """Filter, label and split records, then prove the outcome against the manifest where there is one.

    Raises:
        InputError: A label is none of the classes, an id stands twice, or the samples are not the frozen ones;
            lists every sample.
    """
    chosen = [record for record in records if _belongs(task, record)]
    problems = [*_label_problems(task, chosen), *_duplicate_problems(task, chosen)]
    if problems:
        raise InputError(problems)
    rows = {row.sample_id: row for row in manifest.rows} if manifest else {}
    drafts = (_sample(task, record, rows.get(record.id)) for record in chosen)
    samples = tuple(sorted((sample for sample in drafts if sample), key=lambda sample: sample.id))
    table = TaskTable(task, samples)
    if manifest and (problems := manifest_problems(table, manifest)):
        raise InputError(problems)
    return table


def manifest_rows(table: TaskTable, leaks: Mapping[str, str]) -> list[Row]:
    """The manifest that would freeze a table; `leaks` maps sample ids to kinds of confirmed leak."""
    return [_row(table.task, sample, leaks.get(sample.id, "")) for sample in table.samples]


def manifest_problems(table: TaskTable, manifest: Manifest) -> list[Problem]:
    """Every sample that is missing, extra or not as frozen. An empty list proves the data to be the frozen ones."""
    frozen = {row.sample_id: row for row in manifest.rows}
    mine = {row.sample_id: row for row in manifest_rows(table, {})}
    file = manifest.file
    missing, extra = frozen.keys() - mine.keys(), mine.keys() - frozen.keys()
    problems = [Problem("a frozen sample is missing from the data", file, name) for name in missing]
    problems += [Problem("the data have a sample that was never frozen", file, name) for name in extra]
    for name in mine.keys() & frozen.keys():
        problems += _row_differences(mine[name], frozen[name], file)
    return sorted(problems, key=lambda problem: problem.path)


def _belongs(task: Task, record: Record) -> bool:
    if record.fields.get(task.field, "") in task.exclude:
        return False
    return all(record.fields.get(field, "") in values for field, values in task.where.items())


def _label_problems(task: Task, records: Sequence[Record]) -> list[Problem]:
    if task.kind != "classification":
        return []
    known = task.labels
    expected = f"{task.field} in {sorted(known)}"
    return [
        Problem("this label is none of the classes", task.dataset.name, record.id, expected, repr(value))
        for record in records
        if (value := record.fields.get(task.field, "")) not in known
    ]


def _duplicate_problems(task: Task, records: Sequence[Record]) -> list[Problem]:
    seen: set[str] = set()
    problems = []
    for record in records:
        if record.id in seen:
            problems.append(Problem("a sample id stands twice", task.dataset.name, record.id))
        seen.add(record.id)
    return problems


def _sample(task: Task, record: Record, row: Row | None) -> Sample | None:
    listed = row.split if row else ""
    split = assign_split(task.split, record.split if task.split.rule == "official" else listed, record.group)
    if split is None:
        return None
    value = record.fields.get(task.field, "")
    label = task.labels[value] if task.classes else -1
    target = task.classes[label].name if task.classes else value
    return Sample(record.id, split, record.image, record.group, target, label, record.fields, row.leaks if row else "")


def _row(task: Task, sample: Sample, leaks: str) -> Row:
    pairs = [f"{field}={value}" for field in task.dataset.subgroups if (value := sample.fields.get(field))]
    target = target_digest(task.name, sample.target) if sample.target else ""
    return Row(sample.id, sample.split, sample.image, sample.group, target, ";".join(pairs), leaks)


# Empty where a manifest was frozen or a table read from ids alone, or the publisher gives no text.
_MAY_LACK = ("image", "target")
_COMPARED = {"split": "split", "image": "image", "group": "group", "target": "label", "subgroups": "subgroup"}


def _row_differences(mine: Row, frozen: Row, file: str) -> list[Problem]:
    problems = []
    for column, name in _COMPARED.items():
        expected, got = getattr(frozen, column), getattr(mine, column)
        unproved = column in _MAY_LACK and not (expected and got)
        if got != expected and not unproved:
            problems.append(Problem(f"the {name} is not the frozen one", file, mine.sample_id, expected, got))
    return problems
