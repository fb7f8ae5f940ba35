"""Which questions are closed, their types and their candidates are frozen, so that nobody can claim others."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forgery import check, rewrite
from submission_factory import World, question, sample_id
from vlmed.data.load import DataLoader
from vlmed.data.questions import freeze_questions
from vlmed.errors import InputError, MissingError, UsageError
from vlmed.results.predictions import AnswerPredictions
from vlmed.suite.check import check_suite
from vlmed.suite.ledger import freeze, ledger_problems, questions_path, read_ledger
from vlmed.suite.load import load_suite
from vlmed.suite.questions import FrozenQuestion, candidates_digest, read_questions, write_questions
from vlmed.suite.types import Task

FROZEN = ("vqa_rad@1", "vqa_rad_official@1", "slake@1", "slake_bilingual@1", "phantom_vqa@1")


def frozen(task: Task, samples: int) -> list[FrozenQuestion]:
    asked = {sample_id(index): question(index) for index in range(samples)}
    return [
        FrozenQuestion(
            name,
            "closed" if each.candidates else "open",
            "finding" if each.candidates else "place",
            candidates_digest(task, each.candidates),
        )
        for name, each in asked.items()
    ]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "world", all_kinds=True)
    task = world.suite.task("questions")
    write_questions(task, frozen(task, world.samples), world.manifests)
    freeze(world.suite, world.root / "ledger.jsonl")
    return world


@pytest.fixture
def run(world: World) -> Path:
    return world.add("model", tasks=("questions",), tracks=("answer",))


def test_honest_answers_are_accepted(world: World, run: Path) -> None:
    assert check(world, run, intervals=False).problems == []


def open_row(predictions: AnswerPredictions) -> AnswerPredictions:
    """Row 1 asks for yes or no; as an open question its long answers would score words."""
    closed, candidates = predictions.closed.copy(), list(predictions.candidates)
    closed[1], candidates[1] = False, ()
    return replace(predictions, closed=closed, candidates=candidates)


def closed_row(predictions: AnswerPredictions) -> AnswerPredictions:
    """Row 0 is open; as a choice between two real answers it would be half guessed."""
    closed, candidates = predictions.closed.copy(), list(predictions.candidates)
    closed[0], candidates[0] = True, ("left lung", "liver")
    return replace(predictions, closed=closed, candidates=candidates)


def fewer(predictions: AnswerPredictions) -> AnswerPredictions:
    """Row 5 asks for a side; two of three candidates make it easier."""
    candidates = list(predictions.candidates)
    candidates[5] = tuple(name for name in candidates[5] if name == predictions.targets[5] or name == "right")[:2]
    return replace(predictions, candidates=candidates)


def retyped(predictions: AnswerPredictions) -> AnswerPredictions:
    """Row 3 goes to another subgroup."""
    return replace(predictions, question_types=[*predictions.question_types[:3], "x", *predictions.question_types[4:]])


def lettered(predictions: AnswerPredictions) -> AnswerPredictions:
    return replace(predictions, lettered=np.arange(len(predictions.sample_ids)) == 0)


@pytest.mark.parametrize(
    ("change", "what", "row"),
    [
        (open_row, "whether this question is closed", 1),
        (open_row, "what may be answered", 1),
        (closed_row, "whether this question is closed", 0),
        (fewer, "what may be answered", 5),
        (retyped, "the type of this question", 3),
        (lettered, "an open question has no letters", 0),
    ],
)
def test_other_questions_than_the_frozen_ones_are_refused_with_their_row(
    world: World, run: Path, change: Callable[[Any], Any], what: str, row: int
) -> None:
    rewrite(world, run, change)
    problems = check(world, run, intervals=False).problems
    assert [problem.path for problem in problems if what in problem.what] == [f"row {row}"]


def test_without_frozen_questions_the_same_claim_goes_through(tmp_path: Path) -> None:
    """What the frozen questions are for."""
    world = World(tmp_path / "world", all_kinds=True)
    run = world.add("model", tasks=("questions",), tracks=("answer",))
    rewrite(world, run, retyped)
    assert not [problem for problem in check(world, run, intervals=False).problems if "row" in problem.path]


def test_changed_questions_are_not_believed(world: World) -> None:
    task = world.suite.task("questions")
    path = questions_path(task, world.root)
    path.write_text(path.read_text().replace("closed", "open", 1))
    with pytest.raises(InputError, match="not the frozen questions"):
        read_questions(task, world.manifests)
    (problem,) = ledger_problems(world.suite, world.root / "ledger.jsonl")
    assert problem.file == "questions/questions-v1.csv"
    path.unlink()
    with pytest.raises(MissingError, match="are gone"):
        read_questions(task, world.manifests)
    (problem,) = ledger_problems(world.suite, world.root / "ledger.jsonl")
    assert problem.what == "something frozen is gone"


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[1:],
        lambda rows: [*rows, replace(rows[0], sample_id="zzz")],
        lambda rows: [replace(rows[0], candidates="0" * 16), *rows[1:]],
        lambda rows: [replace(rows[0], closed="maybe"), *rows[1:]],
    ],
)
def test_frozen_questions_are_those_of_the_test_samples(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    world = World(tmp_path / "world", all_kinds=True)
    task = world.suite.task("questions")
    write_questions(task, change(frozen(task, world.samples)), world.manifests)
    freeze(world.suite, world.root / "ledger.jsonl")
    (problem,) = check_suite(world.suite, world.manifests, world.root / "ledger.jsonl")
    assert problem.file == "questions-v1.csv"


def test_the_shipped_ledger_names_the_questions_of_all_data_at_hand() -> None:
    assert {f"questions.{name}" for name in FROZEN} <= {line.id for line in read_ledger()}
    for name in FROZEN:
        assert read_questions(load_suite().tasks[name])


def test_the_phantom_s_questions_are_those_that_its_data_give(tmp_path: Path) -> None:
    prove("phantom_vqa@1", DataLoader(cache=tmp_path), tmp_path)


@pytest.mark.parametrize("name", FROZEN[:4])
def test_frozen_questions_are_those_that_the_data_give(name: str, shared_data: Path, tmp_path: Path) -> None:
    prove(name, DataLoader(shared_data, cache=tmp_path), tmp_path)


def prove(name: str, loader: DataLoader, folder: Path) -> None:
    task = load_suite().tasks[name]
    made = freeze_questions(loader.table(task, images=False), folder / "manifests")
    assert made.read_bytes() == questions_path(task).read_bytes()


def test_frozen_questions_are_never_frozen_again(tmp_path: Path) -> None:
    loader = DataLoader(cache=tmp_path)
    table = loader.table(load_suite().task("phantom_vqa"), images=False)
    with pytest.raises(UsageError, match="frozen already"):
        freeze_questions(table, loader.manifests)


def test_the_files_hold_no_answer_and_no_question() -> None:
    for name in FROZEN:
        text = questions_path(load_suite().tasks[name]).read_text()
        assert text.isascii()
        assert not {"yes", "liver", "Is ", "?"} & set(json.dumps(text).split(","))
