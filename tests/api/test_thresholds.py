"""What a model has to reach: the file of thresholds, its mistakes, and the verdict on a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from submission_factory import World
from vlmed.errors import InputError, MissingError
from vlmed.results.compare import read_run
from vlmed.results.thresholds import Rule, read_rules, rules_for
from vlmed.results.verdict import Check, Verdict, judge
from vlmed.results.worst import worst_samples


def written(folder: Path, *rules: dict[str, Any], **more: Any) -> Path:
    path = folder / "vlmed.yaml"
    path.write_text(yaml.safe_dump({"thresholds": list(rules), **more}))
    return path


def verdict(world: World, name: str, task: str, *rules: Rule, baseline: str = "") -> Verdict:
    run = read_run(world.submissions / f"lab__{name}" / "1")
    unit = next(each for each in run.units if each["task"] == f"{task}@1")
    peers = {"baseline": read_run(world.submissions / f"lab__{baseline}" / "1") if baseline else None}
    return judge(run, unit, world.suite, rules, peers, world.manifests)


def test_a_key_that_stands_twice_is_refused(world: World, tmp_path: Path) -> None:
    path = tmp_path / "vlmed.yaml"
    path.write_text("thresholds:\n- min: 0.5\n  tasks: chest\n  min: 0.9\n")
    with pytest.raises(InputError, match=r"line 4 .*'min' stands twice"):
        read_rules(path, world.suite)


def test_a_file_of_every_key(world: World, tmp_path: Path) -> None:
    full = {"tasks": ["chest", "org*"], "tracks": "zero_*", "metric": "auc", "min": 0.5, "max": 1, "alpha": 0.01,
            "no_worse_than": ["baseline", "control:majority"], "better_than": "control:random"}  # fmt: skip
    first, second = read_rules(written(tmp_path, full, {"min": 0.1}, alpha=0.2), world.suite)
    assert first == Rule(("chest", "org*"), ("zero_*",), "auc", 0.5, 1, ("baseline", "control:majority"),
                         ("control:random",), 0.01)  # fmt: skip
    assert second == Rule(minimum=0.1, alpha=0.2)
    assert first.peers == ("baseline", "control:majority", "control:random")


@pytest.mark.parametrize(
    ("rule", "place", "words"),
    [
        ({"min": 0.5, "mn": 1}, "$.thresholds[0]", "mn"),
        ({"tasks": "chest"}, "$.thresholds[0]", ""),
        ({"tasks": "chst", "min": 0}, "$.thresholds[0].tasks", "chest"),
        ({"tracks": "zero", "min": 0}, "$.thresholds[0].tracks", "zero_shot"),
        ({"metric": "auk", "min": 0}, "$.thresholds[0].metric", "auc"),
        ({"min": "high"}, "$.thresholds[0].min", "high"),
        ({"no_worse_than": "yesterday"}, "$.thresholds[0].no_worse_than", "yesterday"),
        ({"min": 0, "alpha": 0}, "$.thresholds[0].alpha", "0"),
        ({"min": 0, "tasks": []}, "$.thresholds[0].tasks", "[]"),
    ],
)
def test_mistakes_are_told_with_their_place(
    world: World, tmp_path: Path, rule: dict[str, Any], place: str, words: str
) -> None:
    with pytest.raises(InputError) as caught:
        read_rules(written(tmp_path, rule), world.suite)
    (problem,) = caught.value.problems
    assert problem.path == place
    assert words in str(problem)
    assert problem.file.endswith("vlmed.yaml")


def test_all_mistakes_are_told_at_once(world: World, tmp_path: Path) -> None:
    path = written(tmp_path, {"tasks": "chst", "min": 0}, {"metric": "auk", "max": 0, "tracks": "x"})
    with pytest.raises(InputError) as caught:
        read_rules(path, world.suite)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("text", ["thresholds: [", "- a", "", "\x00"])
def test_what_is_no_file_of_thresholds(world: World, tmp_path: Path, text: str) -> None:
    (tmp_path / "vlmed.yaml").write_text(text)
    with pytest.raises(InputError):
        read_rules(tmp_path / "vlmed.yaml", world.suite)
    with pytest.raises(MissingError):
        read_rules(tmp_path / "absent.yaml", world.suite)


def test_the_baseline_holds_unless_a_rule_speaks_of_it(world: World) -> None:
    task, track = world.suite.task("chest"), world.suite.track("zero_shot")
    own = Rule(tasks=("chest",), no_worse_than=("baseline",), alpha=0.2)
    assert rules_for([], task, track, baseline=False) == []
    assert rules_for([], task, track, baseline=True) == [Rule(no_worse_than=("baseline",))]
    assert rules_for([own], task, track, baseline=True) == [own]
    assert rules_for([own], world.suite.task("organ"), track, baseline=True) == [Rule(no_worse_than=("baseline",))]


def test_bounds(world: World) -> None:
    passed = verdict(world, "strong", "chest", Rule(minimum=0.5, maximum=1.0))
    assert [check.state for check in passed.checks] == ["passed", "passed"]
    assert not passed.failed(strict=True)
    assert not passed.worst
    failed = verdict(world, "weak", "chest", Rule(metric="accuracy", minimum=0.99))
    assert failed.failed()
    assert failed.text().startswith("accuracy 0.")
    assert "min 0.99" in failed.text()


def test_a_failure_shows_numbers_and_the_ten_worst_samples(world: World) -> None:
    text = verdict(world, "weak", "chest", Rule(no_worse_than=("baseline",)), baseline="strong").text()
    head, heads, row, *_ = text.splitlines()
    assert "failed: no worse than baseline" in head
    assert heads.split()[:3] == ["threshold", "metric", "value"]
    assert row.endswith("FAILED")
    assert text.count("said") == 10
    assert "the 10 worst samples" in text
    # The ten leaky samples are not among those that the metric is about.
    assert not [line for line in text.splitlines() if line.startswith("s0000")]


@pytest.mark.parametrize(("p", "shown"), [(0.0, "< 0.001"), (3.2e-08, "< 0.001"), (0.0321, "0.032"), (None, "-")])
def test_the_table_shows_no_p_of_zero(p: float | None, shown: str) -> None:
    found = Verdict("unit", "all", 9, {}, [Check("better than control:oracle", "auc", "failed", p=p)])
    assert found.text().splitlines()[2].endswith(f"  {shown}  FAILED")


def test_the_better_run_passes_against_the_worse(world: World) -> None:
    rule = Rule(no_worse_than=("baseline",), better_than=("baseline",))
    assert not verdict(world, "strong", "chest", rule, baseline="weak").failed(strict=True)
    same = verdict(world, "strong", "chest", rule, baseline="strong")
    assert [check.state for check in same.checks] == ["passed", "failed"]


def test_what_can_not_be_checked_fails_only_under_strict(world: World, tmp_path: Path) -> None:
    rule = Rule(no_worse_than=("baseline",))
    nothing = verdict(world, "strong", "chest", rule)
    assert nothing.checks[0].state == "unchecked"
    assert not nothing.failed()
    assert nothing.failed(strict=True)
    bare = tmp_path / "main.json"
    shutil.copy(world.submissions / "lab__weak" / "1" / "result.json", bare)
    run = read_run(world.submissions / "lab__strong" / "1")
    without_predictions = judge(run, run.units[0], world.suite, [rule], {"baseline": read_run(bare)}, world.manifests)
    (check,) = without_predictions.checks
    assert check.state == "unchecked"
    assert check.peer is not None
    assert check.p is None
    assert "there is no such" in check.why


def test_a_metric_that_the_task_lacks_fails_and_lists_those_it_has(world: World) -> None:
    found = verdict(world, "strong", "questions", Rule(metric="auc", minimum=0))
    assert found.failed()
    assert "closed_accuracy" in found.text()


@pytest.mark.parametrize(("task", "words"), [("figures", "has rank"), ("questions", "is true; said"), ("organ", "p =")])
def test_worst_samples_of_every_kind(world: World, task: str, words: str) -> None:
    run = read_run(world.submissions / "lab__weak" / "1")
    unit = next(each for each in run.units if each["task"] == f"{task}@1")
    definition = world.suite.task(task)
    predictions = run.predictions(unit, definition)
    worst = worst_samples(definition, predictions, np.arange(20, 120), 7)
    assert len(worst) == 7
    assert [each.loss for each in worst] == sorted((each.loss for each in worst), reverse=True)
    assert all(words in each.what and each.sample_id >= "s00020" for each in worst)


def test_a_perfect_run_has_no_worst_samples(world: World) -> None:
    folder = world.submissions / "lab__perfect" / "1"
    run = read_run(folder if folder.exists() else world.add("perfect", 60.0, tasks=("chest",)))
    task = world.suite.task("chest")
    assert worst_samples(task, run.predictions(run.units[0], task), np.arange(120)) == []
