"""What a schema can't see: whether the frozen suite means what it says."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from vlmed.errors import InputError, Problem
from vlmed.hashing import target_digest
from vlmed.metrics import table
from vlmed.suite.frozen_rows import Row
from vlmed.suite.ledger import LEDGER, ledger_problems
from vlmed.suite.manifest import FOLDER, Manifest, read_manifest
from vlmed.suite.methods import METHODS, MethodFacts
from vlmed.suite.questions import question_problems
from vlmed.suite.splits import assign_split
from vlmed.suite.types import Suite, Task


def check_suite(suite: Suite, manifests: Path = FOLDER, ledger: Path = LEDGER) -> list[Problem]:
    """Every problem of the suite: definitions, prompts, manifests, ledger. Needs no data.

    An empty list proves that all frozen digests hold, every manifest is the frozen one and agrees with its
    split rule, no clean test sample shares a group, or pixels where images are frozen, with train or val, and no mark
    of a leak contradicts the manifest. Near-duplicates and texts can't be proved without data.
    """
    problems = [problem for task in suite.tasks.values() for problem in definition_problems(task)]
    problems += [problem for task in suite.tasks.values() for problem in _track_problems(task, suite)]
    for task in suite.tasks.values():
        if not task.pending:
            problems += _frozen_problems(task, manifests)
    return problems + ledger_problems(suite, ledger)


def definition_problems(task: Task) -> list[Problem]:
    """Contradictions inside one task's definition."""
    place = f"$.tasks.{task.id}"
    problems = [*_metric_problems(task, place), *_class_problems(task, place), *_prompt_problems(task, place)]
    if task.split.rule == "hash" and task.split.test + task.split.val >= 1:
        problems.append(Problem("nothing is left for train", "tasks.yaml", f"{place}.split", "test + val < 1"))
    return problems


def _track_problems(task: Task, suite: Suite) -> list[Problem]:
    return [
        Problem("the track is for other tasks", "tasks.yaml", f"$.tasks.{task.id}.tracks", _kinds(facts), task.kind)
        for facts in (METHODS[suite.track(name).method] for name in task.tracks)
        if task.kind not in facts.kinds
    ]


def _kinds(facts: MethodFacts) -> str:
    return " or ".join(f"a {kind} task" for kind in facts.kinds)


def _metric_problems(task: Task, place: str) -> list[Problem]:
    known = [name for name, metric in table.METRICS.items() if metric.scores(task.kind)]
    problems = [
        Problem(f"no metric of a {task.kind} task", "tasks.yaml", f"{place}.metrics", f"one of {known}", name)
        for name in task.metrics
        if name not in known
    ]
    if task.main_metric not in task.metrics:
        what = "the main metric is not among the metrics"
        problems.append(Problem(what, "tasks.yaml", f"{place}.main_metric", str(task.metrics), task.main_metric))
    return problems


def _class_problems(task: Task, place: str) -> list[Problem]:
    values = Counter([value for spec in task.classes for value in spec.values] + list(task.exclude))
    return [
        Problem("a label value means two things", "tasks.yaml", f"{place}.classes", "once", value)
        for value, count in values.items()
        if count > 1
    ]


def _prompt_problems(task: Task, place: str) -> list[Problem]:
    names = [spec.name for spec in task.classes]
    problems = []
    for group, prompts in task.prompts.items():
        where = f"{place}.prompts.{group}"
        if sorted(prompts) != sorted(names):
            problems.append(
                Problem("prompts don't fit the classes", "tasks.yaml", where, str(names), str(list(prompts)))
            )
        if len({len(texts) for texts in prompts.values()}) > 1:
            counts = {name: len(texts) for name, texts in prompts.items()}
            what = "the classes have different numbers of prompts, so template i is not defined"
            problems.append(Problem(what, "tasks.yaml", where, "equal numbers", str(counts)))
    return problems


def _frozen_problems(task: Task, folder: Path) -> list[Problem]:
    try:
        manifest = read_manifest(task, folder)
        # Gone through many times.
        manifest = replace(manifest, rows=tuple(manifest.rows))
    except InputError as error:
        return error.problems
    problems = [*_target_problems(task, manifest), *_split_problems(task, manifest)]
    if task.kind == "vqa":
        problems += question_problems(task, (row.sample_id for row in manifest.rows if row.split == "test"), folder)
    return [*problems, *_leak_problems(manifest), *_mark_problems(manifest)]


def _target_problems(task: Task, manifest: Manifest) -> list[Problem]:
    if task.kind != "classification":
        return []
    known = {target_digest(task.name, spec.name) for spec in task.classes}
    return [
        Problem("this target is none of the classes", manifest.file, row.sample_id, got=row.target)
        for row in manifest.rows
        if row.target not in known
    ]


def _split_problems(task: Task, manifest: Manifest) -> list[Problem]:
    if task.split.rule != "hash":
        return []
    return [
        Problem("the split contradicts the hash rule", manifest.file, row.sample_id, str(expected), row.split)
        for row in manifest.rows
        if (expected := assign_split(task.split, "", row.group)) != row.split
    ]


def _leak_problems(manifest: Manifest) -> list[Problem]:
    """Clean test samples whose image or group also stands in train or val."""
    homes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in manifest.rows:
        for kind, value in _identities(row):
            homes[kind, value].add(row.split)
    return [
        Problem(
            f"a clean test sample shares its {kind} with {_others(homes[kind, value])}", manifest.file, row.sample_id
        )
        for row in manifest.rows
        if row.split == "test" and not row.leaks
        for kind, value in _identities(row)
        if len(homes[kind, value]) > 1
    ]


def _mark_problems(manifest: Manifest) -> Iterator[Problem]:
    """Marks that the manifest itself refutes: each would take a sample from the clean ones for nothing."""
    seen = {row.group for row in manifest.rows if row.split != "test"}
    for row in manifest.rows:
        if row.leaks and row.split != "test":
            yield Problem("only a test sample can leak", manifest.file, row.sample_id, got=row.split)
        elif "group" in row.leaks.split(";") and row.group not in seen:
            what = "marked as a leak of its group, which train and val lack"
            yield Problem(what, manifest.file, row.sample_id, got=row.group)


def _identities(row: Row) -> list[tuple[str, str]]:
    return [(kind, value) for kind, value in (("image", row.image), ("group", row.group)) if value]


def _others(splits: set[str]) -> str:
    return " and ".join(sorted(splits - {"test"}))
