"""The numbers of a unit beside its metrics: subgroups and the sensitivity to prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from submission_factory import World
from vlmed.results.predictions import ClassificationPredictions
from vlmed.results.score import score
from vlmed.suite.manifest import Row
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
