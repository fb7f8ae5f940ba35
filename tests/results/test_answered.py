"""VQA: what is written is read, every score follows from the raw answers, and whatever is changed is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgery import bump, check, edit, problems, rewrite, rewrite_rows
from submission_factory import CHOICES, LEAKY, OPEN, World, question
from vlmed.errors import InputError
from vlmed.metrics.vqa import score_answers
from vlmed.results.claims import Claims
from vlmed.results.predictions import AnswerPredictions, read_predictions, write_predictions
from vlmed.results.score import score
from vlmed.results.submit import submit

NAMES = {
    *("accuracy", "closed_accuracy", "balanced_closed_accuracy", "open_exact_match", "open_token_f1"),
    *("open_token_recall", "open_bleu_1", "open_rouge_l"),
}
# Samples by what is asked there.
OPEN_ROW, YES_NO_ROW, CHOICE_ROW = 3, 1, 5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), all_kinds=True)


@pytest.fixture(scope="module")
def honest(world: World) -> Path:
    return world.add("honest", 0.5, tasks=("questions",), tracks=("answer",))


@pytest.fixture
def run(honest: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "run"))


def scores_of(run: Path) -> Any:
    return json.loads((run / "result.json").read_text())["units"][0]["scores"]


def rows_of(run: Path) -> list[dict[str, Any]]:
    (file,) = (run / "predictions").iterdir()
    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


def test_an_honest_run_is_accepted_and_every_metric_recomputed(world: World, run: Path) -> None:
    report = check(world, run)
    assert report.problems == []
    assert report.recomputed == 2 * len(NAMES)


def test_scores_are_those_of_the_answers_in_the_file(run: Path) -> None:
    rows = rows_of(run)
    # Every wrong answer of the factory is unlike its target, so that right is what parses to the target.
    right = [row["parsed"] == row["target"] for row in rows]
    found = scores_of(run)
    for part, first in (("all", 0), ("clean", LEAKY)):
        values = {name: estimate["value"] for name, estimate in found["metrics"][part].items()}
        assert values.keys() == NAMES
        closed = [hit for hit, row in list(zip(right, rows, strict=True))[first:] if row["closed"]]
        assert values["accuracy"] == round(np.mean(right[first:]), 6)
        assert values["closed_accuracy"] == round(np.mean(closed), 6)
        assert 0 < values["open_exact_match"] < 1
    closed_count = sum(row["closed"] for row in rows)
    assert found["n"] == {
        "all": 120,
        "clean": 120 - LEAKY,
        "groups": 120,
        "open": 120 - closed_count,
        "closed": closed_count,
        "unparsed": sum(row["parsed"] is None for row in rows),
    }
    assert found["n"]["unparsed"] > 0


def test_subgroups_are_the_manifests_and_the_types_of_questions(run: Path) -> None:
    rows = rows_of(run)
    found = scores_of(run)["subgroups"]
    assert set(found) == {"organ", "question_type"}
    for kind in ("finding", "place"):
        right = [row["parsed"] == row["target"] for row in rows if row["question_type"] == kind]
        assert found["question_type"]["values"][kind] == {"n": len(right), "value": round(np.mean(right), 6)}
    assert found["organ"]["metric"] == "accuracy"


def test_a_question_type_that_the_manifest_knows_is_taken_from_there(world: World, honest: Path) -> None:
    task = world.suite.task("questions")
    (file,) = (honest / "predictions").iterdir()
    predictions = read_predictions(file, task)
    from vlmed.suite.manifest import read_manifest

    frozen = {
        name: replace(row, subgroups="question_type=frozen")
        for name, row in read_manifest(task, world.manifests).by_id().items()
    }
    found = score(task, predictions, frozen, intervals=False)["subgroups"]
    assert list(found["question_type"]["values"]) == ["frozen"]


@pytest.mark.parametrize("part", ["all", "clean"])
@pytest.mark.parametrize("metric", ["accuracy", "balanced_closed_accuracy", "open_bleu_1"])
@pytest.mark.parametrize("end", ["value", "low", "high"])
def test_one_digit_of_one_number_is_found(world: World, run: Path, part: str, metric: str, end: str) -> None:
    edit(run, f"units/0/scores/metrics/{part}/{metric}/{end}", bump)
    assert [problem.path for problem in check(world, run).problems] == [
        f"$.units[0].scores.metrics.{part}.{metric}.{end}"
    ]


@pytest.mark.parametrize("count", ["open", "closed", "unparsed"])
@pytest.mark.parametrize("value", [lambda count: count + 1, 0, ...])
def test_a_false_count_is_found(world: World, run: Path, count: str, value: Any) -> None:
    edit(run, f"units/0/scores/n/{count}", value)
    assert [place for _, place in problems(world, run)] == [f"$.units[0].scores.n.{count}"]


def test_counts_of_answers_belong_to_vqa_alone(world: World) -> None:
    run = world.add("classified", 1.0)
    edit(run, "units/0/scores/n/unparsed", 0)
    assert [place for _, place in problems(world, run)] == ["$.units[0].scores.n.unparsed"]


TAMPERED = [
    (OPEN_ROW, {"answer": "The answer is nothing."}, "the parsed answer is not what the raw one gives"),
    (YES_NO_ROW, {"parsed": None}, "the parsed answer is not what the raw one gives"),
    (YES_NO_ROW, {"parsed": "no"}, "the parsed answer is not what the raw one gives"),
    (OPEN_ROW, {"parsed": "a lung"}, "the parsed answer is not what the raw one gives"),
    (OPEN_ROW, {"target": "spleen"}, "the target is not the frozen one"),
    (OPEN_ROW, {"target": OPEN[1].title()}, "the target is not the frozen one"),
    (OPEN_ROW, {"target": ""}, "the target is not the frozen one"),
    (YES_NO_ROW, {"target": "no"}, "the target is not the frozen one"),
    (OPEN_ROW, {"candidates": ["liver"]}, "an open question has no candidates"),
    (OPEN_ROW, {"lettered": True}, "an open question has no candidates"),
    (YES_NO_ROW, {"closed": False}, "an open question has no candidates"),
    (YES_NO_ROW, {"candidates": ["yes"]}, "a yes-no question has other candidates"),
    (YES_NO_ROW, {"candidates": ["no", "yes"]}, "a yes-no question has other candidates"),
    (YES_NO_ROW, {"candidates": []}, "a yes-no question has other candidates"),
    (CHOICE_ROW, {"candidates": []}, "the target is no candidate"),
    (CHOICE_ROW, {"candidates": ["both"]}, "fewer than two candidates are no choice"),
    (CHOICE_ROW, {"candidates": ["left", "right"]}, "the target is no candidate"),
    (CHOICE_ROW, {"candidates": ["right", "both"]}, "the candidates are not sorted, or one stands twice"),
    (CHOICE_ROW, {"candidates": ["both", "both"]}, "the candidates are not sorted, or one stands twice"),
    (CHOICE_ROW, {"candidates": ["both", "spleen"]}, "this is no candidate"),
    (CHOICE_ROW, {"candidates": ["both", "yes"]}, "this is no candidate"),
    (CHOICE_ROW, {"group": "p1"}, "the group is not the frozen one"),
    (CHOICE_ROW, {"sample_id": "s99999"}, "this is no test sample of the task"),
    (CHOICE_ROW, {"sample_id": "s00001"}, "this sample stands twice"),
]


@pytest.mark.parametrize(("row", "values", "what"), TAMPERED)
def test_tampered_rows_are_refused_with_their_row(
    world: World, run: Path, row: int, values: dict[str, Any], what: str
) -> None:
    assert [question(index).target for index in (YES_NO_ROW, CHOICE_ROW)] == ["yes", CHOICES[0]]
    rewrite_rows(run, row, **values)
    assert (what, f"row {row}") in problems(world, run)


@pytest.mark.parametrize("value", [{"answer": None}, {"closed": None}, {"candidates": None}, {"question_type": None}])
def test_only_a_parsed_answer_may_be_null(world: World, run: Path, value: dict[str, None]) -> None:
    import pyarrow as pa

    (file,) = (run / "predictions").iterdir()
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[2] |= value
    nullable = pa.schema([field.with_nullable(True) for field in table.schema])
    pq.write_table(pa.Table.from_pylist(rows, schema=nullable), file)
    with pytest.raises(InputError, match="wrong columns"):
        read_predictions(file, world.suite.task("questions"))


def test_a_null_candidate_is_named(world: World, run: Path) -> None:
    rewrite_rows(run, CHOICE_ROW, candidates=["both", None])
    assert ("column 'candidates' has a null inside", f"row {CHOICE_ROW}") in problems(world, run)


def test_a_raw_answer_is_found_by_the_metrics_even_when_all_is_signed_anew(world: World, run: Path) -> None:
    def change(predictions: AnswerPredictions) -> AnswerPredictions:
        answers = [f"The answer is {target}." for target in predictions.targets]
        return replace(predictions, answers=answers)

    rewrite(world, run, change)
    places = {place for _, place in problems(world, run)}
    assert {"$.units[0].scores.metrics.all.accuracy.value", "$.units[0].scores.n.unparsed"} <= places


Change = Callable[[AnswerPredictions], AnswerPredictions]


def kinds(row: int, value: str) -> Change:
    def change(predictions: AnswerPredictions) -> AnswerPredictions:
        held = list(predictions.question_types)
        held[row] = value
        return replace(predictions, question_types=held)

    return change


def test_another_type_of_question_is_found_by_the_subgroups(world: World, run: Path) -> None:
    rewrite(world, run, kinds(0, "finding"))
    places = [place for _, place in problems(world, run)]
    assert "$.units[0].scores.subgroups.question_type.values.finding.n" in places


def test_missing_rows_are_named(world: World, run: Path) -> None:
    def change(predictions: AnswerPredictions) -> AnswerPredictions:
        return AnswerPredictions(
            *(column[:100] for name, column in vars(predictions).items() if name not in ("claimed", "answered"))
        )

    rewrite(world, run, change)
    assert ("this test sample has no prediction", "s00100") in problems(world, run)


def test_no_row_at_all_is_an_error_and_no_crash(world: World, run: Path) -> None:
    (file,) = (run / "predictions").iterdir()
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    assert ("this test sample has no prediction", "s00000") in problems(world, run)


def test_answers_under_an_agreement_are_warned_of(world: World) -> None:
    report = check(world, world.add("agreed", tasks=("restricted",), tracks=("answer",)))
    assert report.accepted
    (problem,) = report.problems
    assert (problem.severity, problem.got) == ("warning", "agreement")
    assert problem.path == "$.units[0].predictions.file"


def test_a_run_of_answers_can_be_submitted(world: World, run: Path, tmp_path: Path) -> None:
    target = submit(check(world, run), "lab", "model", "1", tmp_path / "submissions")
    assert check(world, target).accepted


TEXTS = st.text(max_size=12)
ROWS = st.lists(
    st.tuples(st.text(max_size=30), st.booleans(), st.sampled_from(["yes", "no", "left", "both"]), TEXTS),
    min_size=1,
    max_size=12,
)


def predicted(rows: list[tuple[str, bool, str, str]]) -> AnswerPredictions:
    ids = [f"s{index:02d}" for index in range(len(rows))]
    closed = [is_closed for _, is_closed, _, _ in rows]
    candidates = [("yes", "no") if target in ("yes", "no") else CHOICES for _, _, target, _ in rows]
    return AnswerPredictions(
        sample_ids=ids,
        groups=ids,
        targets=[target for _, _, target, _ in rows],
        closed=np.array(closed),
        candidates=[names if is_closed else () for names, is_closed in zip(candidates, closed, strict=True)],
        answers=[answer for answer, _, _, _ in rows],
        question_types=[kind for _, _, _, kind in rows],
        lettered=np.array(closed) & (np.arange(len(rows)) % 2 == 0),
    )


@given(ROWS)
def test_what_is_written_is_read_and_contradicts_nothing(
    world: World, tmp_path_factory: pytest.TempPathFactory, rows: Any
) -> None:
    file = tmp_path_factory.mktemp("trip") / "answers.parquet"
    predictions = predicted(rows)
    write_predictions(file, predictions)
    back = read_predictions(file, world.suite.task("questions"))
    assert isinstance(back, AnswerPredictions)
    for name, value in vars(predictions).items():
        if name not in ("claimed", "answered"):
            np.testing.assert_array_equal(np.array(getattr(back, name), object), np.array(value, object))
    assert tuple(back.claimed or ()) == predictions.answered.parsed == back.answered.parsed
    assert list(Claims(world.suite.task("questions"), back, "file").problems(None)) == []


def test_a_closed_question_without_its_target_is_not_written(tmp_path: Path) -> None:
    wrong = replace(predicted([("left", True, "left", "")]), candidates=[("both", "right")])
    with pytest.raises(InputError, match="no candidate is right"):
        write_predictions(tmp_path / "x.parquet", wrong)
    assert list(tmp_path.iterdir()) == []


def test_letters_count_in_the_rows_that_listed_them() -> None:
    asked = (["B", "B"], ["left", "left"], [True, True], [CHOICES, CHOICES])
    assert score_answers(*asked, lettered=[True, False]).parsed == ("left", None)
    with pytest.raises(InputError, match="lettered is no column"):
        score_answers(*asked, lettered=[True])
