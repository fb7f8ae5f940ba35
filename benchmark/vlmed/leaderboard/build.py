"""Submissions -> leaderboard: read, rank, and write the whole site."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmed.errors import UsageError
from vlmed.leaderboard.contamination import FindCard, no_cards
from vlmed.leaderboard.export import leaderboard_json, results_csv
from vlmed.leaderboard.page import index_page
from vlmed.leaderboard.rank import Table, rank_tables
from vlmed.leaderboard.read import Submissions, read_submissions
from vlmed.leaderboard.site import check_replaceable, write_site
from vlmed.suite.manifest import FOLDER
from vlmed.suite.types import Suite


@dataclass(frozen=True)
class Leaderboard:
    """What was built, and from what."""

    suite: Suite
    submissions: Submissions
    tables: Sequence[Table]
    page: Path


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
    tables = rank_tables(suite, read.entries, manifests, find_card)
    data = leaderboard_json(suite, read, tables)
    texts = {
        "index.html": index_page(suite, read, tables),
        "data/leaderboard.json": json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n",
        "data/results.csv": results_csv(suite, read.entries, find_card),
    }
    write_site(out, texts, dict(_evidence(read)))
    return Leaderboard(suite, read, tables, out / "index.html")


def _evidence(submissions: Submissions) -> Iterator[tuple[str, Path]]:
    for entry in submissions.entries:
        for file in entry.files():
            yield f"runs/{entry.path}/{file}", entry.folder / file
