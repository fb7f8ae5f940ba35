"""Cells of tables, as elements: a template would take most of a page's time for the thousands that a page holds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Protocol

from markupsafe import Markup, escape

from vlmed.leaderboard.blind import Gain
from vlmed.leaderboard.chart import Axis
from vlmed.leaderboard.rank import Row, Table
from vlmed.leaderboard.texts import decimal, plain, signed
from vlmed.leakage.contamination import Verdict
from vlmed.metrics.table import Metric


class View(Protocol):
    """A table as it is drawn; `vlmed.leaderboard.tasks.View` is one."""

    @property
    def table(self) -> Table:
        """What it shows."""
        ...

    @property
    def axis(self) -> Axis:
        """On which its scores stand."""
        ...

    @property
    def further(self) -> Sequence[Metric]:
        """The task's metrics beside the main one."""
        ...


def number_cells(view: View, row: Row) -> Markup:
    """What a task's page says of a row between its model and its evidence."""
    table = view.table
    other = row.metric(table.task.main_metric, "all" if table.part == "clean" else "clean")
    further = [row.metric(metric.name, table.part) for metric in view.further]
    return Markup(
        f'<td class="number score" data-value="{plain(row.value)}">{decimal(row.value)}{interval(row)}'
        f"{_seeds(table, row)}</td>\n"
        f'<td class="chart">{whisker(view.axis, row)}</td>\n'
        f"{gain_cell(row.gain)}\n{''.join(map(_number, (other, *further)))}{contamination_cell(row.contamination)}\n"
    )


def _number(value: float | None) -> str:
    return f'<td class="number" data-value="{plain(value)}">{decimal(value)}</td>\n'


def interval(row: Row) -> str:
    """The 95 % interval below a score; empty where there is none."""
    return "" if row.low is None or row.high is None else f"<small>{row.low:.3f}–{row.high:.3f}</small>"


def _seeds(table: Table, row: Row) -> str:
    if (spread := row.spread(table.task.main_metric, table.part)) is None:
        return ""
    values = zip(row.units, row.seed_values(table.task.main_metric, table.part), strict=True)
    seeds = ", ".join(f"{unit['seed']}: {decimal(value)}" for unit, value in values)
    return f'<small title="Seeds {seeds}">{len(row.units)} seeds, SD {spread:.3f}</small>'


def whisker(axis: Axis, row: Row) -> Markup:
    """A row's score and its interval, drawn on an axis."""
    if row.value is None:
        return Markup('<span class="none">undefined</span>')
    if row.low is None or row.high is None:
        return Markup('<span class="none">no interval</span>')
    text = f"{row.value:.3f}, 95 % interval {row.low:.3f} to {row.high:.3f}"
    low, high = axis.x(row.low), axis.x(row.high)
    return Markup(
        f'<svg viewBox="0 0 180 22" width="180" height="22" role="img" aria-label="{text}">\n'
        f"<title>{text}</title>\n{_grid(axis)}"
        f'<path class="bar" d="M{low} 11H{high}M{low} 7v8M{high} 7v8"/>\n'
        f'<circle class="dot" cx="{axis.x(row.value)}" cy="11" r="4"/>\n</svg>\n'
    )


@cache
def _grid(axis: Axis) -> str:
    return "".join(f'<path class="grid" d="M{axis.x(tick)} 0v22"/>' for tick in axis.ticks)


def gain_cell(gain: Gain | None) -> Markup:
    """How far a model stands above the best of its blind controls, and which of them nobody has run."""
    if gain is None:
        return Markup('<td class="number"></td>\n')
    if gain.value is None:
        what = "No blind control was run on this task and track"
        return Markup(f'<td class="number none" title="{what}">not run</td>\n')
    missing = f"<br>{', '.join(gain.missing)} not run" if gain.missing else ""
    over = f"<small>over {escape(gain.control)}{missing}</small>"
    return Markup(f'<td class="number gain" data-value="{gain.value!r}">{signed(gain.value)}{over}</td>\n')


def contamination_cell(seen: Verdict | None) -> Markup:
    """Whether the model may have seen the task's images, with the reason as a title."""
    if seen is None:
        return Markup("<td></td>\n")
    reason = escape(seen.reason + (f" ({' → '.join(seen.path)})" if seen.path else ""))
    said = '<span class="mark">exposed</span>' if seen.status == "exposed" else seen.status
    return Markup(f'<td data-value="{seen.status}" title="{reason}">{said}</td>\n')
