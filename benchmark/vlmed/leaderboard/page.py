"""Ranked tables -> HTML. Jinja2 escapes every value; styles and script stand in the page, allowed by their hashes."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vlmed.leaderboard.export import suite_digest
from vlmed.leaderboard.rank import DRAWS, Table
from vlmed.leaderboard.read import Submissions
from vlmed.metrics.table import METRICS, Metric
from vlmed.suite.types import Suite, Task

PHANTOM = "Phantom (synthetic, never ranked with medical tasks)"
_WIDTH, _MARGIN = 180, 14  # of a chart, in pixels


@dataclass(frozen=True)
class Axis:
    """The scale that all whiskers of a table share, from `low` to `high`, with ticks at round numbers."""

    low: float
    high: float
    ticks: Sequence[float]

    @classmethod
    def over(cls, values: Iterable[float]) -> Axis:
        """The narrowest scale between ticks that holds all `values`.

        >>> Axis.over([0.62, 0.91]).ticks
        (0.6, 0.7, 0.8, 0.9, 1.0)
        """
        known = list(values) or [0.0, 1.0]
        span = max(max(known) - min(known), 0.01)
        step = next(step for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0, math.inf) if span / step <= 4)
        first, last = math.floor(min(known) / step + 1e-9), math.ceil(max(known) / step - 1e-9)
        ticks = tuple(round(step * index, 6) for index in range(first, max(last, first + 1) + 1))
        return cls(ticks[0], ticks[-1], ticks)

    def x(self, value: float) -> float:
        """Where a value stands, in pixels from the left."""
        share = (value - self.low) / (self.high - self.low)
        return round(_MARGIN + share * (_WIDTH - 2 * _MARGIN), 1)


@dataclass(frozen=True)
class View:
    """A table as it is drawn.

    Attributes:
        anchor: Its id on the page.
        metric: The main metric.
        further: The task's other metrics, in its order.
    """

    table: Table
    anchor: str
    axis: Axis
    metric: Metric
    further: Sequence[Metric]

    @classmethod
    def of(cls, table: Table) -> View:
        """Lays out a table."""
        task, track = table.task, table.track
        anchor = f"{task.name}-{task.version}-{track.name}-{track.version}"
        ends = [end for row in table.rows for end in (row.value, row.low, row.high) if end is not None]
        further = [METRICS[name] for name in task.metrics if name != task.main_metric]
        return cls(table, anchor, Axis.over(ends), METRICS[task.main_metric], further)


@dataclass(frozen=True)
class Section:
    """Tasks under one heading."""

    title: str
    anchor: str
    tasks: Sequence[tuple[Task, Sequence[View]]]


def index_page(suite: Suite, submissions: Submissions, tables: Sequence[Table]) -> str:
    """The first page, whole; it needs no other file to be read."""
    style, script = _asset("site.css"), _asset("site.js")
    return (
        _environment()
        .get_template("index.html")
        .render(
            policy=_policy(style, script),
            style=Markup(style),
            script=Markup(script),
            suite=suite,
            suite_digest=suite_digest(suite),
            draws=f"{DRAWS:,}",
            counts=_counts(submissions, tables),
            sections=_sections(tables),
            open_tasks=_open_tasks(suite, tables),
            refused=submissions.refused,
        )
    )


def _sections(tables: Sequence[Table]) -> list[Section]:
    medical = [table for table in tables if table.task.dataset.medical]
    parts = (
        ("Medical tasks", "medical", [table for table in medical if table.task.ranked]),
        ("Medical tasks, shown without ranks", "unranked", [table for table in medical if not table.task.ranked]),
        (PHANTOM, "phantom", [table for table in tables if not table.task.dataset.medical]),
    )
    return [Section(title, anchor, _by_task(chosen)) for title, anchor, chosen in parts if chosen]


def _by_task(tables: Sequence[Table]) -> list[tuple[Task, list[View]]]:
    grouped = groupby(tables, key=lambda table: table.task.id)
    views = [[View.of(table) for table in chosen] for _, chosen in grouped]
    return [(chosen[0].table.task, chosen) for chosen in views]


def _open_tasks(suite: Suite, tables: Sequence[Table]) -> list[Task]:
    seen = {table.task.name for table in tables}
    return [task for task in suite.current_tasks() if task.name not in seen]


def _counts(submissions: Submissions, tables: Sequence[Table]) -> dict[str, int]:
    controls = {(entry.org, entry.model) for entry in submissions.entries if entry.control}
    models = {(entry.org, entry.model) for entry in submissions.entries if not entry.control}
    return {
        "models": len(models),
        "controls": len(controls),
        "tasks": len({table.task.id for table in tables}),
        "runs": len(submissions.entries),
    }


def _asset(name: str) -> str:
    return (resources.files("vlmed.leaderboard") / "assets" / name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing may load or run but the page's own style and script; no request leaves for any host."""
    style_hash, script_hash = (
        "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'" for text in (style, script)
    )
    return (
        f"default-src 'none'; style-src {style_hash}; script-src {script_hash}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("vlmed.leaderboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "decimal": lambda value: "–" if value is None else f"{value:.3f}",
        "plain": lambda value: "" if value is None else repr(value),
        "tick": lambda value: f"{value:g}",
        "quantity": quantity,
        "rank": span,
        "revision": short_revision,
    }
    return environment


def span(rank: tuple[int, int]) -> str:
    """A rank interval for readers.

    >>> span((2, 2)), span((2, 4))
    ('2', '2–4')
    """
    low, high = rank
    return str(low) if low == high else f"{low}–{high}"


def quantity(count: float) -> str:
    """A count with three digits or so.

    >>> quantity(950), quantity(151_277_313)
    ('950', '151\xa0M')
    """
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}\u00a0{letter}"
    return f"{count:g}"


def short_revision(revision: str) -> str:
    """The first digits of a commit or content hash.

    >>> short_revision("sha256:" + "0a" * 32), short_revision("builtin")
    ('0a0a0a0a', 'builtin')
    """
    return revision.removeprefix("sha256:")[:8]
