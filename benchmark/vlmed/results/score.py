"""Predictions -> scores: the one computation that both a run and its validation do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from vlmed.metrics.classification import Classified, Counts, Indices
from vlmed.metrics.intervals import Estimate
from vlmed.metrics.table import METRICS, Samples, evaluate_samples, metrics_named, values_of
from vlmed.metrics.vqa import OPEN
from vlmed.results.predictions import AnswerPredictions, ClassificationPredictions, Predictions
from vlmed.results.ranked import PREFIXES
from vlmed.suite.frozen_rows import Keyed, Row
from vlmed.suite.texts import Texts
from vlmed.suite.types import Kind, Task

DIGITS = 6
_DRAWS = 1000
_SEED = 0
# A metric of fewer samples says more about chance than about a subgroup.
_SMALLEST_SUBGROUP = 20
# Parts that are scored together; their counts take memory.
_TOGETHER = 32
_Known = Mapping[str, Mapping[str, Estimate]]  # prefix -> name -> estimate
_Members = dict[str, Indices]  # value -> samples
_NOTHING = {"value": None, "low": None, "high": None, "undefined": "no sample is left"}
# What stands beside a task's own metrics. Published results hold exactly these, so that the lists may never change.
_FURTHER: Mapping[Kind, tuple[str, ...]] = {
    "classification": (),
    "retrieval": (
        "strict_recall_at_1",
        "strict_recall_at_5",
        "strict_recall_at_10",
        "strict_mean_reciprocal_rank",
        "strict_median_rank",
    ),
    "vqa": ("open_token_recall", "open_bleu_1", "open_rouge_l"),
}
_PREFIXES: Mapping[Kind, tuple[str, ...]] = {
    "classification": ("",),
    "retrieval": tuple(PREFIXES.values()),
    "vqa": ("",),
}


def score(
    task: Task, predictions: Predictions, frozen: Mapping[str, Row] | None, intervals: bool = True
) -> dict[str, Any]:
    """The `scores` object of a unit, ready for JSON.

    Its `metrics` are the task's own. For a retrieval task these are of image to text; beside them stand the same with
    the query's own item alone counting (`strict_recall_at_1`), and all of text to image
    (`text_to_image_recall_at_1`, `text_to_image_strict_recall_at_1`). The clean samples are then clean queries to the
    whole gallery. For a VQA task recall, BLEU-1 and ROUGE-L of open answers stand beside, and `n` counts the
    open, closed and unparsed ones.

    Subgroups are those of the manifest; for a VQA task also `question_type`, as the file claims it.

    Args:
        frozen: Sample id -> its row of the manifest; None where that is pending, so that nobody knows which samples
            are clean and whom they show.
        intervals: Whether to compute the 95 % intervals, which take nearly all the time.

    Raises:
        InputError: A prediction is not one of its kind, or a target is out of range; names the row.
    """
    names = Texts.of(predictions.sample_ids)
    rows = None if frozen is None else Keyed.of(frozen)
    clean = None if rows is None else _clean(names, rows)
    parts: dict[str, Indices | None] = {"all": np.arange(len(names)), "clean": clean}
    present = {part: chosen for part, chosen in parts.items() if chosen is not None and len(chosen)}
    known = (_with_intervals if intervals else _without_intervals)(task, predictions, present)
    return {
        "n": {
            "all": len(names),
            "clean": None if clean is None else len(clean),
            "groups": pc.count_distinct(Texts.of(predictions.groups).array).as_py(),
            **_answer_counts(predictions),
        },
        "metrics": {
            part: None if chosen is None else _metrics(task, known.get(part)) for part, chosen in parts.items()
        },
        "subgroups": None if rows is None else _subgroups(task, predictions, names, rows),
        "prompt_sensitivity": _prompt_sensitivity(task, predictions),
    }


def _clean(names: Texts, rows: Keyed) -> Indices:
    """Those of the samples that don't leak; what is in no manifest doesn't."""
    leaks, numbers = rows.folded("leaks", names)
    return np.flatnonzero(np.isin(numbers, [number for number, kinds in enumerate(leaks) if not kinds]))


def _answer_counts(predictions: Predictions) -> dict[str, int]:
    if not isinstance(predictions, AnswerPredictions):
        return {}
    answered = predictions.answered
    opened = int((answered.strata == OPEN).sum())
    return {"open": opened, "closed": len(answered) - opened, "unparsed": answered.n_unparsed}


def _metrics(task: Task, known: _Known | None) -> dict[str, Any]:
    """The metrics of a part, for JSON; without any, of a part that holds no sample."""
    return {
        prefix + name: _estimate(known[prefix][name]) if known else dict(_NOTHING)
        for prefix in _PREFIXES[task.kind]
        for name in _names(task)
    }


def _names(task: Task) -> list[str]:
    return [*task.metrics, *(name for name in _FURTHER[task.kind] if name not in task.metrics)]


def _with_intervals(task: Task, predictions: Predictions, parts: Mapping[str, Indices]) -> dict[str, _Known]:
    # Numbered once, in the order of their names, so that each part numbers numbers.
    names, groups = _names(task), Texts.of(predictions.groups).numbers()
    known: dict[str, _Known] = {}
    for part, chosen in parts.items():
        # A part that leaves nobody out is scored already.
        if known and len(chosen) == len(groups):
            known[part] = known["all"]
            continue
        known[part] = {
            prefix: evaluate_samples(names, samples, groups[chosen], _DRAWS, _SEED)
            for prefix, samples in predictions.samples(chosen).items()
        }
    return known


def _without_intervals(task: Task, predictions: Predictions, parts: Mapping[str, Indices]) -> dict[str, _Known]:
    names = _names(task)
    return {
        part: {prefix: dict(zip(names, map(Estimate, each), strict=True)) for prefix, each in values.items()}
        for part, values in zip(parts, _values(names, predictions, list(parts.values())), strict=True)
    }


def _values(
    names: Sequence[str], predictions: Predictions, parts: Sequence[Indices]
) -> Iterator[dict[str, list[float | None]]]:
    """The metrics of each part, keyed by prefix.

    To a metric a part is one more draw of the samples: so whatever it sorts is sorted once for many parts.
    """
    for start in range(0, len(parts), _TOGETHER):
        some = parts[start : start + _TOGETHER]
        rows = np.unique(np.concatenate(some))
        draws = [np.bincount(np.searchsorted(rows, part), minlength=len(rows)) for part in some]
        counts = np.stack(draws, axis=1).astype(np.int32)
        values = {prefix: _values_of(names, samples, counts) for prefix, samples in predictions.samples(rows).items()}
        yield from ({prefix: of_parts[index] for prefix, of_parts in values.items()} for index in range(len(some)))


def _values_of(names: Sequence[str], samples: Samples, counts: Counts) -> list[list[float | None]]:
    """Each metric of each draw of counts (N, B), by draw; None where it is undefined."""
    values = values_of(metrics_named(names), samples, counts)
    return [[None if np.isnan(value) else value for value in of_draw] for of_draw in values.T.tolist()]


def _estimate(estimate: Estimate) -> dict[str, Any]:
    numbers = {"value": _rounded(estimate.value), "low": _rounded(estimate.low), "high": _rounded(estimate.high)}
    return numbers | ({"undefined": estimate.reason} if estimate.reason else {})


def _subgroups(task: Task, predictions: Predictions, ids: Texts, rows: Keyed) -> dict[str, Any]:
    """The main metric of every subgroup that is large enough, the worst of them, and its distance to the best."""
    members = _members(predictions, ids, rows)
    large = {
        (name, value): chosen
        for name, values in members.items()
        for value, chosen in values.items()
        if len(chosen) >= _SMALLEST_SUBGROUP
    }
    scored = _values([task.main_metric], predictions, list(large.values()))
    metric = {place: values[""][0] for place, values in zip(large, scored, strict=True)}
    return {
        name: _fairness(task, {value: metric.get((name, value)) for value in values}, values)
        for name, values in members.items()
    }


def _members(predictions: Predictions, ids: Texts, rows: Keyed) -> dict[str, _Members]:
    """The samples of every value of every field."""
    subgroups, numbers = rows.folded("subgroups", ids)
    types, claimed = [""], np.zeros(len(ids), np.int64)
    if isinstance(predictions, AnswerPredictions):
        different, claimed = np.unique(np.array(predictions.question_types, object), return_inverse=True)
        types = different.tolist()
    alike: dict[str, dict[str, list[Indices]]] = defaultdict(lambda: defaultdict(list))
    for number, chosen in _alike(numbers * len(types) + claimed):
        for name, value in _labels(subgroups[number // len(types)], types[number % len(types)]):
            alike[name][value].append(chosen)
    return {name: {value: np.concatenate(parts) for value, parts in values.items()} for name, values in alike.items()}


def _alike(numbers: Indices) -> list[tuple[int, Indices]]:
    """Each different number and where it stands."""
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    return [(int(numbers[part[0]]), part) for part in np.split(order, starts)[1:]]


def _labels(subgroups: str, question_type: str) -> Iterator[tuple[str, str]]:
    """The fields of a sample and its values there."""
    frozen = [pair.partition("=") for pair in subgroups.split(";") if pair]
    yield from ((name, value) for name, _, value in frozen)
    if question_type and "question_type" not in (name for name, _, _ in frozen):
        yield "question_type", question_type


def _fairness(task: Task, metric: Mapping[str, float | None], members: _Members) -> dict[str, Any]:
    defined = {value: number for value, number in metric.items() if number is not None}
    better = METRICS[task.main_metric].higher_is_better
    worst = (min if better else max)(sorted(defined), key=lambda value: defined[value], default=None)
    gap = max(defined.values()) - min(defined.values()) if defined else None
    values = {value: {"n": len(members[value]), "value": _rounded(metric[value])} for value in sorted(members)}
    return {"metric": task.main_metric, "values": values, "worst": worst, "gap": _rounded(gap)}


def _prompt_sensitivity(task: Task, predictions: Predictions) -> dict[str, Any] | None:
    """How the main metric moves when one template stands for the whole ensemble."""
    if not isinstance(predictions, ClassificationPredictions) or not predictions.by_template.shape[1]:
        return None
    once = np.ones((len(predictions.targets), 1), np.int32)
    [[ensemble]], *others = (
        _values_of([task.main_metric], Classified(probabilities, predictions.targets), once)
        for probabilities in (predictions.probabilities, *predictions.by_template.swapaxes(0, 1))
    )
    values = [value for [[value]] in others]
    defined = [number for number in values if number is not None]
    return {
        "metric": task.main_metric,
        "ensemble": _rounded(ensemble),
        "templates": [_rounded(number) for number in values],
        "spread": _rounded(max(defined) - min(defined)) if defined else None,
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, DIGITS)
