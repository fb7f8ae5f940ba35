"""Submissions -> leaderboard: read, rank, and write the whole site."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from vlmed.errors import UsageError
from vlmed.leaderboard.answers import answers_page
from vlmed.leaderboard.badges import badges
from vlmed.leaderboard.board import Board, board
from vlmed.leaderboard.compare import compare_page
from vlmed.leaderboard.contamination import FindCard, no_cards
from vlmed.leaderboard.croissant import croissants
from vlmed.leaderboard.draws import DRAWS
from vlmed.leaderboard.export import leaderboard_json, result_rows, results_csv, results_parquet
from vlmed.leaderboard.feed import feed
from vlmed.leaderboard.html import render
from vlmed.leaderboard.models import model_pages
from vlmed.leaderboard.overview import by_task, overview_pages
from vlmed.leaderboard.rank import Table
from vlmed.leaderboard.read import Entry, Submissions, read_submissions
from vlmed.leaderboard.site import Content, Contents, check_replaceable, write_site
from vlmed.leaderboard.tasks import task_pages
from vlmed.leaderboard.together import Maker, unswept
from vlmed.results.unit_check import Choice
from vlmed.suite.manifest import FOLDER
from vlmed.suite.types import Suite

DRAWN = "draws"  # folder of draws among what is kept
_Item = TypeVar("_Item")
_AT_ONCE = 20  # models whose files one process makes in turn


@dataclass(frozen=True)
class Leaderboard:
    """What was built, and from what."""

    board: Board
    page: Path

    @property
    def suite(self) -> Suite:
        """The suite that it is about."""
        return self.board.suite

    @property
    def submissions(self) -> Submissions:
        """All runs, accepted and refused."""
        return self.board.submissions

    @property
    def tables(self) -> Sequence[Table]:
        """All ranked tables."""
        return self.board.tables


def build(
    submissions: Path,
    out: Path,
    suite: Suite,
    manifests: Path = FOLDER,
    intervals: bool | Choice = True,
    find_card: FindCard = no_cards,
    kept: Path | None = None,
    jobs: int = 1,
) -> Leaderboard:
    """Build the site of all accepted runs below `submissions` in the folder `out`, whole or not at all.

    Equal submissions give equal bytes. Runs that validation refuses are left out and listed.

    Args:
        intervals: Of which units to recompute the intervals too, which takes nearly all the time; True for all.
        find_card: Gives what is known of a model's training; without it, every model's contamination is unknown.
        kept: Folder of what is kept from build to build: verdicts, where `vlmed validate` keeps them, and draws. It
            changes how long a build takes, and nothing else.
        jobs: Number of processes.

    Raises:
        MissingError: There is no folder of submissions.
        UsageError: `out` lies among the submissions, or holds something that no earlier build wrote.
        VlmedError: The disk is full.
    """
    if out.resolve().is_relative_to(submissions.resolve()):
        raise UsageError("the site can't stand among the submissions", file=out, hint="choose another --out")
    check_replaceable(out.resolve(), contents=False)
    with unswept():
        read = read_submissions(submissions, suite, manifests, intervals, kept, jobs)
        found = board(suite, read, manifests, find_card, kept and kept / DRAWN, jobs)
        write_site(out, data_files(found, find_card), site_makers(found), jobs)
    return Leaderboard(found, out / "index.html")


def data_files(found: Board, find_card: FindCard = no_cards) -> Iterator[tuple[str, Content]]:
    """Path in the site -> content of what is for programs; Arrow writes some of it, so that no forked process may."""
    yield "feed.atom", feed(found)
    yield "data/leaderboard.json", _lines_of_json(leaderboard_json(found)) + "\n"
    rows = result_rows(found, find_card)
    yield "data/results.csv", results_csv(rows)
    yield "data/results.parquet", results_parquet(rows)
    yield from croissants(found)


def site_makers(found: Board) -> list[Maker[Contents]]:
    """Makers of everything else, a few files by each; what takes longest comes first."""
    of_models = [replace(found, models=dict(part)) for part in _parts(list(found.models.items()))]
    return [
        lambda: [("compare.html", compare_page(found)), ("answers.html", answers_page(found))],
        partial(overview_pages, found),
        *(partial(task_pages, replace(found, tables=tables)) for _, tables in by_task(found.tables)),
        *(partial(model_pages, part) for part in of_models),
        *(partial(badges, part) for part in of_models),
        *(partial(_evidence, part) for part in _parts(found.submissions.entries)),
        lambda: [("about.html", render("about.html", "", board=found, here="About", draws=f"{DRAWS:,}"))],
    ]


def _parts(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    return (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))


_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False).encode


def _lines_of_json(value: Any, depth: int = 4) -> str:
    """JSON with a line for each value down to `depth`, such as a row of a table, so that versions can be compared."""
    if not depth or not value or not isinstance(value, dict | list):
        return _encode(value)
    if isinstance(value, list):
        return "[\n" + ",\n".join(_lines_of_json(one, depth - 1) for one in value) + "\n]"
    members = (f"{_encode(name)}: {_lines_of_json(value[name], depth - 1)}" for name in sorted(value))
    return "{\n" + ",\n".join(members) + "\n}"


def _evidence(entries: Sequence[Entry]) -> Iterator[tuple[str, Path]]:
    """Path in the site -> file among the submissions that is copied there."""
    for entry in entries:
        for file in entry.files():
            yield f"runs/{entry.path}/{file}", entry.folder / file
