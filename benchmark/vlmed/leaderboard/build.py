"""Submissions -> leaderboard: read, rank, and write the whole site."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmed.errors import UsageError
from vlmed.leaderboard.answers import answers_page
from vlmed.leaderboard.badges import badges
from vlmed.leaderboard.board import Board, board
from vlmed.leaderboard.compare import compare_page
from vlmed.leaderboard.contamination import FindCard, no_cards
from vlmed.leaderboard.export import leaderboard_json, result_rows, results_csv, results_parquet
from vlmed.leaderboard.feed import feed
from vlmed.leaderboard.html import render
from vlmed.leaderboard.models import model_pages
from vlmed.leaderboard.overview import overview_pages
from vlmed.leaderboard.rank import DRAWS, Table
from vlmed.leaderboard.read import Submissions, read_submissions
from vlmed.leaderboard.site import check_replaceable, write_site
from vlmed.leaderboard.tasks import task_pages
from vlmed.suite.manifest import FOLDER
from vlmed.suite.types import Suite


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
    intervals: bool = True,
    find_card: FindCard = no_cards,
) -> Leaderboard:
    """Build the site of all accepted runs below `submissions` in the folder `out`, whole or not at all.

    Equal submissions give equal bytes. Runs that validation refuses are left out and listed.

    Args:
        intervals: Whether to recompute the runs' intervals too, which takes nearly all the time.
        find_card: Gives what is known of a model's training; without it, every model's contamination is unknown.

    Raises:
        MissingError: There is no folder of submissions.
        UsageError: `out` lies among the submissions, or holds something that no earlier build wrote.
        VlmedError: The disk is full.
    """
    if out.resolve().is_relative_to(submissions.resolve()):
        raise UsageError("the site can't stand among the submissions", file=out, hint="choose another --out")
    check_replaceable(out.resolve())
    read = read_submissions(submissions, suite, manifests, intervals)
    found = board(suite, read, manifests, find_card)
    write_site(out, dict(site_files(found, find_card)), dict(_evidence(read)))
    return Leaderboard(found, out / "index.html")


def site_files(found: Board, find_card: FindCard = no_cards) -> Iterator[tuple[str, str | bytes]]:
    """Path in the site -> content, but for the evidence, which is copied."""
    yield from overview_pages(found)
    yield from task_pages(found)
    yield from model_pages(found)
    yield "compare.html", compare_page(found)
    yield "answers.html", answers_page(found)
    yield "about.html", render("about.html", "", board=found, here="About", draws=f"{DRAWS:,}")
    yield from badges(found)
    yield "feed.atom", feed(found)
    data = json.dumps(leaderboard_json(found), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    yield "data/leaderboard.json", data + "\n"
    rows = result_rows(found, find_card)
    yield "data/results.csv", results_csv(rows)
    yield "data/results.parquet", results_parquet(rows)


def _evidence(submissions: Submissions) -> Iterator[tuple[str, Path]]:
    for entry in submissions.entries:
        for file in entry.files():
            yield f"runs/{entry.path}/{file}", entry.folder / file
