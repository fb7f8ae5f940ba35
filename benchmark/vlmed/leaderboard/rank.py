"""Accepted runs -> one ranked table per task and track, in which models that can't be told apart share ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlmed.leaderboard.blind import Controls, Gain
from vlmed.leaderboard.confusion import Outcome
from vlmed.leaderboard.contamination import FindCard, contamination, no_cards
from vlmed.leaderboard.contest import Contest, Entrant, Ranks, decide
from vlmed.leaderboard.draws import File
from vlmed.leaderboard.read import Entry
from vlmed.leaderboard.seeds import reach, spread
from vlmed.leakage.contamination import Verdict
from vlmed.metrics.table import METRICS
from vlmed.suite.manifest import FOLDER
from vlmed.suite.types import Suite, Task, Track

Part = Literal["all", "clean"]
Unit = Mapping[str, Any]
Place = tuple[str, str, str, str, float]  # organisation, model, task, track, share of the training split


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
        outcome: Of a classification, the counts of its seeds added up; None for controls.
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
    outcome: Outcome | None = None

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

    @property
    def verified(self) -> bool:
        """Whether an audit confirmed every one of its units and none contradicted one."""
        return self.entry.verified.issuperset(unit["unit"] for unit in self.units)

    @property
    def contradicted(self) -> bool:
        """Whether an audit contradicted any of its units; such a row is shown but never ranked."""
        return not self.entry.contradicted.isdisjoint(unit["unit"] for unit in self.units)

    def n(self, part: Part) -> int | None:
        """Number of test samples."""
        count: int | None = self.units[0]["scores"]["n"][part]
        return count


@dataclass(frozen=True)
class Differences:
    """What the paired tests of a table found.

    Attributes:
        rows: The M ranked rows, best first.
        reach: (K, K), K = min(M, 100), how far the 95 % interval of each difference between the scores of the best K
            reaches to either side; maybe inf.
        separated: (K, K) bool, which differences are significant after the correction over all pairs of the M.
    """

    rows: Sequence[Row]
    reach: NDArray[np.float64]
    separated: NDArray[np.bool_]


@dataclass
class Table:
    """A ranking.

    Attributes:
        part: The samples that decide: `clean`, or `all` while the manifest is pending.
        models: Best first; what is undefined, or contradicted by an audit, stands last.
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
    suite: Suite,
    current: Mapping[Place, Row],
    manifests: Path = FOLDER,
    find_card: FindCard = no_cards,
    kept: Path | None = None,
    jobs: int = 1,
) -> list[Table]:
    """Every table that has a row, in the suite's order.

    Args:
        current: As of `current_rows`; only rows of the whole training split stand in a table.
        kept: Folder in which what follows from prediction files is looked up and kept.
        jobs: Number of processes.
    """
    rows: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for (_, _, task, track, fraction), row in current.items():
        if fraction == 1:
            rows[task, track].append(row)
    scored = [
        _table(task, track, rows[task.id, track.id])
        for task in suite.tasks.values()
        for track in suite.tracks.values()
        if (task.id, track.id) in rows
    ]
    _judge(scored, find_card)
    contests = [_contest(table) for table in scored]
    for table, ranks in zip(scored, decide(contests, manifests, kept, jobs), strict=True):
        _settle(table, ranks)
    return scored


def current_rows(suite: Suite, entries: Iterable[Entry]) -> dict[Place, Row]:
    """The scored rows of all models and controls; of a model's runs the last one in natural order counts."""
    rows: dict[Place, Row] = {}
    for entry in entries:
        for place, units in _by_place(entry).items():
            rows[entry.org, entry.model, *place] = Row(entry, units)
    for (_, _, task, _, _), row in rows.items():
        _score(row, suite.tasks[task])
    return rows


def _by_place(entry: Entry) -> dict[tuple[str, str, float], list[Unit]]:
    units: dict[tuple[str, str, float], list[Unit]] = defaultdict(list)
    for unit in sorted(entry.result["units"], key=lambda unit: unit["seed"]):
        units[unit["task"], unit["track"], unit["fraction"]].append(unit)
    return units


def _score(row: Row, task: Task) -> None:
    """Set a row's score and interval on the samples that decide."""
    part = ranked_part(task)
    row.value = row.metric(task.main_metric, part)
    row.low, row.high = row.interval(task.main_metric, part)
    row.note = "undefined" if row.value is None else "contradicted by an audit" if row.contradicted else ""


def ranked_part(task: Task) -> Part:
    """The samples that decide: `clean`, or `all` while the manifest is pending."""
    return "all" if task.pending else "clean"


def _table(task: Task, track: Track, rows: Sequence[Row]) -> Table:
    """The table of these rows, unranked, models in their order."""
    models = [row for row in rows if not row.entry.control]
    return Table(task, track, ranked_part(task), models, _ordered(task, (row for row in rows if row.entry.control)))


def _judge(tables: Iterable[Table], find_card: FindCard) -> None:
    """Set what is known of every row's contamination."""
    known: dict[tuple[int, str], Verdict | None] = {}
    for table in tables:
        name = table.task.dataset.name
        for row in table.rows:
            place = id(row.entry), name
            if place not in known:
                known[place] = contamination(row.entry, name, find_card)
            row.contamination = known[place]


def _contest(table: Table) -> Contest:
    """What is neither ranked nor drawn need not be read."""
    task = table.task
    entrants = [_entrant(row, task) for row in table.models] if task.ranked or task.kind == "classification" else []
    return Contest(task, entrants)


def _entrant(row: Row, task: Task) -> Entrant:
    made = [unit["predictions"] for unit in row.units]
    files = [File(row.entry.folder / one["file"], one["sha256"]) for one in made]
    ranked = task.ranked and not row.contradicted
    return Entrant(files, row.value if ranked else None)


def _settle(table: Table, ranks: Ranks) -> None:
    """Give every model what its contest found, and their order."""
    for row, outcome in zip(table.models, ranks.outcomes, strict=bool(ranks.outcomes)):
        row.outcome = outcome
    if table.task.ranked:
        _give_ranks(table, ranks)
    table.models = _ordered(table.task, table.models)
    controls = Controls.of(table.controls)
    for row in table.models:
        row.gain = controls.gain(table.task.main_metric, row)


def _give_ranks(table: Table, ranks: Ranks) -> None:
    for row in table.models:
        row.note = row.note or "scored other samples"
    paired = [table.models[index] for index in ranks.paired]
    for row, rank in zip(paired, ranks.ranks, strict=True):
        row.rank, row.note = rank, ""
    if paired:
        table.differences = Differences(paired, ranks.reach, ranks.separated)


def _ordered(task: Task, rows: Iterable[Row]) -> list[Row]:
    sign = -1 if METRICS[task.main_metric].higher_is_better else 1

    def key(row: Row) -> tuple[bool, bool, float, str]:
        return row.contradicted, row.value is None, sign * (row.value or 0.0), row.entry.path

    return sorted(rows, key=key)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
