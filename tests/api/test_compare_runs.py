"""Two runs on the same samples: numbers against independent ones, and everything that can't be compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import roc_auc_score

import vlmed
from submission_factory import World
from vlmed.results.predictions import ClassificationPredictions, read_predictions, write_predictions
from vlmed.suite.load import load_suite


def run(world: World, name: str) -> Path:
    return world.submissions / f"lab__{name}" / "1"


def rows(world: World, metric: str | None = None, *, a: str = "strong", b: str = "weak") -> list[vlmed.Comparison]:
    return vlmed.compare(run(world, a), run(world, b), metric, suite=world.tasks_file)


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def edited(folder: Path, change: Any) -> Path:
    """The folder, after `change` on its result."""
    file = folder / "result.json"
    result = json.loads(file.read_text())
    change(result)
    file.write_text(json.dumps(result))
    return folder


def repredicted(world: World, folder: Path, change: Any) -> Path:
    """A run of the chest task alone whose predictions are changed, with an honest hash."""
    import hashlib

    def rewrite(result: Any) -> None:
        (unit,) = [unit for unit in result["units"] if unit["task"] == "chest@1"]
        path = folder / unit["predictions"]["file"]
        old = read_predictions(path, world.suite.task("chest"))
        assert isinstance(old, ClassificationPredictions)
        write_predictions(path, change(old))
        unit["predictions"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        result["units"] = [unit]

    return edited(folder, rewrite)


def taken(old: ClassificationPredictions, order: list[int]) -> ClassificationPredictions:
    return ClassificationPredictions(
        [old.sample_ids[row] for row in order],
        [old.groups[row] for row in order],
        old.targets[order],
        old.probabilities[order],
        old.by_template[order],
    )


def test_every_kind_of_task_on_its_main_metric_and_its_clean_samples(world: World) -> None:
    found = rows(world)
    assert [row.task for row in found] == ["chest@1", "organ@1", "figures@1", "median@1", "questions@1"]
    assert {row.samples for row in found} == {"clean"}
    assert {row.n for row in found} == {110}
    for row in found:
        assert row.better() or row.task == "median@1"
        assert row.difference == pytest.approx(row.first - row.second)
        assert not row.worse()
    assert not next(row for row in found if row.task == "median@1").higher_is_better


def test_values_are_those_of_scikit_learn_on_the_clean_samples(world: World) -> None:
    stored = read_predictions(next((run(world, "strong") / "predictions").glob("chest-*")), world.suite.task("chest"))
    assert isinstance(stored, ClassificationPredictions)
    expected = roc_auc_score(stored.targets[10:], stored.probabilities[10:, 1])
    assert rows(world)[0].first == pytest.approx(expected)


def test_results_claims_are_not_believed(world: World, tmp_path: Path) -> None:
    def boast(result: Any) -> None:
        for unit in result["units"]:
            for estimate in unit["scores"]["metrics"]["clean"].values():
                estimate["value"] = 1.0

    boaster = edited(copy(run(world, "weak"), tmp_path / "boaster"), boast)
    honest, boasted = rows(world)[0], vlmed.compare(boaster, run(world, "strong"), suite=world.tasks_file)[0]
    assert boasted.first == honest.second


def test_swapping_the_runs_turns_the_difference_round(world: World) -> None:
    there, back = rows(world), rows(world, a="weak", b="strong")
    for one, other in zip(there, back, strict=True):
        assert one.difference == -(other.difference or 0)
        assert one.p == other.p
        assert one.better() == other.worse()


def test_a_run_does_not_differ_from_itself(world: World) -> None:
    for row in rows(world, b="strong"):
        assert row.difference == 0
        assert not row.better(0.99)
        assert not row.worse(0.99)
        assert not row.undecided
    vlmed.assert_no_regression(run(world, "strong"), run(world, "strong"), suite=world.tasks_file)


def test_samples_are_paired_by_id_and_not_by_place(world: World, tmp_path: Path) -> None:
    turned = repredicted(
        world, copy(run(world, "weak"), tmp_path / "turned"), lambda old: taken(old, list(range(120))[::-1])
    )
    (row,) = vlmed.compare(run(world, "strong"), turned, suite=world.tasks_file)
    assert row.difference == pytest.approx(rows(world)[0].difference)


def test_a_named_metric_also_of_the_other_direction(world: World) -> None:
    figures = vlmed.compare(
        run_of(world, "figures"), run_of(world, "figures"), "text_to_image_recall_at_5", suite=world.tasks_file
    )
    assert figures[0].metric == "text_to_image_recall_at_5"
    assert figures[0].difference == 0


def run_of(world: World, task: str) -> Path:
    folder = world.submissions / f"lab__{task}-alone" / "1"
    return folder if folder.exists() else world.add(f"{task}-alone", tasks=(task,))


def test_an_unknown_metric_names_the_near_ones(world: World) -> None:
    with pytest.raises(vlmed.UsageError, match="balanced_accuracy"):
        vlmed.compare(run_of(world, "chest"), run_of(world, "chest"), "balanced_acuracy", suite=world.tasks_file)


def test_a_regression_is_told_with_its_numbers(world: World) -> None:
    strong, weak = run(world, "strong"), run(world, "weak")
    with pytest.raises(AssertionError, match=r"chest-1\.zero_shot.*: auc 0\.\d{4} against 0\.\d{4} on 110 samples"):
        vlmed.assert_no_regression(weak, strong, suite=world.tasks_file)
    vlmed.assert_no_regression(strong, weak, suite=world.tasks_file)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 5])
def test_alpha_is_a_chance(world: World, alpha: float) -> None:
    with pytest.raises(vlmed.UsageError, match="alpha"):
        vlmed.assert_no_regression(run(world, "weak"), run(world, "weak"), alpha=alpha, suite=world.tasks_file)


def test_a_new_run_may_not_lose_units(world: World) -> None:
    with pytest.raises(vlmed.UsageError, match="lacks units"):
        vlmed.assert_no_regression(run_of(world, "chest"), run(world, "strong"), suite=world.tasks_file)


def test_too_few_groups_for_a_test_are_no_proof(world: World) -> None:
    better = world.add("few-better", 9.0, tasks=("waiting",), samples=slice(0, 1))
    worse = world.add("few-worse", -9.0, tasks=("waiting",), samples=slice(0, 1))
    (row,) = vlmed.compare(worse, better, "accuracy", suite=world.tasks_file)
    assert row.samples == "all"  # a pending manifest tells nobody which samples are clean
    assert row.p is None
    assert row.undecided
    with pytest.raises(AssertionError, match="no test is possible"):
        vlmed.assert_no_regression(worse, better, "accuracy", suite=world.tasks_file)


def test_runs_without_a_common_unit(world: World) -> None:
    with pytest.raises(vlmed.UsageError, match="no unit in common"):
        vlmed.compare(run_of(world, "chest"), run_of(world, "organ"), suite=world.tasks_file)


def test_missing_and_extra_samples_are_all_named(world: World, tmp_path: Path) -> None:
    short = repredicted(world, copy(run(world, "weak"), tmp_path / "short"), lambda old: taken(old, list(range(118))))
    with pytest.raises(vlmed.InputError) as caught:
        vlmed.compare(run(world, "strong"), short, suite=world.tasks_file)
    assert [problem.path for problem in caught.value.problems] == ["s00118", "s00119"]


def test_a_sample_that_stands_twice(world: World, tmp_path: Path) -> None:
    twice = repredicted(world, copy(run(world, "weak"), tmp_path / "twice"), lambda old: taken(old, [*range(120), 0]))
    with pytest.raises(vlmed.InputError, match="twice"):
        vlmed.compare(run(world, "strong"), twice, suite=world.tasks_file)


def test_other_targets_are_named_by_sample(world: World, tmp_path: Path) -> None:
    def lie(old: ClassificationPredictions) -> ClassificationPredictions:
        old.targets[3] = 1 - old.targets[3]
        return old

    liar = repredicted(world, copy(run(world, "weak"), tmp_path / "liar"), lie)
    with pytest.raises(vlmed.InputError, match="s00003"):
        vlmed.compare(run(world, "strong"), liar, suite=world.tasks_file)


def test_a_changed_prediction_file(world: World, tmp_path: Path) -> None:
    folder = copy(run(world, "weak"), tmp_path / "changed")
    chest = next((folder / "predictions").glob("chest-*"))
    shutil.copy(next((run(world, "strong") / "predictions").glob("chest-*")), chest)
    with pytest.raises(vlmed.InputError, match="not the one that was hashed"):
        vlmed.compare(run(world, "strong"), folder, suite=world.tasks_file)


def test_an_absent_prediction_file(world: World, tmp_path: Path) -> None:
    folder = copy(run(world, "weak"), tmp_path / "bare")
    shutil.rmtree(folder / "predictions")
    with pytest.raises(vlmed.MissingError, match="there is no such"):
        vlmed.compare(run(world, "strong"), folder, suite=world.tasks_file)


def test_another_suite_is_told(world: World) -> None:
    with pytest.raises(vlmed.InputError, match="this suite does not define"):
        vlmed.compare(run(world, "strong"), run(world, "weak"))


def test_results_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(vlmed.MissingError, match="no result here"):
        vlmed.load_result(tmp_path)
    (tmp_path / "result.json").write_text('{"units": []}')
    with pytest.raises(vlmed.InputError) as caught:
        vlmed.load_result(tmp_path)
    assert len(caught.value.problems) > 3


def test_rows_metrics_and_pandas(world: World) -> None:
    pandas = pytest.importorskip("pandas")
    result = vlmed.load_result(run(world, "strong") / "result.json")
    frame = result.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == len(result.rows)
    clean = frame[(frame["task"] == "chest@1") & (frame.samples == "clean") & (frame.metric == "auc")]
    (unit,) = [name for name in result.metrics if name.startswith("chest")]
    assert clean["value"].tolist() == [result.metrics[unit]["auc"]]
    assert clean["n"].tolist() == [110]


def test_without_pandas_it_says_what_to_install(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(vlmed.MissingError, match="pip install pandas"):
        vlmed.load_result(run(world, "strong")).to_pandas()


def test_an_own_suite_is_checked_as_the_frozen_one(world: World, tmp_path: Path) -> None:
    assert vlmed.load_suite(world.tasks_file) == load_suite(world.tasks_file)
    broken = tmp_path / "tasks.yaml"
    broken.write_text(world.tasks_file.read_text().replace("main_metric: auc", "main_metric: recall_at_1", 1))
    with pytest.raises(vlmed.InputError):
        vlmed.load_suite(broken)
