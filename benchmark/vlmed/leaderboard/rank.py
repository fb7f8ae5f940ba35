"""Accepted runs -> one ranked table per task and track, in which models that can't be told apart share ranks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlmed.hashing import digest
from vlmed.leaderboard.blind import Gain, gain
from vlmed.leaderboard.contamination import FindCard, contamination, no_cards
from vlmed.leaderboard.read import Entry
from vlmed.leaderboard.seeds import draws_of_mean, reach, spread
from vlmed.leaderboard.separate import metric_reaches, p_of_reaches, rank_intervals, separated
from vlmed.leakage.contamination import Verdict
from vlmed.metrics.classification import Counts, Values
from vlmed.metrics.inputs import number_groups
from vlmed.metrics.intervals import bootstrap
from vlmed.metrics.table import METRICS, Samples
from vlmed.results.predictions import read_predictions
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
        gain: How far it stands above the best control that could not look at the image; None for controls.
    """

    entry: Entry
    units: Sequence[Unit]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    rank: tuple[int, int] | None = None
    note: str = ""
    contamination: Verdict | None = None
    gain: Gain | None = None

    def metric(self, name: str, part: Part) -> float | None:
        """A metric's mean over seeds; None where any is undefined or the clean set is not known."""
        return _mean(self.seed_values(name, part))

    def interval(self, name: str, part: Part) -> tuple[float, float] | tuple[None, None]:
        """The 95 % interval of that mean.

        What the test samples leave open is averaged over seeds, since a mean varies no more than its parts do on
        average; what the seeds leave open comes on top.
        """
        values = self.seed_values(name, part)
        value, low, high = (_mean(ends) for ends in (values, *(self._ends(name, part, end) for end in ("low", "high"))))
        if value is None or low is None or high is None:
            return None, None
        if len(values) == 1:
            return low, high
        known = [number for number in values if number is not None]
        metric = METRICS[name.removeprefix("text_to_image_")]
        return max(metric.low, value - reach(value - low, known)), min(metric.high, value + reach(high - value, known))

    def seed_values(self, name: str, part: Part) -> list[float | None]:
        """A metric of each seed, in seed order; None where undefined."""
        return self._ends(name, part, "value")

    @property
    def fraction(self) -> float:
        """The share of the training split."""
        return float(self.units[0]["fraction"])

    def spread(self, name: str, part: Part) -> float | None:
        """A metric's standard deviation over seeds; None for one seed, or where any is undefined."""
        values = self.seed_values(name, part)
        return None if None in values else spread([number for number in values if number is not None])

    def _ends(self, name: str, part: Part, end: str) -> list[float | None]:
        metrics = [unit["scores"]["metrics"][part] for unit in self.units]
        return [known[name][end] if known else None for known in metrics]

    def n(self, part: Part) -> int | None:
        """Number of test samples."""
        count: int | None = self.units[0]["scores"]["n"][part]
        return count


@dataclass(frozen=True)
class Differences:
    """What the paired tests of a table found.

    Attributes:
        rows: The M ranked rows.
        reach: (M, M), how far the 95 % interval of each difference of two scores reaches to either side; maybe inf.
        separated: (M, M) bool, which differences are significant after the correction over all pairs.
    """

    rows: Sequence[Row]
    reach: NDArray[np.float64]
    separated: NDArray[np.bool_]


@dataclass
class Table:
    """A ranking.

    Attributes:
        part: The samples that decide: `clean`, or `all` while the manifest is pending.
        models: Best first; what is undefined stands last.
        controls: Reference rows, never ranked, best first.
        differences: Between the ranked models; None if none is ranked.
    """

    task: Task
    track: Track
    part: Part
    models: list[Row] = field(default_factory=list)
    controls: list[Row] = field(default_factory=list)
    differences: Differences | None = None

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
    for (_, _, task, track, fraction), row in current_rows(entries).items():
        if fraction == 1:
            rows[task, track].append(row)
    return [
        _Ranking(task, track, manifests, find_card).table(rows[task.id, track.id])
        for task in suite.tasks.values()
        for track in suite.tracks.values()
        if (task.id, track.id) in rows
    ]


Place = tuple[str, str, str, str, float]


def current_rows(entries: Iterable[Entry]) -> dict[Place, Row]:
    """(organisation, model, task, track, fraction) -> its row, unscored; a later run replaces an earlier one."""
    rows: dict[Place, Row] = {}
    for entry in entries:
        for place, units in _by_place(entry).items():
            rows[entry.org, entry.model, *place] = Row(entry, units)
    return rows


def _by_place(entry: Entry) -> dict[tuple[str, str, float], list[Unit]]:
    units: dict[tuple[str, str, float], list[Unit]] = defaultdict(list)
    for unit in sorted(entry.result["units"], key=lambda unit: unit["seed"]):
        units[unit["task"], unit["track"], unit["fraction"]].append(unit)
    return units


def score_row(row: Row, task: Task) -> None:
    """Set a row's score and interval on the samples that decide."""
    part = ranked_part(task)
    row.value = row.metric(task.main_metric, part)
    row.low, row.high = row.interval(task.main_metric, part)
    row.note = "" if row.value is not None else "undefined"


def ranked_part(task: Task) -> Part:
    """The samples that decide: `clean`, or `all` while the manifest is pending."""
    return "all" if task.pending else "clean"


@dataclass(frozen=True)
class _Scored:
    """A unit on the samples that decide, in id order.

    Attributes:
        key: Digest of the samples, with their groups and claimed targets.
    """

    key: str
    groups: Sequence[str]
    samples: Samples


@dataclass(frozen=True)
class _Ranking:
    """The making of one table."""

    task: Task
    track: Track
    manifests: Path
    find_card: FindCard

    def table(self, rows: Sequence[Row]) -> Table:
        table = Table(self.task, self.track, ranked_part(self.task))
        for row in rows:
            score_row(row, self.task)
            row.contamination = contamination(row.entry, self.task.dataset.name, self.find_card)
        if self.task.ranked:
            table.differences = self._rank([row for row in rows if row.value is not None and not row.entry.control])
        table.models = self._ordered(row for row in rows if not row.entry.control)
        table.controls = self._ordered(row for row in rows if row.entry.control)
        for row in table.models:
            row.gain = gain(self.task.main_metric, row, table.controls)
        return table

    def _rank(self, rows: Sequence[Row]) -> Differences | None:
        """Give ranks to the rows that scored the samples that most did; a frozen manifest makes sure that all do.

        It does not hold which questions are closed and what may be answered to them, so that here most votes decide.
        """
        scored = [[self._scored(row, unit) for unit in row.units] for row in rows]
        keys = [_samples_key(seeds) for seeds in scored]
        usual = max(Counter(keys).items(), key=lambda item: (bool(item[0]), item[1], item[0]), default=("", 0))[0]
        paired = [index for index, key in enumerate(keys) if key and key == usual]
        for row, key in zip(rows, keys, strict=True):
            row.note = "" if key and key == usual else "scored other samples"
        if not paired:
            return None
        return self._rank_paired([rows[index] for index in paired], [scored[index] for index in paired])

    def _rank_paired(self, rows: Sequence[Row], scored: Sequence[Sequence[_Scored]]) -> Differences:
        metric = METRICS[self.task.main_metric]
        samples = [seed.samples for seeds in scored for seed in seeds]
        members = number_groups(scored[0][0].groups, len(samples[0]))

        def scores(counts: Counts) -> Values:
            return np.stack([metric.function(seed, counts) for seed in samples])

        of_seeds = np.split(bootstrap(scores, members, DRAWS), np.cumsum([len(row.units) for row in rows])[:-1])
        draws = [
            draws_of_mean(drawn, [unit["seed"] for unit in row.units])
            for row, drawn in zip(rows, of_seeds, strict=True)
        ]
        values = np.array([row.value for row in rows])
        reach = metric_reaches(metric, np.stack(draws), samples[0], members)
        p = p_of_reaches(values, reach)
        for row, rank in zip(rows, rank_intervals(values, p, metric.higher_is_better), strict=True):
            row.rank = rank
        return Differences(rows, reach, separated(p))

    def _scored(self, row: Row, unit: Unit) -> _Scored:
        predictions = read_predictions(row.entry.folder / unit["predictions"]["file"], self.task)
        ids = predictions.sample_ids
        order = [index for index in sorted(range(len(ids)), key=ids.__getitem__) if ids[index] not in self._leaking]
        groups = [predictions.groups[index] for index in order]
        key = digest([[ids[index] for index in order], groups, predictions.claims(order)])
        return _Scored(key, groups, predictions.samples(order)[""])

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


def _samples_key(seeds: Sequence[_Scored]) -> str:
    """The seeds' key; empty where they scored different samples."""
    keys = {seed.key for seed in seeds}
    return keys.pop() if len(keys) == 1 else ""


def _mean(values: Sequence[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
