"""A small picture of a rank for a model's own page, as SVG without any script or outside font."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import escape

from vlmed.leaderboard.board import Board
from vlmed.leaderboard.rank import Row, Table
from vlmed.leaderboard.texts import span

_WIDTH = 6.6  # of a letter, in pixels


def badges(board: Board) -> Iterator[tuple[str, str]]:
    """Path -> SVG, for every rank of the board's models."""
    for model in board.models.values():
        yield from ((model_badge_path(table, row), badge(table, row)) for table, row in model.rows if row.rank)


def model_badge_path(table: Table, row: Row) -> str:
    """Where the badge of a rank lies in the site."""
    what = f"{table.task.name}-{table.task.version}.{table.track.name}-{table.track.version}"
    # A folder for each model: file systems slow down on many thousand files in one.
    return f"badges/{row.entry.org}__{row.entry.model}/{what}.svg"


def badge(table: Table, row: Row) -> str:
    """`vlmed <task> | rank 1–3 of 12 · 0.871`."""
    assert row.rank
    assert row.value is not None
    assert table.differences
    phantom = "" if table.task.dataset.medical else " (synthetic)"
    left = f"vlmed {table.task.id}{phantom}"
    right = f"rank {span(row.rank)} of {len(table.differences.rows)} · {row.value:.3f}"
    widths = [round(12 + _WIDTH * len(text)) for text in (left, right)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{sum(widths)}" height="20" role="img" '
        f'aria-label="{escape(left)}: {escape(right)}">'
        f"<title>{escape(left)}: {escape(right)}, {escape(table.track.title)}</title>"
        f'<rect width="{sum(widths)}" height="20" rx="3" fill="#0b66a8"/>'
        f'<path d="M3 0h{widths[0] - 3}v20H3a3 3 0 0 1-3-3V3a3 3 0 0 1 3-3z" fill="#39434d"/>'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
        f'<text x="6" y="14" textLength="{widths[0] - 12}">{escape(left)}</text>'
        f'<text x="{widths[0] + 6}" y="14" textLength="{widths[1] - 12}">{escape(right)}</text></g></svg>\n'
    )
