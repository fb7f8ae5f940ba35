"""Whatever is changed in a run, validation refuses it and names the place."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forgery import bump, check, edit, rewrite
from submission_factory import LEAKY, World
from vlmed.errors import CheckError, InputError, UsageError
from vlmed.results.predictions import ClassificationPredictions, read_predictions, write_predictions
from vlmed.results.submit import submit
from vlmed.results.validate import find_runs

Change = Callable[[ClassificationPredictions], ClassificationPredictions]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def run(world: World, request: pytest.FixtureRequest) -> Path:
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name.lower())
    return world.add(name, 1.5)


def test_an_honest_run_is_accepted_and_every_metric_recomputed(world: World, run: Path) -> None:
    report = check(world, run)
    assert report.problems == []
    assert report.accepted
    assert report.recomputed == 8


def test_clean_leaves_the_leaked_samples_out(run: Path) -> None:
    scores = json.loads((run / "result.json").read_text())["units"][0]["scores"]
    assert scores["n"] == {"all": 120, "clean": 120 - LEAKY, "groups": 120}
    assert scores["metrics"]["all"]["auc"] != scores["metrics"]["clean"]["auc"]


@pytest.mark.parametrize("part", ["all", "clean"])
@pytest.mark.parametrize("metric", ["auc", "accuracy", "balanced_accuracy", "ece"])
@pytest.mark.parametrize("end", ["value", "low", "high"])
def test_one_digit_of_one_number_is_found(world: World, run: Path, part: str, metric: str, end: str) -> None:
    if metric == "ece" and end != "value":
        edit(run, f"units/0/scores/metrics/{part}/{metric}/{end}", 0.5)
    else:
        edit(run, f"units/0/scores/metrics/{part}/{metric}/{end}", bump)
    (problem,) = check(world, run).problems
    assert problem.path == f"$.units[0].scores.metrics.{part}.{metric}.{end}"
    assert problem.expected
    assert problem.got


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        ("units/0/scores/n/all", 121, "$.units[0].scores.n.all"),
        ("units/0/scores/n/clean", 120, "$.units[0].scores.n.clean"),
        ("units/0/scores/metrics/all/auc", ..., "$.units[0].scores.metrics.all.auc"),
        ("units/0/scores/metrics/all/f1", {"value": 1.0, "low": 1.0, "high": 1.0}, "$.units[0].scores.metrics.all.f1"),
        ("units/0/scores/metrics/clean", None, "$.units[0].scores.metrics.clean"),
        ("units/0/predictions/sha256", "0" * 64, "$.units[0].predictions.sha256"),
        ("units/0/predictions/rows", 119, "$.units[0].predictions.rows"),
        ("units/0/task", "chests@1", "$.units[0].task"),
        ("units/0/task_digest", "0" * 64, "$.units[0].task_digest"),
        ("units/0/track", "magic@1", "$.units[0].track"),
        ("units/0/track_digest", "0" * 64, "$.units[0].track_digest"),
        ("model/revision", "main", "$.model.revision"),
        ("model/parameters", -1, "$.model.parameters"),
        ("units/0/fraction", 1.5, "$.units[0].fraction"),
        ("extra", 1, "$"),
        ("units", [], "$.units"),
        ("units/0/predictions/file", "../../secret.parquet", "$.units[0].predictions.file"),
        ("units", lambda units: units * 2, "$.units[1].unit"),
    ],
)
def test_false_claims_are_refused_with_their_path(world: World, run: Path, path: str, value: Any, place: str) -> None:
    edit(run, path, value)
    report = check(world, run)
    assert not report.accepted
    assert place in {problem.path for problem in report.problems}


def shift(predictions: ClassificationPredictions) -> ClassificationPredictions:
    probabilities = predictions.probabilities.copy()
    probabilities[7] = probabilities[7][::-1]
    return replace(predictions, probabilities=probabilities)


def test_one_probability_is_found_by_the_hash(world: World, run: Path) -> None:
    rewrite(world, run, shift, sign_it=False)
    assert "$.units[0].predictions.sha256" in {problem.path for problem in check(world, run).problems}


def test_one_probability_is_found_by_the_metrics_even_when_signed_anew(world: World, run: Path) -> None:
    rewrite(world, run, shift)
    places = {problem.path for problem in check(world, run).problems}
    assert "$.units[0].scores.metrics.all.auc.value" in places


def ids(change: Callable[[list[str]], list[str]]) -> Change:
    return lambda predictions: replace(predictions, sample_ids=change(list(predictions.sample_ids)))


def targets(row: int, value: int) -> Change:
    def change(predictions: ClassificationPredictions) -> ClassificationPredictions:
        changed = predictions.targets.copy()
        changed[row] = value
        return replace(predictions, targets=changed)

    return change


def probabilities(row: int, value: list[float]) -> Change:
    def change(predictions: ClassificationPredictions) -> ClassificationPredictions:
        changed = predictions.probabilities.copy()
        changed[row] = value
        return replace(predictions, probabilities=changed)

    return change


def rows(chosen: slice) -> Change:
    return lambda predictions: ClassificationPredictions(
        predictions.sample_ids[chosen],
        predictions.groups[chosen],
        predictions.targets[chosen],
        predictions.probabilities[chosen],
        predictions.by_template[chosen],
    )


@pytest.mark.parametrize(
    ("change", "what", "place"),
    [
        (ids(lambda names: [*names[:5], "s99999", *names[6:]]), "no test sample of the task", "row 5"),
        (ids(lambda names: [*names[:5], "s99999", *names[6:]]), "has no prediction", "s00005"),
        (ids(lambda names: [*names[:5], names[4], *names[6:]]), "stands twice", "row 5"),
        (targets(3, 0), "the target is not the frozen one", "row 3"),
        (targets(3, 2), "no class index", "row 3"),
        (targets(3, -1), "no class index", "row 3"),
        (rows(slice(0, 119)), "has no prediction", "s00119"),
        (lambda p: replace(p, groups=["p1", *p.groups[1:]]), "the group is not the frozen one", "row 0"),
        (probabilities(2, [0.7, 0.7]), "", "row 2"),
        (probabilities(2, [1.5, -0.5]), "", "row 2"),
        (probabilities(2, [float("nan"), 1.0]), "", "row 2"),
        (probabilities(2, [float("inf"), 0.0]), "", "row 2"),
    ],
)
def test_forged_predictions_are_refused_with_their_row(
    world: World, run: Path, change: Change, what: str, place: str
) -> None:
    rewrite(world, run, change)
    report = check(world, run)
    assert not report.accepted
    assert any(what in problem.what and place in problem.path for problem in report.problems), report.problems


def test_other_files_are_named(world: World, run: Path) -> None:
    (run / "predictions" / "spare.parquet").write_bytes(b"x")
    (problem,) = check(world, run).problems
    assert problem.severity == "warning"
    assert "spare.parquet" in problem.file


@pytest.mark.parametrize("content", [b"", b"no parquet", b"PAR1" * 100])
def test_a_file_that_is_no_parquet_is_named(world: World, run: Path, content: bytes) -> None:
    (file,) = (run / "predictions").iterdir()
    file.write_bytes(content)
    (problem,) = check(world, run).problems
    assert problem.file == str(file)
    assert "Parquet" in problem.what


def test_other_columns_are_refused(world: World, run: Path) -> None:
    import pyarrow.parquet as pq

    (file,) = (run / "predictions").iterdir()
    pq.write_table(pq.read_table(file).drop_columns(["group"]), file)
    (problem,) = check(world, run).problems
    assert "group: string" in problem.expected
    assert "group: string" not in problem.got


def test_a_missing_prediction_file_is_named(world: World, run: Path) -> None:
    (file,) = (run / "predictions").iterdir()
    file.unlink()
    assert any("no such file" in problem.what for problem in check(world, run).problems)


@pytest.mark.parametrize("content", ["{", '{"a": NaN}', "[]", "null", '{"units": 1, "units": 2}'])
def test_a_result_that_is_no_result_is_unreadable(world: World, run: Path, content: str) -> None:
    (run / "result.json").write_text(content)
    report = check(world, run)
    assert not report.accepted
    assert report.problems[0].file.endswith("result.json")


def test_a_pending_manifest_is_a_warning(world: World) -> None:
    report = check(world, world.add("waiting", tasks=("waiting",)))
    assert report.accepted
    assert [problem.severity for problem in report.problems] == ["warning"]


def test_the_quick_check_leaves_only_intervals_unread(world: World, run: Path) -> None:
    assert check(world, run, intervals=False).accepted
    edit(run, "units/0/scores/metrics/all/auc/low", bump)
    assert check(world, run, intervals=False).accepted
    edit(run, "units/0/scores/metrics/all/auc/value", bump)
    assert not check(world, run, intervals=False).accepted


def test_intervals_group_what_belongs_together(tmp_path: Path) -> None:
    alone = World(tmp_path / "alone")
    grouped = World(tmp_path / "grouped", per_group=6)

    def width(world: World) -> float:
        result = json.loads((world.add("m") / "result.json").read_text())
        estimate = result["units"][0]["scores"]["metrics"]["all"]["auc"]
        return float(estimate["high"] - estimate["low"])

    assert width(alone) != width(grouped)


def test_find_runs(world: World, run: Path, tmp_path: Path) -> None:
    assert find_runs(run) == [run]
    assert find_runs(run / "result.json") == [run]
    assert run in find_runs(world.submissions)
    with pytest.raises(InputError, match=r"no result\.json"):
        find_runs(tmp_path)


def test_submit_copies_a_run_whole_and_never_twice(world: World, run: Path, tmp_path: Path) -> None:
    target = submit(check(world, run), "lab", "model", "1", tmp_path)
    assert target == tmp_path / "lab__model" / "1"
    assert check(world, target).accepted
    with pytest.raises(UsageError, match="exists already"):
        submit(check(world, run), "lab", "model", "1", tmp_path)


def test_submit_refuses_what_validation_refuses(world: World, run: Path, tmp_path: Path) -> None:
    edit(run, "units/0/scores/metrics/all/auc/value", bump)
    with pytest.raises(CheckError, match="auc"):
        submit(check(world, run), "lab", "model", "1", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "-a", "a_b", "a" * 70, "é"])
def test_submit_refuses_names_that_are_no_folders(world: World, run: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="can't be a folder"):
        submit(check(world, run), "lab", name, "1", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_equal_predictions_give_equal_bytes(world: World, tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    probabilities = random.dirichlet([1, 1, 1], 50)
    predictions = ClassificationPredictions(
        [f"s{i:02d}" for i in range(50)], ["g"] * 50, random.randint(0, 3, 50), probabilities, probabilities[:, None]
    )
    for name in ("a", "b"):
        write_predictions(tmp_path / name, predictions)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    back = read_predictions(tmp_path / "a", world.suite.task("organ"))
    assert isinstance(back, ClassificationPredictions)
    np.testing.assert_array_equal(back.probabilities, probabilities.astype(np.float32))
    assert back.by_template.shape == (50, 1, 3)
