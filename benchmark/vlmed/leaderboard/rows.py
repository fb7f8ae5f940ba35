"""Rows of tables that hold thousands of them, as elements; whatever a submission says is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from vlmed.leaderboard.cells import View, contamination_cell, gain_cell, interval, number_cells, whisker
from vlmed.leaderboard.chart import Axis
from vlmed.leaderboard.rank import Row, Table, ranked_part
from vlmed.leaderboard.texts import decimal, model_page, quantity, short_revision, shortened, span, task_page
from vlmed.metrics.table import METRICS
from vlmed.suite.types import Task, Track

_ROOT = "../"  # from the folders of the pages that hold such tables


def ranked_row(view: View, row: Row) -> Markup:
    """A model or control in the table of a task's page."""
    numbers = number_cells(view, row)
    return Markup(
        f'<tr>\n<td class="rank"{_rank(row)}</td>\n{_model_cell(row)}\n{numbers}{evidence_cell(row)}\n</tr>\n'
    )


def _rank(row: Row) -> str:
    if not row.rank:
        return f'><span class="none" title="{escape(row.note)}">–</span>'
    return f' data-value="{row.rank[0] + row.rank[1] / 10000}">{span(row.rank)}'


def _model_cell(row: Row) -> str:
    entry, model = row.entry, row.entry.result["model"]
    name = escape(entry.model)
    page = f'<a href="{_ROOT}{escape(model_page(entry.org, entry.model))}"><bdi>{name}</bdi></a>'
    size = f" · {quantity(model['parameters'])} parameters"
    note = f' · <span class="mark">{escape(row.note)}</span>' if row.note else ""
    return (
        f'<th scope="row" class="model" data-value="{name}">{f"<bdi>{name}</bdi>" if entry.control else page}\n'
        f"{_adapter(model)}<small><bdi>{escape(entry.org)}</bdi>{'' if entry.control else size}"
        f' · <code title="{escape(model["ref"])} at {escape(model["revision"])}">'
        f"{escape(short_revision(model['revision']))}</code>{note}</small></th>"
    )


def _adapter(model: Mapping[str, Any]) -> str:
    if not (adapter := model["adapter"]):
        return ""
    idle = ', <span class="mark">changes nothing</span>' if adapter["changes_nothing"] else ""
    below = f", on {len(model['adapters_below'])} more" if model.get("adapters_below") else ""
    return (
        f'<small class="adapter"><bdi>{escape(shortened(adapter["peft_type"], 16))}</bdi> adapter '
        f'<bdi title="{escape(adapter["ref"])} at {escape(adapter["revision"])}">'
        f"{escape(shortened(adapter['ref'], 48))}</bdi>,\n"
        f"{quantity(adapter['parameters'])} parameters{idle}{below}</small>\n"
    )


def evidence_cell(row: Row) -> str:
    """Links to the result and to the predictions of each seed."""
    folder = f"{_ROOT}runs/{escape(row.entry.path)}"
    files = [(unit["seed"], f"{folder}/{escape(unit['predictions']['file'])}") for unit in row.units]
    links = [f' <a href="{file}" aria-label="predictions of seed {seed}">{seed}</a>' for seed, file in files]
    seeds = f"<small>seed</small>{''.join(links)}" if len(files) > 1 else f' <a href="{files[0][1]}">predictions</a>'
    verified = '<span class="verified">verified</span> ' if row.verified else ""
    return f'<td class="evidence">{verified}<a href="{folder}/result.json">result</a>{seeds}</td>'


def result_row(axis: Axis, table: Table, row: Row, cost: float) -> Markup:
    """A task and track in the results of a model's page.

    Args:
        cost: Of the training.
    """
    metric, samples = METRICS[table.task.main_metric], row.n(table.part)
    whole = f"<small>of {row.n('all')}</small>" if table.part == "clean" else ""
    chart = '<span class="none">a rank</span>' if metric.is_median else whisker(axis, row)
    note = f'<small class="mark">{escape(row.note)}</small>' if row.note else ""
    return Markup(
        f"<tr>{_task_cell(table)}\n<td>{escape(table.track.title)}</td>\n"
        f'<td class="rank">{_rank_among(table, row)}</td>\n'
        f"<td>{metric.title}<small>{table.part} samples</small></td>\n"
        f'<td class="number score">{decimal(row.value)}{interval(row)}{note}</td>\n<td class="chart">{chart}</td>\n'
        f'{gain_cell(row.gain)}\n<td class="number">{samples}{whole}</td>\n{contamination_cell(row.contamination)}\n'
        f'<td class="number">{quantity(cost) if cost else "none"}</td>\n{evidence_cell(row)}</tr>\n'
    )


def _task_cell(table: Table) -> str:
    task, track = table.task, table.track
    phantom = "" if task.dataset.medical else ' · <span class="mark">phantom</span>'
    return (
        f'<th scope="row"><a href="{_ROOT}{task_page(task)}#{track.name}-{track.version}">{escape(task.title)}</a>'
        f"<small>{escape(task.dataset.modality)}{phantom}</small></th>"
    )


def _rank_among(table: Table, row: Row) -> str:
    if not row.rank or not table.differences:
        return "–"
    return f"{span(row.rank)}<small>of {len(table.differences.rows)}</small>"


def share_row(task: Task, track: Track, row: Row) -> Markup:
    """A task, track and share of the training split with every seed, on a model's page."""
    part = ranked_part(task)
    values = row.seed_values(task.main_metric, part)
    seeds = [
        f'<span class="seed">{unit["seed"]}: {decimal(value)}</span> '
        for unit, value in zip(row.units, values, strict=True)
    ]
    error = row.metric("ece", part) if "ece" in task.metrics else None
    return Markup(
        f'<tr><th scope="row">{escape(task.title)}</th><td>{escape(track.title)}</td>'
        f'<td class="number">{100 * row.fraction:g} %</td><td class="number">{decimal(row.value)}</td>'
        f'<td class="number">{decimal(row.spread(task.main_metric, part))}</td>\n'
        f'<td>{"".join(seeds)}</td><td class="number">{decimal(error)}</td></tr>'
    )
