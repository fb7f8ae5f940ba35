"""Numbers that papers print, beside what was computed here: marked as reported, never ranked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any

from vlmed.leaderboard.board import Board
from vlmed.leaderboard.rank import Row, ranked_part
from vlmed.metrics.table import METRICS

# The papers' words -> our tracks. Zhong et al. put a linear head on a tuned tower, Huang et al. classify by prompts.
_TRACKS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("Zhong2025", "zero_shot"): ("zero_shot_z25", "zero_shot_vqa"),
    ("Zhong2025", "linear_probe"): ("linear_probe",),
    ("Zhong2025", "lora"): ("lora_linear",),
    ("Huang2026", "zero_shot"): ("zero_shot", "zero_shot_retrieval"),
    ("Huang2026", "lora"): ("lora",),
    ("Huang2026", "partial"): ("partial",),
    ("Huang2026", "full"): ("full",),
}
_METRIC_TITLES = {"open_judge_score": "Open, judged by GPT-4", "open_accuracy": "Open accuracy"}
_METHODS = {"mlp": "Projector", "best_finetune": "Best fine-tuning", "lora": "LoRA"}


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper: a line per task, model and share of the training data, a column per track and metric.

    Attributes:
        lines: Their labels and for each column the reported value, the recomputed one in percent, and whose it is.
    """

    title: str
    source: str
    columns: Sequence[str]
    lines: Sequence[tuple[Sequence[str], Sequence[tuple[float | None, float | None, str]]]]


@cache
def reported() -> Mapping[str, Any]:
    """The file of reported numbers: papers, their models, and results in percent."""
    found: Mapping[str, Any] = json.loads((resources.files("vlmed.leaderboard") / "reported.json").read_text("utf-8"))
    return found


def paper_tables(board: Board) -> Iterator[PaperTable]:
    """Every table, in the order of the papers."""
    results = reported()["results"]
    ours = _Recomputed(board)
    for paper, table in dict.fromkeys((one["paper"], one["table"]) for one in results):
        chosen = [one for one in results if (one["paper"], one["table"]) == (paper, table)]
        yield _table(paper, table, chosen, ours)


def _table(paper: str, name: str, results: Sequence[Mapping[str, Any]], ours: _Recomputed) -> PaperTable:
    columns = list(dict.fromkeys((one["track"], one["metric"]) for one in results))
    lines: dict[tuple[str, str, float], dict[tuple[str, str], tuple[float | None, float | None, str]]] = {}
    for one in results:
        key = one["task"], one["model"], one.get("train_fraction", 1.0)
        value, whose = ours.value(one)
        lines.setdefault(key, {})[one["track"], one["metric"]] = one["value"], value, whose
    cited = reported()["papers"][paper]
    where = f"Table {name}" if name.isdecimal() else name.capitalize()
    return PaperTable(
        title=f"{where} of {cited['authors'].split(',')[0]} et al. {cited['year']}",
        source=f"{cited['authors']}: {cited['title']}, {cited.get('venue') or 'arXiv ' + cited.get('arxiv', '')}",
        columns=[
            f"{_METHODS.get(track) or track.replace('_', ' ').capitalize()}, {_title(metric)}"
            for track, metric in columns
        ],
        lines=[
            (_labels(key), [cells.get(column, (None, None, "")) for column in columns]) for key, cells in lines.items()
        ],
    )


def _labels(key: tuple[str, str, float]) -> list[str]:
    task, model, fraction = key
    share = "" if fraction == 1 else f"{100 * fraction:g} % of the training data"
    return [task, reported()["models"][model]["title"], share]


def _title(metric: str) -> str:
    found = METRICS.get(_our_metric(metric))
    return found.title if found else _METRIC_TITLES.get(metric, metric)


def _our_metric(metric: str) -> str:
    return metric.replace("@", "_at_")


class _Recomputed:
    """Finds what was computed here for a number of a paper."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.rows: dict[tuple[str, str, float], list[tuple[str, str, Row]]] = {}
        for model in board.models.values():
            for (task, track), rows in model.fractions.items():
                for row in rows:
                    key = task.split("@")[0], track.split("@")[0], row.fraction
                    card = model.card.name if model.card else ""
                    self.rows.setdefault(key, []).append((card, "/".join(model.name), row))

    def value(self, one: Mapping[str, Any]) -> tuple[float | None, str]:
        """In percent, with the model's name; of several that fit the best."""
        metric = _our_metric(one["metric"])
        patterns = reported()["models"][one["model"]]["cards"]
        best: tuple[float | None, str] = None, ""
        for track in _TRACKS.get((one["paper"], one["track"]), ()):
            for card, name, row in self.rows.get((one["task"], track, one.get("train_fraction", 1.0)), ()):
                if not any(fnmatchcase(card, pattern) for pattern in patterns):
                    continue
                value = row.metric(metric, ranked_part(self.board.suite.tasks[row.units[0]["task"]]))
                if value is not None and (best[0] is None or 100 * value > best[0]):
                    best = 100 * value, name
        return best
