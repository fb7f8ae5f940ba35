"""Audits: what differs, what is allowed, how surely alterations are caught, and records that nobody can forge."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forgery import check, edit
from submission_factory import World
from vlmed.errors import InputError
from vlmed.files import write_json
from vlmed.hashing import file_hash
from vlmed.results.audits import compare, draw, power, verdict, verified
from vlmed.results.predictions import (
    AnswerPredictions,
    ClassificationPredictions,
    RetrievalPredictions,
    read_predictions,
)
from vlmed.results.tolerance import TOLERANCES, Precision, precision_of


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world", all_kinds=True)


def predictions(world: World, task: str, track: str) -> Any:
    (file,) = (world.add(task, tasks=(task,), tracks=(track,)) / "predictions").iterdir()
    return read_predictions(file, world.suite.task(task))


def test_equal_predictions_are_confirmed(world: World) -> None:
    for task, track in (("chest", "zero_shot"), ("figures", "retrieve"), ("questions", "answer")):
        made = predictions(world, task, track)
        found = compare(made, made, draw(made.sample_ids, 64, 1))
        assert (found.compared, found.differing, found.confirmed) == (64, 0, True)


def test_a_probability_beyond_the_tolerance_contradicts(world: World) -> None:
    made = predictions(world, "chest", "zero_shot")
    assert isinstance(made, ClassificationPredictions)
    for by, confirmed in ((0.019, True), (0.021, False)):
        values = made.probabilities.copy()
        values[5] += [by, -by] if values[5, 0] < 0.5 else [-by, by]
        found = compare(made, replace(made, probabilities=values), made.sample_ids)
        assert found.confirmed is confirmed
        assert found.largest_difference == pytest.approx(by, abs=1e-6)


@pytest.mark.parametrize(("precision", "by"), [("fp32", 0.02), ("fp16", 0.02), ("bf16", 0.04)])
def test_the_precision_decides_what_a_probability_may_differ_by(world: World, precision: Precision, by: float) -> None:
    made = predictions(world, "chest", "zero_shot")
    assert isinstance(made, ClassificationPredictions)
    for change, confirmed in ((by - 0.001, True), (by + 0.001, False)):
        values = made.probabilities.copy()
        values[5] += [change, -change] if values[5, 0] < 0.5 else [-change, change]
        found = compare(made, replace(made, probabilities=values), made.sample_ids, TOLERANCES[precision])
        assert (found.confirmed, found.tolerance) == (confirmed, by)


def test_a_run_is_of_the_precision_that_it_names_and_older_ones_of_float32() -> None:
    assert precision_of({"environment": {"precision": "bf16"}}) == "bf16"
    assert precision_of({"environment": {"python": "3.11"}}) == "fp32"
    for said in ("int4", "", "BF16", 16):
        with pytest.raises(InputError, match=r"environment\.precision"):
            precision_of({"environment": {"precision": said}})


def test_the_tolerances_stand_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs/submit.md").read_text("utf-8")
    for precision, within in TOLERANCES.items():
        shares = f"{within.rank_share:.0%} | {within.answers:.0%}".replace("%", " %")
        assert f"| `{precision}` | {within.probability:g} | 1 and {shares} |" in text


def test_a_rank_beyond_the_tolerance_contradicts_in_either_direction(world: World) -> None:
    made = predictions(world, "figures", "retrieve")
    assert isinstance(made, RetrievalPredictions)
    for direction in ("image_to_text", "text_to_image"):
        for by, confirmed in ((3, True), (4, False)):  # 1 and 2 % of 120
            found = getattr(made, direction)
            ranks = found.ranks.copy()
            ranks[7] += by
            other = replace(made, **{direction: replace(found, ranks=ranks)})
            assert compare(made, other, made.sample_ids).confirmed is confirmed


def test_a_few_answers_may_differ(world: World) -> None:
    made = predictions(world, "questions", "answer")
    assert isinstance(made, AnswerPredictions)
    for changed, confirmed in ((6, True), (7, False)):  # 5 % of 120
        answers = [
            f"other {row}" if row % 3 == 0 and row < 3 * changed else said for row, said in enumerate(made.answers)
        ]
        assert compare(made, replace(made, answers=answers), made.sample_ids).confirmed is confirmed


def test_another_way_to_say_the_same_is_the_same(world: World) -> None:
    made = predictions(world, "questions", "answer")
    answers = [f"{said} " for said in made.answers]
    assert compare(made, replace(made, answers=answers), made.sample_ids).differing == 0


def test_a_draw_is_fixed_by_its_seed_and_fair() -> None:
    ids = [f"s{number:04d}" for number in range(1000)]
    assert draw(ids, 64, 7) == draw(ids[::-1], 64, 7)
    assert draw(ids, 64, 7) != draw(ids, 64, 8)
    assert draw(ids, 5000, 7) == ids
    times = np.zeros(1000)
    for seed in range(300):
        times[[int(name[1:]) for name in draw(ids, 100, seed)]] += 1
    assert times.mean() == 30
    assert times.min() > 8
    assert times.max() < 55


@pytest.mark.parametrize(
    ("total", "altered", "samples", "allowed"), [(8, 2, 3, 0), (8, 4, 5, 1), (6, 0, 3, 0), (5, 5, 2, 1)]
)
def test_power_is_the_share_of_draws_that_contradict(total: int, altered: int, samples: int, allowed: int) -> None:
    draws = [sum(item < altered for item in each) > allowed for each in combinations(range(total), samples)]
    assert power(total, altered, samples, allowed) == pytest.approx(sum(draws) / len(draws))


def test_verdicts() -> None:
    assert verdict(["confirmed", "confirmed"]) == "confirmed"
    assert verdict(["confirmed", "skipped"]) == "incomplete"
    assert verdict(["confirmed", "contradicted", "skipped"]) == "contradicted"
    assert verdict([]) == "incomplete"


# Records


@pytest.fixture
def audited(world: World) -> Path:
    run = world.add("m")
    unit = {"unit": "chest-1.zero_shot-1.0.1", "compared": 64, "differing": 0, "largest_difference": 0.001,
            "tolerance": 0.02, "allowed": 0, "verdict": "confirmed", "reason": ""}  # fmt: skip
    write_json(run / "audits" / "a.json", {
        "schema_version": 1, "auditor": "Ada", "date": "2026-11-22", "vlmed_version": "0.1.0",
        "result": file_hash(run / "result.json"), "seed": 1, "samples": 64, "units": [unit],
        "environment": {"python": "3.11"}, "verdict": "confirmed",
    })  # fmt: skip
    return run


def confirmed(run: Path) -> frozenset[str]:
    return verified(run, json.loads((run / "result.json").read_text()), file_hash(run / "result.json"))


def test_an_audit_is_accepted_and_verifies_its_units(world: World, audited: Path) -> None:
    assert check(world, audited, intervals=False).problems == []
    assert confirmed(audited) == {"chest-1.zero_shot-1.0.1"}


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        ("result", "0" * 64, "$.result"),
        ("units/0/differing", 1, "$.units[0].verdict"),
        ("units/0/unit", "another", "$.units[0].unit"),
        ("units/0/verdict", "skipped", "$.units[0].verdict"),
        ("verdict", "incomplete", "$.verdict"),
        ("auditor", "", "$.auditor"),
        ("more", 1, "$"),
        ("units", [], "$.units"),
    ],
)
def test_a_forged_audit_is_refused(world: World, audited: Path, path: str, value: Any, place: str) -> None:
    (audited / "audits" / "a.json").rename(audited / "audits" / "result.json")
    edit(audited / "audits", path, value)
    report = check(world, audited, intervals=False)
    assert place in {problem.path for problem in report.problems if "audits" in problem.file}


def test_an_audit_of_another_result_verifies_nothing(audited: Path) -> None:
    edit(audited, "model/name", "changed")
    assert confirmed(audited) == frozenset()


def test_one_contradiction_outweighs_a_confirmation(audited: Path) -> None:
    record = json.loads((audited / "audits" / "a.json").read_text())
    record["units"][0] |= {"differing": 9, "verdict": "contradicted"}
    write_json(audited / "audits" / "b.json", record | {"verdict": "contradicted"})
    assert confirmed(audited) == frozenset()
