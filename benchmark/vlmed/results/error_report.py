"""The wrong answers of a run, counted by error class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from vlmed.data.load import DataLoader
from vlmed.data.questions import questions
from vlmed.errors import InputError, MissingError, Problem, UsageError
from vlmed.metrics.error_classes import FAMILIES, ErrorClass, error_class
from vlmed.metrics.intervals import Estimate
from vlmed.metrics.means import mean_estimate
from vlmed.results.answered import AnswerPredictions
from vlmed.results.compare import Run
from vlmed.results.document import read_document
from vlmed.results.judged import CRITERIA, read_judged
from vlmed.suite.types import Suite, Task

# An accuracy from which on a judge takes the answer for the reference in other words.
AGREES = 90
_SHOWN = 5
# Classes that an answer in other words can fall into by the rules, which know few synonyms.
_DOUBTFUL = ("answer_type", "medical_reasoning")


@dataclass(frozen=True)
class ClassCount:
    """The wrong answers of one class.

    Attributes:
        family: Of H26: language, cross-modal, medical reasoning; or what is none of them.
        n: How many.
        share: Of all wrong answers, with its 95 % interval.
        samples: Some of their ids.
    """

    name: ErrorClass
    family: str
    n: int
    share: Estimate
    samples: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; the share in 6 digits."""
        numbers = {name: getattr(self.share, name) for name in ("value", "low", "high")}
        share = {name: None if value is None else round(value, 6) for name, value in numbers.items()}
        return {"class": self.name, "family": self.family, "n": self.n, "share": share, "samples": list(self.samples)}


@dataclass(frozen=True)
class UnitErrors:
    """The wrong answers of one unit.

    Attributes:
        n: How many answers there are.
        wrong: How many of them are wrong: not the target, or unparsed.
        classes: Every class, those without an answer too.
    """

    unit: str
    n: int
    wrong: int
    classes: Sequence[ClassCount]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        classes = [each.to_json() for each in self.classes]
        return {"unit": self.unit, "n": self.n, "wrong": self.wrong, "classes": classes}


def run_errors(run: Run, suite: Suite, data: DataLoader, judged: bool = False) -> list[UnitErrors]:
    """The wrong answers of every VQA unit of a run.

    Args:
        judged: Whether a judge may overrule: a wrong open answer that the rules call `answer_type` or
            `medical_reasoning`, and to whose accuracy the run's judge gave 90 or more, is a `paraphrase`.

    Raises:
        UsageError: The run has no VQA unit.
        MissingError: The data, a prediction file or, if `judged`, the judgement are not there.
        InputError: They are damaged, or not of the same samples; lists every sample.
    """
    accuracies = _accuracies(run) if judged else {}
    found = []
    for unit in run.units:
        task = run.task(unit, suite)
        if task.kind == "vqa":
            predictions = cast(AnswerPredictions, run.predictions(unit, task))
            asked = _asked(task, data, predictions)
            found.append(_unit_errors(unit["unit"], predictions, asked, accuracies.get(unit["unit"], {})))
    if not found:
        raise UsageError("this run has no answers", file=run.file, hint="run a model with --tracks zero_shot_vqa")
    return found


def _asked(task: Task, data: DataLoader, predictions: AnswerPredictions) -> list[str]:
    """The questions of predictions, which only the data hold."""
    table = data.table(task, images=False)
    known = questions(table, table.split("test"))
    hint = "vlmed validate"
    problems = [
        Problem("the data have no such test sample", task.id, name, hint=hint)
        for name in predictions.sample_ids
        if name not in known
    ]
    if problems:
        raise InputError(problems)
    return [known[name].text for name in predictions.sample_ids]


def _unit_errors(
    unit: str, predictions: AnswerPredictions, asked: Sequence[str], accuracies: Mapping[str, float]
) -> UnitErrors:
    answered = predictions.answered
    wrong = np.flatnonzero(answered.exact < 1).tolist()
    classes = []
    for row in wrong:
        name = error_class(asked[row], predictions.targets[row], predictions.answers[row], answered.parsed[row],
                           predictions.candidates[row])  # fmt: skip
        agrees = accuracies.get(predictions.sample_ids[row], 0) >= AGREES
        classes.append("paraphrase" if agrees and name in _DOUBTFUL else name)
    ids, groups = ([column[row] for row in wrong] for column in (predictions.sample_ids, predictions.groups))
    counts = [_count(name, classes, ids, groups) for name in FAMILIES]
    return UnitErrors(unit, len(answered), len(wrong), counts)


def _count(name: ErrorClass, classes: Sequence[str], ids: Sequence[str], groups: Sequence[str]) -> ClassCount:
    hits = np.array([each == name for each in classes], np.float64)
    samples = [sample for sample, each in zip(ids, classes, strict=True) if each == name][:_SHOWN]
    return ClassCount(name, FAMILIES[name], int(hits.sum()), mean_estimate(hits, groups), samples)


def _accuracies(run: Run) -> dict[str, dict[str, float]]:
    """Unit -> sample id -> the accuracy that the judge's first pass gave its answer."""
    folder = run.file.parent
    if not (folder / "judgement.json").exists():
        hint = "vlmed judge, or leave out --judged"
        raise MissingError("this run was not judged", file=folder / "judgement.json", hint=hint)
    units = read_document(folder / "judgement.json", "judge.schema.json").value["units"]
    return {unit["unit"]: _accuracy(run, unit["judged"]["file"]) for unit in units}


def _accuracy(run: Run, file: str) -> dict[str, float]:
    judged = read_judged(run.file.parent / file)
    return dict(zip(judged.sample_ids, judged.scores[:, 0, CRITERIA.index("accuracy")].tolist(), strict=True))
