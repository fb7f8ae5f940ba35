"""What a model has to reach: `vlmed.yaml` -> rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vlmed.errors import InputError, Problem, UsageError
from vlmed.metrics.table import METRICS
from vlmed.results.ranked import PREFIXES
from vlmed.suite.load import schema_problems
from vlmed.suite.types import Suite, Task, Track
from vlmed.yaml_files import read_yaml

ALPHA = 0.05
BASELINE = "baseline"


@dataclass(frozen=True)
class Rule:
    """One threshold on one metric of the units that its patterns name.

    Attributes:
        metric: As in `result.json`; empty for the task's main metric.
        minimum, maximum: Bounds of the metric's value, inclusive.
        no_worse_than, better_than: `baseline` or `control:NAME`.
        alpha: Level of the paired tests.
    """

    tasks: tuple[str, ...] = ("*",)
    tracks: tuple[str, ...] = ("*",)
    metric: str = ""
    minimum: float | None = None
    maximum: float | None = None
    no_worse_than: tuple[str, ...] = ()
    better_than: tuple[str, ...] = ()
    alpha: float = ALPHA

    def covers(self, task: Task, track: Track) -> bool:
        """Whether the rule is about units of this task on this track."""
        return _named(self.tasks, task) and _named(self.tracks, track)

    @property
    def peers(self) -> tuple[str, ...]:
        """All that the model is compared with."""
        return tuple(dict.fromkeys(self.no_worse_than + self.better_than))


def read_rules(path: Path, suite: Suite) -> list[Rule]:
    """The rules of a `vlmed.yaml`.

    Raises:
        MissingError: There is no such file.
        InputError: It is not YAML, does not follow `thresholds.schema.json`, or a pattern or metric names nothing;
            lists every place.
    """
    tree = read_yaml(path, "file of thresholds")
    problems = schema_problems(tree, "thresholds.schema.json", str(path))
    if not problems:
        entries = tree["thresholds"]
        problems = [problem for index, entry in enumerate(entries) for problem in _unknown(entry, index, suite, path)]
    if problems:
        raise InputError(problems)
    return [_rule(entry, tree.get("alpha", ALPHA)) for entry in tree["thresholds"]]


def rules_for(rules: Iterable[Rule], task: Task, track: Track, baseline: bool) -> list[Rule]:
    """What holds for a unit; with a baseline that no rule names, its main metric may be no worse."""
    covering = [rule for rule in rules if rule.covers(task, track)]
    if baseline and not any(BASELINE in rule.peers for rule in covering):
        covering.append(Rule(no_worse_than=(BASELINE,)))
    return covering


def _named(patterns: Sequence[str], item: Task | Track) -> bool:
    return any(fnmatchcase(item.name, pattern) or item.id == pattern for pattern in patterns)


def _unknown(entry: Mapping[str, Any], index: int, suite: Suite, path: Path) -> Iterable[Problem]:
    """Names in one entry that mean nothing."""
    finders = {"tasks": suite.tasks_matching, "tracks": suite.tracks_matching}
    for key, find in finders.items():
        for pattern in _texts(entry.get(key, "*")):
            try:
                find([pattern])
            except UsageError as error:
                (fault,) = error.problems
                yield Problem(fault.what, str(path), f"$.thresholds[{index}].{key}", fault.expected, fault.got)
    metric = entry.get("metric")
    known = [prefix + name for prefix in PREFIXES.values() for name in METRICS]
    if metric and metric not in known:
        expected = f"one of {', '.join(METRICS)}"
        yield Problem("unknown metric", str(path), f"$.thresholds[{index}].metric", expected, repr(metric))


def _rule(entry: Mapping[str, Any], alpha: float) -> Rule:
    return Rule(
        tasks=_texts(entry.get("tasks", "*")),
        tracks=_texts(entry.get("tracks", "*")),
        metric=entry.get("metric", ""),
        minimum=entry.get("min"),
        maximum=entry.get("max"),
        no_worse_than=_texts(entry.get("no_worse_than", ())),
        better_than=_texts(entry.get("better_than", ())),
        alpha=entry.get("alpha", alpha),
    )


def _texts(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
