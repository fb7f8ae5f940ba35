"""An Atom feed (RFC 4287) of the runs, newest first."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape, quoteattr

from vlmed.leaderboard.board import Board
from vlmed.leaderboard.read import Entry, natural_key
from vlmed.leaderboard.texts import model_page

_LATEST = 100
_DATE = re.compile(r"(20[0-9]{2})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])")
_BEFORE = "2026-01-01"  # of a run whose folder carries no date
_TAG = "tag:vlmed.org,2026:leaderboard"


def feed(board: Board) -> str:
    """The feed. A build knows no clock, so that an entry's date is the one that its run's folder carries."""
    entries = [entry for entry in board.submissions.entries if not entry.control]
    latest = sorted(entries, key=lambda entry: (_date(entry), natural_key(entry.path)), reverse=True)[:_LATEST]
    updated = _date(latest[0]) if latest else _BEFORE
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">\n'
        f"<title>vlmed leaderboard: new results</title>\n<id>{_TAG}</id>\n<updated>{updated}T00:00:00Z</updated>\n"
        "<author><name>vlmed</name></author>\n" + "".join(map(_entry, latest)) + "</feed>\n"
    )


def _entry(entry: Entry) -> str:
    tasks = sorted({unit["task"] for unit in entry.result["units"]})
    count = len(entry.result["units"])
    summary = f"{count} {'unit' if count == 1 else 'units'} on {', '.join(tasks)}"
    return (
        f"<entry><title>{escape(entry.org)}/{escape(entry.model)}</title><id>{_TAG}:{escape(entry.path)}</id>"
        f"<link href={quoteattr(model_page(entry.org, entry.model))}/><updated>{_date(entry)}T00:00:00Z</updated>"
        f"<summary>{escape(summary)}</summary></entry>\n"
    )


def _date(entry: Entry) -> str:
    found = _DATE.match(entry.run)
    return found.group() if found else _BEFORE
