"""Submissions -> leaderboard: read, rank, and write the whole site."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

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
from vlmed.leaderboard.read import Submissions, read_submissions
from vlmed.leaderboard.site import Content, check_replaceable, write_site
from vlmed.leaderboard.tasks import task_pages
from vlmed.leaderboard.together import Maker, made_together, unswept
from vlmed.results.unit_check import Choice
from vlmed.suite.manifest import FOLDER
from vlmed.suite.types import Suite

DRAWN = "draws"  # folder of draws among what is kept
_AT_ONCE = 20  # models whose pages one process makes in turn


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
        with closing(site_files(found, find_card, jobs)) as files:
            write_site(out, files)
    return Leaderboard(found, out / "index.html")


def site_files(
    found: Board, find_card: FindCard = no_cards, jobs: int = 1
) -> Generator[tuple[str, Content], None, None]:
    """Path in the site -> content; pages come last, since other processes make them while the rest is written."""
    with made_together(list(_makers(found)), jobs) as pages:
        yield from badges(found)
        yield "feed.atom", feed(found)
        yield "data/leaderboard.json", _lines_of_json(leaderboard_json(found)) + "\n"
        rows = result_rows(found, find_card)
        yield "data/results.csv", results_csv(rows)
        yield "data/results.parquet", results_parquet(rows)
        yield from croissants(found)
        yield from _evidence(found.submissions)
        yield from pages


def _makers(found: Board) -> Iterator[Maker]:
    """Pages made from templates, a few by each maker."""
    yield partial(overview_pages, found)
    for _, tables in by_task(found.tables):
        yield partial(task_pages, replace(found, tables=tables))
    names = list(found.models)
    for start in range(0, len(names), _AT_ONCE):
        part = {name: found.models[name] for name in names[start : start + _AT_ONCE]}
        yield partial(model_pages, replace(found, models=part))
    yield lambda: [("compare.html", compare_page(found)), ("answers.html", answers_page(found))]
    yield lambda: [("about.html", render("about.html", "", board=found, here="About", draws=f"{DRAWS:,}"))]


_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False).encode


def _lines_of_json(value: Any, depth: int = 4) -> str:
    """JSON with a line for each value down to `depth`, such as a row of a table, so that versions can be compared."""
    if not depth or not value or not isinstance(value, dict | list):
        return _encode(value)
    if isinstance(value, list):
        return "[\n" + ",\n".join(_lines_of_json(one, depth - 1) for one in value) + "\n]"
    members = (f"{_encode(name)}: {_lines_of_json(value[name], depth - 1)}" for name in sorted(value))
    return "{\n" + ",\n".join(members) + "\n}"


def _evidence(submissions: Submissions) -> Iterator[tuple[str, Path]]:
    """Path in the site -> file among the submissions that is copied there."""
    for entry in submissions.entries:
        for file in entry.files():
            yield f"runs/{entry.path}/{file}", entry.folder / file
