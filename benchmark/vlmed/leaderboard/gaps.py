"""Heat maps of medical minus general models: what pretraining on medical images gains."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vlmed.leaderboard.blind import direction
from vlmed.leaderboard.board import Board, Model
from vlmed.leaderboard.contamination import Card
from vlmed.leaderboard.overview import by_task
from vlmed.leaderboard.rank import Row, Table
from vlmed.leaderboard.reported import reported
from vlmed.leakage.contamination import load_graph
from vlmed.metrics.table import METRICS
from vlmed.suite.types import Task

OFF_THE_SHELF = ("zero_shot", "choose", "retrieve", "answer")


@dataclass(frozen=True)
class Question:
    """A question of Zhong et al. 2025.

    Attributes:
        medical_tuned, general_tuned: Which side was tuned on the task.
        seen: Whether the medical model saw the task's modality in its training; None to ask nothing of that.
    """

    name: str
    text: str
    medical_tuned: bool
    general_tuned: bool
    seen: bool | None


QUESTIONS = (
    Question("RQ1", "Off the shelf, on modalities that the medical model saw", False, False, True),
    Question(
        "RQ2", "A tuned general model against an untuned medical one, on modalities that it saw", False, True, True
    ),
    Question("RQ3", "Both tuned, on a modality that the medical model never saw", True, True, False),
)


@dataclass(frozen=True)
class Cell:
    """A difference, coloured by a class of the style sheet."""

    text: str
    shade: str
    title: str


@dataclass(frozen=True)
class Matrix:
    """A heat map; None where there is nothing to compare."""

    title: str
    tasks: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell | None]]]
    reported: bool = False


def gap_maps(board: Board) -> Iterator[tuple[Question, list[Matrix]]]:
    """For each question the map of what was computed here, then that of what the papers print; those with content."""
    for question in QUESTIONS:
        title = "Medical minus best general model"
        yield question, [one for one in (_ours(board, question, title), _reported(question, title)) if one.rows]


def _ours(board: Board, question: Question, title: str) -> Matrix:
    medical = [model for model in board.models.values() if model.domain == "medical"]
    general = [model for model in board.models.values() if model.domain == "general"]
    tasks = [task for task, _ in by_task(board.tables) if _may_be_mapped(task)]
    best = {task.id: _best(general, task, question.general_tuned) for task in tasks}
    rows = []
    for model in medical:
        cells = [_our_cell(model, task, best[task.id], question) for task in tasks]
        if any(cells):
            rows.append(("/".join(model.name), cells))
    return Matrix(title, [task.name for task in tasks], rows)


def _may_be_mapped(task: Task) -> bool:
    """A difference of median ranks has no place on the scale of scores."""
    return task.dataset.medical and task.ranked and not METRICS[task.main_metric].is_median


def _our_cell(model: Model, task: Task, other: tuple[float, str] | None, question: Question) -> Cell | None:
    mine = _best([model], task, question.medical_tuned)
    if mine is None or other is None or model.card is None or sees(model.card, task) != question.seen:
        return None
    return cell(
        direction(task.main_metric) * (mine[0] - other[0]), f"{mine[0]:.3f} against {other[0]:.3f} of {other[1]}"
    )


def _best(models: Collection[Model], task: Task, tuned: bool) -> tuple[float, str] | None:
    """The best score of the models on a task, and whose it is."""
    sign = direction(task.main_metric)
    found = [
        (row.value, "/".join(model.name))
        for model in models
        for table, row in model.rows
        if _counts(table, row, task) and (table.track.method not in OFF_THE_SHELF) == tuned and row.value is not None
    ]
    return max(found, key=lambda one: (sign * one[0], one[1]), default=None)


def _counts(table: Table, row: Row, task: Task) -> bool:
    return table.task.id == task.id and row.rank is not None


def sees(card: Card, task: Task) -> bool:
    """Whether a model saw all modalities of a task, as its card and the graph of corpora have them."""
    corpus = load_graph().corpora.get(task.dataset.name)
    modalities = set(corpus.modalities) if corpus else {task.dataset.modality}
    return modalities <= set(card.modalities)


def _reported(question: Question, title: str) -> Matrix:
    """From the papers' AUC, accuracy and R@1; which modalities a model saw is left to their tables."""
    values: dict[tuple[str, str, bool], float] = {}
    for one in reported()["results"]:
        if one["metric"] in ("auc", "closed_accuracy", "recall@1") and "train_fraction" not in one:
            key = one["model"], one["task"], one["track"] != "zero_shot"
            values[key] = max(values.get(key, 0.0), one["value"])
    models: Mapping[str, Mapping[str, str]] = reported()["models"]
    tasks = list(dict.fromkeys(task for _, task, _ in values))
    rows = []
    for name, about in models.items():
        if about["domain"] == "medical":
            cells = [_reported_cell(values, models, name, task, question) for task in tasks]
            if any(cells):
                rows.append((about["title"], cells))
    return Matrix(f"{title}, whatever modalities it saw", tasks, rows, reported=True)


def _reported_cell(
    values: Mapping[tuple[str, str, bool], float],
    models: Mapping[str, Mapping[str, str]],
    name: str,
    task: str,
    question: Question,
) -> Cell | None:
    mine = values.get((name, task, question.medical_tuned))
    general = [
        (value, model)
        for (model, about, tuned), value in values.items()
        if models[model]["domain"] == "general" and about == task and tuned == question.general_tuned
    ]
    if mine is None or not general:
        return None
    best, whose = max(general)
    return cell((mine - best) / 100, f"{mine:.1f} against {best:.1f} % of {models[whose]['title']}, as reported")


def cell(difference: float, title: str) -> Cell:
    """A difference with three digits; nine shades, the outermost from 0.2 on.

    >>> cell(0.034, "").shade, cell(-0.5, "").shade, cell(0.0, "").text
    ('plus1', 'minus4', '+0.000')
    """
    strength = min(4, int(abs(difference) / 0.05) + (1 if abs(difference) >= 0.005 else 0))
    shade = f"{'plus' if difference > 0 else 'minus'}{strength}" if strength else "even"
    return Cell(f"{difference:+.3f}".replace("-", "−"), shade, title)
