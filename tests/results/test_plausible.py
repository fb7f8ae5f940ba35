"""Flags for a human: each on the one made case that deserves it, and on no honest one."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from forgery import check, edit, rewrite
from submission_factory import LEAKY, World
from vlmed.cli import app
from vlmed.results.plausible import Flag, fisher, flags_of
from vlmed.results.predictions import ClassificationPredictions, Predictions, read_predictions
from vlmed.results.score import score
from vlmed.suite.manifest import read_manifest


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


def flags(world: World, run: Path) -> list[Flag]:
    return flags_of(run, world.submissions, world.suite, world.manifests)


def kinds(world: World, run: Path) -> list[str]:
    return [flag.kind for flag in flags(world, run)]


def remake(world: World, run: Path, change: Any) -> None:
    """Change the predictions and recompute what is claimed of them, so that validation accepts the run."""
    rewrite(world, run, change)
    task = world.suite.task("chest")
    (file,) = (run / "predictions").iterdir()
    frozen = read_manifest(task, world.manifests).by_id()
    edit(run, "units/0/scores", score(task, read_predictions(file, task), frozen))
    assert check(world, run, intervals=False).accepted


def probabilities(change: Any) -> Any:
    def changed(predictions: Predictions) -> Predictions:
        assert isinstance(predictions, ClassificationPredictions)
        return replace(predictions, probabilities=change(predictions.probabilities.copy(), predictions.targets))

    return changed


def test_honest_models_get_no_flag(world: World) -> None:
    runs = [world.add(f"m{index}", skill, revision=f"{index:040x}") for index, skill in enumerate((0.0, 0.5, 1.0, 2.0))]
    assert [flags(world, run) for run in runs] == [[]] * 4


def test_predictions_of_another_model_are_found(world: World) -> None:
    first = world.add("first", revision="1" * 40)
    second = world.add("second", revision="2" * 40)
    (source,), (target,) = ((run / "predictions").iterdir() for run in (first, second))
    target.write_bytes(source.read_bytes())
    remake(world, second, lambda predictions: predictions)
    (flag,) = flags(world, second)
    assert (flag.kind, flag.unit) == ("copied", "chest-1.zero_shot-1.0.1")
    assert "lab__first/1, byte by byte" in flag.reason


def test_a_copy_with_one_sample_changed_is_found_too(world: World) -> None:
    first = world.add("first", revision="1" * 40)
    second = world.add("second", revision="2" * 40)
    (source,) = (first / "predictions").iterdir()

    def copy(_: Predictions) -> Predictions:
        copied = read_predictions(source, world.suite.task("chest"))
        assert isinstance(copied, ClassificationPredictions)
        values = copied.probabilities.copy()
        values[3] = values[3][::-1]
        return replace(copied, probabilities=values)

    remake(world, second, copy)
    assert "119 of 120 predictions are those of lab__first/1" in flags(world, second)[0].reason


def test_another_run_of_the_same_model_is_no_copy(world: World) -> None:
    first, second = world.add("model"), world.add("model", run="2")
    (source,), (target,) = ((run / "predictions").iterdir() for run in (first, second))
    target.write_bytes(source.read_bytes())
    assert kinds(world, second) == []


def test_an_oracle_is_found_and_a_control_that_says_so_is_not(world: World) -> None:
    assert "oracle" in kinds(world, world.add("best", 40.0))
    assert kinds(world, world.control("oracle", 40.0)) == []


def test_knowing_the_leaked_samples_is_found(world: World) -> None:
    run = world.add("leaky", 0.0)

    def leak(values: Any, targets: Any) -> Any:
        values[:] = [0.6, 0.4]
        values[LEAKY:60] = np.where(np.eye(2)[targets[LEAKY:60]] == 1, 0.3, 0.7)
        values += np.linspace(0, 1e-3, len(values))[:, None] * [1, -1]
        values[:LEAKY] = np.where(np.eye(2)[targets[:LEAKY]] == 1, 0.9, 0.1) + np.arange(LEAKY)[:, None] * [1e-4, -1e-4]
        return values

    remake(world, run, probabilities(leak))
    (flag,) = [flag for flag in flags(world, run) if flag.kind == "leaked"]
    assert f"{LEAKY}/{LEAKY} right on leaked samples, 30/110 on clean ones" in flag.reason


def test_probabilities_that_no_softmax_makes_are_found(world: World) -> None:
    run = world.add("hard")
    remake(world, run, probabilities(lambda values, _: np.eye(2)[values.argmax(axis=1)]))
    said = [flag.reason for flag in flags(world, run) if flag.kind == "confidence"]
    assert said == ["120 of 120 rows are exactly 0 and 1", "only 2 different rows of 120"]


def test_a_model_that_tuning_makes_worse_is_found(world: World) -> None:
    run = world.add("odd", 1.5, tracks=("zero_shot", "linear_probe"))
    edit(run, "units/1/scores/metrics/clean/auc/value", 0.5)
    (flag,) = [flag for flag in flags(world, run) if flag.kind == "zero_shot"]
    assert "0.500 tuned (chest-1.linear_probe-1.0.1)" in flag.reason


def test_an_outlier_of_its_family_is_found(world: World) -> None:
    for index in range(6):
        world.add(f"m{index}", 0.5, revision=f"{index:040x}")
    assert "family" in kinds(world, world.add("new", 3.0, revision="e" * 40))
    assert "family" not in kinds(world, world.add("other", 3.0, revision="f" * 40, family="blip"))


def test_runs_that_can_t_be_read_are_left_out(world: World) -> None:
    broken = world.add("broken", revision="1" * 40)
    run = world.add("second", revision="2" * 40)
    for content in (b"{", b'{"units": 1}', b"[]", b'{"units": [{"task": "chest@1"}]}'):
        (broken / "result.json").write_bytes(content)
        assert kinds(world, run) == []


@pytest.mark.parametrize(("drawn", "marked", "total"), [(3, 3, 6), (2, 5, 8), (4, 4, 7), (1, 1, 2)])
def test_fisher_is_a_share_of_all_draws(drawn: int, marked: int, total: int) -> None:
    draws = [sum(item < marked for item in draw) for draw in combinations(range(total), drawn)]
    for hits in range(drawn + 1):
        expected = sum(found >= hits for found in draws) / len(draws)
        assert fisher(hits, drawn, marked, total) == pytest.approx(expected)


def test_validate_shows_flags_and_accepts(world: World) -> None:
    run = world.add("best", 40.0)
    said = CliRunner().invoke(app, ["validate", str(run), "--no-intervals", "--suite", str(world.tasks_file)])
    assert said.exit_code == 0
    assert "look at this: chest-1.zero_shot-1.0.1: auc is 1.0000" in said.stdout
    said = CliRunner().invoke(
        app, ["validate", str(run), "--no-intervals", "--github", "--suite", str(world.tasks_file)]
    )
    assert "::notice title=look at this::" in said.stdout
