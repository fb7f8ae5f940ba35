"""Everything that the pages and the data show, put together once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Literal

from vlmed.errors import UsageError
from vlmed.hashing import digest
from vlmed.leaderboard.aggregate import Standing, comparable, standings
from vlmed.leaderboard.contamination import Card, FindCard, no_cards
from vlmed.leaderboard.rank import Place, Row, Table, current_rows, rank_tables
from vlmed.leaderboard.read import Entry, Submissions
from vlmed.leaderboard.texts import model_page
from vlmed.suite.manifest import FOLDER, read_manifest
from vlmed.suite.types import Suite, Task, Track

Name = tuple[str, str]
Domain = Literal["general", "medical", "unknown"]


@dataclass
class Model:
    """Everything that stands of a model.

    Attributes:
        entry: Its last run.
        card: What is known of it; None for a stranger.
        domain: Whether its training is general or medical, as its card says; an adapter's card goes before the base's.
        rows: Its tables with its row there.
        fractions: Its scored rows on shares of the training split, 1 included, by task and track and in that order.
    """

    name: Name
    entry: Entry
    card: Card | None
    domain: Domain
    rows: list[tuple[Table, Row]] = field(default_factory=list)
    fractions: dict[tuple[str, str], list[Row]] = field(default_factory=dict)

    @property
    def page(self) -> str:
        """Where its page lies in the site."""
        return model_page(*self.name)


@dataclass(frozen=True)
class Board:
    """The whole leaderboard.

    Attributes:
        current: Every row that no later run of its model replaces.
        models: Without controls, by organisation and name.
    """

    suite: Suite
    submissions: Submissions
    current: Mapping[Place, Row]
    tables: Sequence[Table]
    models: Mapping[Name, Model]
    manifests: Path = FOLDER

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the digests of all tasks and tracks."""
        tasks = {task.id: task.digest for task in self.suite.tasks.values()}
        return digest({"tasks": tasks, "tracks": {track.id: track.digest for track in self.suite.tracks.values()}})

    @cached_property
    def comparable(self) -> Mapping[str, Sequence[Table]]:
        """Track -> the tables that may be put together."""
        return comparable(self.suite, self.tables)

    @cached_property
    def standings(self) -> Mapping[str, Sequence[Standing]]:
        """Track -> all models over its tasks."""
        return {track: standings(tables) for track, tables in self.comparable.items()}

    def tracks(self) -> list[Track]:
        """The tracks with comparable tables, in the suite's order."""
        return [track for track in self.suite.tracks.values() if track.id in self.comparable]

    def training_samples(self, task: Task) -> int | None:
        """How many samples the training split has; None while the manifest is pending."""
        return None if task.pending else len(read_manifest(task, self.manifests).split("train"))


def board(
    suite: Suite,
    submissions: Submissions,
    manifests: Path = FOLDER,
    find_card: FindCard = no_cards,
    kept: Path | None = None,
    jobs: int = 1,
) -> Board:
    """Rank all accepted runs, as `rank_tables` does, and gather what stands of each model."""
    current = current_rows(suite, submissions.entries)
    tables = rank_tables(suite, current, manifests, find_card, kept, jobs)
    models: dict[Name, Model] = {}
    for entry in submissions.entries:
        if not entry.control:
            models[entry.org, entry.model] = _model(entry, find_card)
    for table in tables:
        for row in table.models:
            models[row.entry.org, row.entry.model].rows.append((table, row))
    for name, curves in _fractions(current).items():
        models[name].fractions = curves
    return Board(suite, submissions, current, tables, dict(sorted(models.items())), manifests)


def _model(entry: Entry, find_card: FindCard) -> Model:
    model = entry.result["model"]
    adapter = model["adapter"]
    card = _card(adapter["ref"] if adapter else model["ref"], find_card)
    return Model((entry.org, entry.model), entry, card, card.domain if card else "unknown")


def _card(ref: str, find_card: FindCard) -> Card | None:
    try:
        return find_card(ref)
    except UsageError:
        return None  # validation takes any text for a reference, and what is none leads to no card


def _fractions(current: Mapping[Place, Row]) -> dict[Name, dict[tuple[str, str], list[Row]]]:
    found: dict[Name, dict[tuple[str, str], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for (org, model, task, track, _), row in sorted(current.items(), key=itemgetter(0)):
        if not row.entry.control:
            found[org, model][task, track].append(row)
    return {name: dict(curves) for name, curves in found.items()}
