"""The numbers of a unit beside its metrics: subgroups and the sensitivity to prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from submission_factory import World
from vlmed.results.predictions import ClassificationPredictions, read_predictions
from vlmed.results.score import score
from vlmed.suite.frozen_rows import Row
from vlmed.suite.types import Task

N = 120


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return World(tmp_path).suite.task("chest")


@pytest.fixture
def predictions() -> ClassificationPredictions:
    random = np.random.RandomState(0)
    targets = random.randint(0, 2, N).astype(np.int64)
    scores = 1 / (1 + np.exp(-(random.normal(size=N) + targets)))
    names = [f"s{index:03d}" for index in range(N)]
    both = np.stack([1 - scores, scores], axis=1)
    other = np.stack([scores, 1 - scores], axis=1)
    return ClassificationPredictions(names, names, targets, both, np.stack([both, other], axis=1))


def rows(subgroup: list[str]) -> dict[str, Row]:
    return {f"s{n:03d}": Row(f"s{n:03d}", "test", "", f"p{n}", "", value) for n, value in enumerate(subgroup)}


def test_every_subgroup_has_its_own_metric_and_the_gap_is_best_minus_worst(
    task: Task, predictions: ClassificationPredictions
) -> None:
    sexes = ["female" if n < 70 else "male" for n in range(N)]
    found = score(task, predictions, rows([f"sex={sex};site=a" for sex in sexes]))["subgroups"]
    chosen = {sex: [n for n in range(N) if sexes[n] == sex] for sex in ("female", "male")}
    auc = {
        sex: roc_auc_score(predictions.targets[index], predictions.probabilities[index, 1])
        for sex, index in chosen.items()
    }
    assert found["sex"]["metric"] == "auc"
    for sex in auc:
        assert found["sex"]["values"][sex] == {"n": len(chosen[sex]), "value": round(auc[sex], 6)}
    assert found["sex"]["worst"] == min(auc, key=lambda sex: auc[sex])
    assert found["sex"]["gap"] == round(max(auc.values()) - min(auc.values()), 6)
    assert found["site"]["gap"] == 0


def test_a_small_subgroup_is_counted_but_not_scored(task: Task, predictions: ClassificationPredictions) -> None:
    found = score(task, predictions, rows([f"age={'old' if n < 19 else 'young'}" for n in range(N)]))["subgroups"][
        "age"
    ]
    assert found["values"]["old"] == {"n": 19, "value": None}
    assert found["worst"] == "young"
    assert found["gap"] == 0


def test_a_subgroup_of_one_class_has_no_auc(task: Task, predictions: ClassificationPredictions) -> None:
    labels = ["sick" if target else "well" for target in predictions.targets]
    found = score(task, predictions, rows([f"state={label}" for label in labels]))["subgroups"]["state"]
    assert found["worst"] is None
    assert found["gap"] is None


def test_a_pending_manifest_knows_no_subgroups_and_nothing_clean(
    task: Task, predictions: ClassificationPredictions
) -> None:
    found = score(task, predictions, None)
    assert found["subgroups"] is None
    assert found["metrics"]["clean"] is None
    assert found["n"]["clean"] is None


def test_prompt_sensitivity_is_the_spread_over_single_templates(
    task: Task, predictions: ClassificationPredictions
) -> None:
    found = score(task, predictions, None)["prompt_sensitivity"]
    auc = roc_auc_score(predictions.targets, predictions.probabilities[:, 1])
    assert found["ensemble"] == round(auc, 6)
    assert found["templates"] == [round(auc, 6), round(1 - auc, 6)]
    assert found["spread"] == pytest.approx(2 * auc - 1, abs=1e-6)
    alone = replace(predictions, by_template=np.empty((N, 0, 2)))
    assert score(task, alone, None)["prompt_sensitivity"] is None


def test_no_clean_sample_is_said_not_scored(task: Task, predictions: ClassificationPredictions) -> None:
    leaked = {name: replace(row, leaks="pixels") for name, row in rows([""] * N).items()}
    found = score(task, predictions, leaked)
    assert found["n"]["clean"] == 0
    assert found["metrics"]["clean"]["auc"]["undefined"] == "no sample is left"
    assert found["metrics"]["all"]["auc"]["value"] is not None


KINDS = (("organ", "zero_shot"), ("figures", "retrieve"), ("median", "retrieve"), ("questions", "answer"))


def without_ends(metrics: Any) -> Any:
    """The values alone."""
    return {part: {name: estimate["value"] for name, estimate in each.items()} for part, each in metrics.items()}


@pytest.mark.parametrize(("name", "track"), KINDS)
@pytest.mark.parametrize("leaky", [0, 7, 119, 120])
def test_values_are_the_same_with_intervals_and_without(tmp_path: Path, name: str, track: str, leaky: int) -> None:
    """With them each part is scored alone, without them all parts at once, and many subgroups in turns."""
    world = World(tmp_path, all_kinds=True)
    (file,) = (world.add("model", 0.5, tasks=(name,), tracks=(track,)) / "predictions").iterdir()
    scored, stored = world.suite.task(name), read_predictions(file, world.suite.task(name))
    manifest = {
        sample: Row(sample, "test", "", "", "", f"a={index % 40};b={index % 2};c={index // 30}", "x" * (index < leaky))
        for index, sample in enumerate(stored.sample_ids)
    }
    quick, full = (score(scored, stored, manifest, intervals) for intervals in (False, True))
    assert without_ends(quick["metrics"]) == without_ends(full["metrics"])
    assert {**quick, "metrics": 0} == {**full, "metrics": 0}
    assert (full["metrics"]["clean"] == full["metrics"]["all"]) == (leaky == 0)
    for field, size in (("b", 60), ("c", 30)):
        for value, found in full["subgroups"][field]["values"].items():
            chosen = [each for each in manifest if f"{field}={value}" in manifest[each].subgroups.split(";")]
            part = {each: replace(row, leaks="" if each in chosen else "x") for each, row in manifest.items()}
            assert found["n"] == len(chosen) == size
            assert found["value"] == score(scored, stored, part, False)["metrics"]["clean"][scored.main_metric]["value"]


def test_many_subgroups_are_scored_in_turns(task: Task, predictions: ClassificationPredictions) -> None:
    fields = ";".join(f"f{number}={{}}" for number in range(40))
    found = score(task, predictions, rows([fields.replace("{}", "a" if n < 60 else "b") for n in range(N)]), False)
    values = {str(each["values"]) for each in found["subgroups"].values()}
    assert len(found["subgroups"]) == 40
    assert len(values) == 1
    assert found["subgroups"]["f0"]["values"]["a"]["value"] == round(
        roc_auc_score(predictions.targets[:60], predictions.probabilities[:60, 1]), 6
    )


def test_no_sample_at_all_is_said_not_scored(task: Task) -> None:
    empty = ClassificationPredictions([], [], np.empty(0, np.int64), np.empty((0, 2)), np.empty((0, 0, 2)))
    for intervals in (False, True):
        found = score(task, empty, {}, intervals)
        assert found["metrics"]["all"]["auc"]["undefined"] == "no sample is left"
        assert found["n"] == {"all": 0, "clean": 0, "groups": 0}
        assert found["subgroups"] == {}
