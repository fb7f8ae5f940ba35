"""Accepted runs -> one ranked table per task and track, in which models that can't be told apart share ranks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlmed.hashing import digest
from vlmed.leaderboard.contamination import FindCard, contamination, no_cards
from vlmed.leaderboard.read import Entry
from vlmed.leaderboard.separate import p_values, rank_intervals
from vlmed.leakage.contamination import Verdict
from vlmed.metrics.classification import Classified, Counts, Values
from vlmed.metrics.inputs import number_groups
from vlmed.metrics.intervals import bootstrap, count_groups
from vlmed.metrics.table import METRICS, trials
from vlmed.results.predictions import Predictions, read_predictions
from vlmed.suite.manifest import FOLDER, read_manifest
from vlmed.suite.types import Suite, Task, Track

Part = Literal["all", "clean"]
Unit = Mapping[str, Any]
DRAWS = 1000


@dataclass
class Row:
    """One model on one task and track.

    Attributes:
        units: The same unit under one or more seeds, in seed order; scores are means over them.
        value, low, high: Main metric on the ranked part with its 95 % interval; None where undefined.
        rank: Lowest and highest rank that the paired tests leave open; None for what is not ranked.
        note: Why it is not ranked, or what else a reader must know.
        contamination: Whether the model may have seen the task's images in training; None for controls.
    """

    entry: Entry
    units: Sequence[Unit]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    rank: tuple[int, int] | None = None
    note: str = ""
    contamination: Verdict | None = None

    def metric(self, name: str, part: Part, end: str = "value") -> float | None:
        """A metric's mean over seeds; None where any is undefined or the clean set is not known.

        Ends of intervals are averaged too: a mean varies no more than its parts do on average.
        """
        metrics = [unit["scores"]["metrics"][part] for unit in self.units]
        values = [float(known[name][end]) for known in metrics if known and known[name][end] is not None]
        return sum(values) / len(values) if len(values) == len(self.units) else None

    def n(self, part: Part) -> int | None:
        """Number of test samples."""
        count: int | None = self.units[0]["scores"]["n"][part]
        return count


@dataclass
class Table:
    """A ranking.

    Attributes:
        part: The samples that decide: `clean`, or `all` while the manifest is pending.
        models: Best first; what is undefined stands last.
        controls: Reference rows, never ranked, best first.
    """

    task: Task
    track: Track
    part: Part
    models: list[Row] = field(default_factory=list)
    controls: list[Row] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """Models, then controls."""
        return self.models + self.controls

    @property
    def leaders(self) -> list[Row]:
        """The models whose rank may be 1."""
        return [row for row in self.models if row.rank and row.rank[0] == 1]


def rank_tables(
    suite: Suite, entries: Iterable[Entry], manifests: Path = FOLDER, find_card: FindCard = no_cards
) -> list[Table]:
    """Every table that has a row, in the suite's order.

    Only units on the whole training split stand in a table. Of a model's runs the last one in natural order counts.
    """
    rows: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for place, row in current_rows(entries).items():
        rows[place[2:]].append(row)
    return [
        _Ranking(task, track, manifests, find_card).table(rows[task.id, track.id])
        for task in suite.tasks.values()
        for track in suite.tracks.values()
        if (task.id, track.id) in rows
    ]


def current_rows(entries: Iterable[Entry]) -> dict[tuple[str, str, str, str], Row]:
    """(organisation, model, task, track) -> the row that stands for it; a later run replaces an earlier one."""
    rows: dict[tuple[str, str, str, str], Row] = {}
    for entry in entries:
        for (task, track), units in _by_table(entry).items():
            rows[entry.org, entry.model, task, track] = Row(entry, units)
    return rows


def _by_table(entry: Entry) -> dict[tuple[str, str], list[Unit]]:
    units: dict[tuple[str, str], list[Unit]] = defaultdict(list)
    for unit in sorted(entry.result["units"], key=lambda unit: unit["seed"]):
        if unit["fraction"] == 1:
            units[unit["task"], unit["track"]].append(unit)
    return units


@dataclass(frozen=True)
class _Ranking:
    """The making of one table."""

    task: Task
    track: Track
    manifests: Path
    find_card: FindCard

    def table(self, rows: Sequence[Row]) -> Table:
        table = Table(self.task, self.track, "all" if self.task.pending else "clean")
        for row in rows:
            self._score(row, table.part)
            row.contamination = contamination(row.entry, self.task.dataset.name, self.find_card)
        if self.task.ranked:
            self._rank([row for row in rows if row.value is not None and not row.entry.control])
        table.models = self._ordered(row for row in rows if not row.entry.control)
        table.controls = self._ordered(row for row in rows if row.entry.control)
        return table

    def _score(self, row: Row, part: Part) -> None:
        value, low, high = (row.metric(self.task.main_metric, part, end) for end in ("value", "low", "high"))
        row.value, row.low, row.high = value, low, high
        row.note = "" if value is not None else "undefined"

    def _rank(self, rows: Sequence[Row]) -> None:
        """Give ranks to the rows that scored the samples that most did; a frozen manifest makes sure that all do."""
        scored = [[self._predictions(row, unit) for unit in row.units] for row in rows]
        keys = [_samples_key(seeds) for seeds in scored]
        usual = max(Counter(keys).items(), key=lambda item: (bool(item[0]), item[1], item[0]), default=("", 0))[0]
        paired = [index for index, key in enumerate(keys) if key and key == usual]
        for row, key in zip(rows, keys, strict=True):
            row.note = "" if key and key == usual else "scored other samples"
        if paired:
            self._rank_paired([rows[index] for index in paired], [scored[index] for index in paired])

    def _rank_paired(self, rows: Sequence[Row], scored: Sequence[Sequence[Predictions]]) -> None:
        metric = METRICS[self.task.main_metric]
        samples = [[Classified(seed.probabilities, seed.targets) for seed in seeds] for seeds in scored]
        members = number_groups(scored[0][0].groups, len(samples[0][0]))

        def scores(counts: Counts) -> Values:
            return np.stack([np.mean([metric.function(seed, counts) for seed in seeds], axis=0) for seeds in samples])

        draws = bootstrap(scores, members, DRAWS)
        values = np.array([row.value for row in rows])
        p = p_values(values, draws, count_groups(members), trials(metric, samples[0][0], members))
        for row, rank in zip(rows, rank_intervals(values, p, metric.higher_is_better), strict=True):
            row.rank = rank

    def _predictions(self, row: Row, unit: Unit) -> Predictions:
        """A unit's predictions on the samples that decide, in id order."""
        predictions = read_predictions(row.entry.folder / unit["predictions"]["file"], len(self.task.classes))
        ids = predictions.sample_ids
        order = [index for index in sorted(range(len(ids)), key=ids.__getitem__) if ids[index] not in self._leaking]
        return Predictions(
            sample_ids=[ids[index] for index in order],
            groups=[predictions.groups[index] for index in order],
            targets=predictions.targets[order],
            probabilities=predictions.probabilities[order],
            by_template=predictions.by_template[order],
        )

    @cached_property
    def _leaking(self) -> frozenset[str]:
        if self.task.pending:
            return frozenset()
        rows = read_manifest(self.task, self.manifests).split("test")
        return frozenset(row.sample_id for row in rows if row.leaks)

    def _ordered(self, rows: Iterable[Row]) -> list[Row]:
        sign = -1 if METRICS[self.task.main_metric].higher_is_better else 1

        def key(row: Row) -> tuple[bool, float, str]:
            return row.value is None, sign * (row.value or 0.0), row.entry.path

        return sorted(rows, key=key)


def _samples_key(seeds: Sequence[Predictions]) -> str:
    """Digest of the samples that were scored, with groups and targets; empty where the seeds scored different ones."""
    keys = {digest([list(seed.sample_ids), list(seed.groups), seed.targets.tolist()]) for seed in seeds}
    return keys.pop() if len(keys) == 1 else ""
