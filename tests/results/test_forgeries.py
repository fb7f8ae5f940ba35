"""Ideas of how to get a false entry accepted, or to harm others: each one refused, told, or without gain."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from forgery import check, edit, rewrite
from submission_factory import CONTROL, World, add_audit
from vlmed.cli import app
from vlmed.errors import UsageError
from vlmed.files import write_json
from vlmed.leaderboard.build import build
from vlmed.results.copies import likeness
from vlmed.results.description import Description
from vlmed.results.form import follows
from vlmed.results.history import history_problems
from vlmed.results.plausible import flags_of
from vlmed.results.predictions import AnswerPredictions, ClassificationPredictions, Predictions, read_predictions
from vlmed.results.score import score
from vlmed.suite.load import schema_problems
from vlmed.suite.manifest import read_manifest


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world in which each test has a model of its own."""
    return World(tmp_path_factory.mktemp("forgeries") / "world", samples=40, all_kinds=True)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world", samples=40)


def told(world: World, run: Path, severity: str = "error") -> list[tuple[str, str]]:
    """What is wrong, and where."""
    problems = check(world, run, intervals=False).problems
    return [(problem.what, problem.path) for problem in problems if problem.severity == severity]


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        ("units/0/seed", 0.0, "$.units[0].seed"),
        ("units/0/predictions/rows", 40.0, "$.units[0].predictions.rows"),
        ("model/parameters", 1e9, "$.model.parameters"),
        ("units/0/cost/training", 1.7e308, "$.units[0].cost.training"),
        ("units/0/cost/wall_seconds", 1e13, "$.units[0].cost.wall_seconds"),
        ("model/ref", "control:majority", "$.model.family"),
    ],
)
def test_numbers_and_names_that_can_t_be(shared: World, path: str, value: Any, place: str) -> None:
    run = shared.add(f"value{abs(hash((path, value)))}", tracks=("linear_probe",))
    edit(run, path, value)
    assert place in [where for _, where in told(shared, run)]


def test_a_seed_is_written_in_one_way(shared: World) -> None:
    run = shared.add("twins", seeds=(0, 1))
    edit(run, "units/1/seed", 0.0)
    assert ("two units are of this task, track, seed and fraction", "$.units[1].track") in told(shared, run)


@pytest.mark.parametrize(
    ("made", "path", "place"),
    [
        ({"fraction": 0.5}, "", "$.units[0].fraction"),
        ({"seeds": (0, 1)}, "", "$.units[1].seed"),
        ({"tracks": ("linear_probe",)}, "units/0/cost/training", "$.units[0].cost.training"),
    ],
)
def test_what_no_honest_run_says_is_told(shared: World, made: dict[str, Any], path: str, place: str) -> None:
    run = shared.add(f"odd{abs(hash(place))}", **made)
    if path:
        edit(run, path, 0)
    assert place in [where for _, where in told(shared, run, "warning")]
    assert told(shared, run) == []


def test_no_cost_ends_a_build_for_everybody(world: World, tmp_path: Path) -> None:
    world.add("honest")
    run = world.add("dear", tracks=("linear_probe",), seeds=(0, 1))
    for unit in (0, 1):
        edit(run, f"units/{unit}/cost/training", 1.7e308)
    board = build(world.submissions, tmp_path / "site", world.suite, world.manifests, intervals=False).board
    assert [entry.path for entry in board.submissions.entries] == ["lab__honest/1"]


@pytest.mark.parametrize("length", [2, 3])
def test_runs_that_supersede_each_other_are_refused(world: World, length: int) -> None:
    for index in range(length):
        run = world.add("m", run=str(index))
        said = Description("2026-11-22", "mit", supersedes=str((index + 1) % length))
        write_json(run / "submission.json", said.to_json())
    for index in range(length):
        (problem,) = check(world, world.submissions / "lab__m" / str(index), intervals=False).problems
        assert "supersede each other" in problem.what
        assert problem.got.split(" -> ")[0] == str(index)


def test_a_chain_of_corrections_is_fine(world: World) -> None:
    for index in range(3):
        run = world.add("m", run=str(index))
        write_json(run / "submission.json", Description("2026-11-22", "mit", supersedes=f"{index - 1}").to_json())
        if index:
            assert told(world, run) == []


@pytest.mark.parametrize("file", ["submission.json", "retraction.json", "audits/2026-11-22-1.json"])
def test_a_date_is_a_day(shared: World, file: str) -> None:
    run = add_audit(shared.add(f"day{len(file)}"))
    write_json(run / "submission.json", Description("2026-11-22", "mit").to_json())
    write_json(run / "retraction.json", {"schema_version": 1, "date": "2026-11-22", "reason": "x"})
    assert told(shared, run) == []
    write_json(run / file, json.loads((run / file).read_text()) | {"date": "2026-02-31"})
    assert told(shared, run) == [("there is no such day", "$.date")]


@pytest.mark.parametrize(
    ("task", "track", "change", "place"),
    [
        ("chest", "zero_shot", {"differing": 64, "allowed": 64}, "allowed"),
        ("chest", "zero_shot", {"tolerance": 0.5}, "tolerance"),
        ("chest", "zero_shot", {"differing": 65, "verdict": "contradicted"}, "differing"),
        ("figures", "retrieve", {"tolerance": 3.0}, "tolerance"),
        ("questions", "answer", {"differing": 4, "allowed": 4}, "allowed"),
    ],
)
def test_an_audit_is_no_laxer_than_audits_are(
    shared: World, task: str, track: str, change: dict[str, Any], place: str
) -> None:
    run = add_audit(shared.add(f"lax-{task}-{place}", tasks=(task,), tracks=(track,)))
    (file,) = (run / "audits").iterdir()
    record = json.loads(file.read_text())
    assert told(shared, run) == []
    record["units"][0] |= change
    write_json(file, record)
    assert f"$.units[0].{place}" in [where for _, where in told(shared, run)]


def test_an_audit_of_one_sample_is_told(shared: World) -> None:
    run = add_audit(shared.add("one"))
    (file,) = (run / "audits").iterdir()
    record = json.loads(file.read_text())
    record["units"][0] |= {"compared": 1}
    write_json(file, record)
    assert [where for _, where in told(shared, run, "warning")] == ["$.units[0].compared"]


# Copies, and what is done to them.


def copy(world: World, change: Callable[[Any], Any], *, name: str = "copy", task: str = "chest", **made: Any) -> Path:
    """A strong model's predictions, changed, under another name and with all numbers recomputed."""
    track = made.pop("track", {"chest": "zero_shot", "figures": "retrieve", "questions": "answer"}[task])
    source = world.add("first", 1.5, tasks=(task,), revision="1" * 40)
    theirs = read_predictions(next((source / "predictions").iterdir()), world.suite.task(task))
    run = world.add(name, org="other", tasks=(task,), tracks=(track,), **({"revision": "2" * 40} | made))
    rewrite(world, run, lambda _: change(theirs))
    frozen = read_manifest(world.suite.task(task), world.manifests).by_id()
    (file,) = (run / "predictions").iterdir()
    edit(run, "units/0/scores", score(world.suite.task(task), read_predictions(file, world.suite.task(task)), frozen))
    assert check(world, run, intervals=False).accepted
    return run


def copied(world: World, run: Path) -> bool:
    return "copied" in [flag.kind for flag in flags_of(run, world.submissions, world.suite, world.manifests)]


def noised(size: float) -> Callable[[Any], Any]:
    def change(predictions: ClassificationPredictions) -> ClassificationPredictions:
        random = np.random.default_rng(5)
        odds = predictions.probabilities * np.exp(random.normal(size=predictions.probabilities.shape) * size)
        return replace(predictions, probabilities=odds / odds.sum(axis=1, keepdims=True))

    return change


def sharpened(predictions: ClassificationPredictions) -> ClassificationPredictions:
    odds = predictions.probabilities**1.5
    return replace(predictions, probabilities=odds / odds.sum(axis=1, keepdims=True))


def partly(predictions: ClassificationPredictions) -> ClassificationPredictions:
    """A third of the rows says something else."""
    probabilities = predictions.probabilities.copy()
    probabilities[::3] = noised(1.0)(predictions).probabilities[::3]
    return replace(predictions, probabilities=probabilities)


@pytest.mark.parametrize(
    ("change", "made"),
    [
        (lambda same: same, {"seeds": (7,)}),
        (lambda same: same, {"fraction": 0.999}),
        (lambda same: same, {"track": "linear_probe"}),
        (lambda same: same, {"revision": "1" * 40}),
        (noised(1e-4), {}),
        (noised(0.1), {}),
        (sharpened, {}),
        (partly, {}),
    ],
    ids=["seed", "fraction", "track", "revision", "a little noise", "noise", "temperature", "a third"],
)
def test_a_copy_is_found_whatever_is_done_to_it(
    tmp_path: Path, change: Callable[[Any], Any], made: dict[str, Any]
) -> None:
    world = World(tmp_path / "world", samples=120)
    assert copied(world, copy(world, change, **made))


def test_another_run_of_the_same_weights_is_no_copy(world: World) -> None:
    world.add("first", 1.5, revision="1" * 40, ref="hf:lab/first")
    twin = world.add("first", 1.5, org="other", revision="1" * 40, ref="lab/First@main")
    assert not copied(world, twin)


def test_honest_answers_that_agree_are_no_copy(tmp_path: Path) -> None:
    world = World(tmp_path / "world", samples=120, all_kinds=True)
    task = world.suite.task("questions")
    runs = [world.add(name, 1.0, tasks=("questions",), tracks=("answer",)) for name in ("a", "b")]
    one, two = (read_predictions(next((run / "predictions").iterdir()), task) for run in runs)
    assert likeness(one, two) == ""
    said = [f"{answer} as seen in image {row}" for row, answer in enumerate(one.answers)]  # type: ignore[attr-defined]
    assert isinstance(one, AnswerPredictions)
    half = [*said[:70], *(f"quite another answer of {row} words" for row in range(50))]
    assert "tell models apart" in likeness(replace(one, answers=said), replace(one, answers=half))


@pytest.mark.parametrize("skill", [0.0, 1.0, 3.0, 8.0, 30.0])
def test_models_of_like_skill_are_no_copies(world: World, skill: float) -> None:
    task = world.suite.task("organ")
    runs = [world.add(f"{name}{skill:g}", skill, tasks=("organ",)) for name in "ab"]
    one, two = (read_predictions(next((run / "predictions").iterdir()), task) for run in runs)
    perfect = skill == 30.0  # Rows of exact 0 and 1 are equal, and get a flag of their own.
    assert bool(likeness(one, two)) is perfect


# What a pull request may do to what stands there already.


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(world: World) -> World:
    world.add("a")
    git(world.root, "init", "-q", "-b", "main")
    commit(world)
    return world


def commit(world: World) -> None:
    git(world.root, "add", "-A")
    git(world.root, "commit", "-qm", "more")


def warned(world: World) -> list[tuple[str, str]]:
    """Where whoever merges should look, and what at."""
    commit(world)
    problems = history_problems(world.submissions, "HEAD~1")
    assert {problem.severity for problem in problems} <= {"warning"}
    return [(str(Path(problem.file).relative_to(world.submissions)), problem.what) for problem in problems]


def test_a_link_in_place_of_the_submissions_is_refused(repository: World) -> None:
    repository.submissions.rename(repository.root / "other")
    edit(repository.root / "other" / "lab__a" / "1", "model/name", "forged")
    repository.submissions.symlink_to("other")
    commit(repository)
    with pytest.raises(UsageError, match="is a link"):
        history_problems(repository.submissions, "HEAD~1")


def test_taking_anothers_run_away_is_told(repository: World) -> None:
    run = repository.add("a", run="2")
    write_json(run / "submission.json", Description("2026-11-22", "mit", supersedes="1").to_json())
    (repository.submissions / "lab__a" / "1" / "retraction.json").write_text("{}")
    assert warned(repository) == [
        ("lab__a/1/retraction.json", "this takes a published run off the leaderboard"),
        ("lab__a/2/submission.json", "this takes another run of the model off the leaderboard"),
    ]


def test_a_strangers_control_is_told(repository: World) -> None:
    repository.add("control", 3.0, org="evil", ref="control:majority", revision="builtin", **CONTROL)
    assert warned(repository) == [("evil__control/1/result.json", "models are measured against this control")]


@pytest.mark.parametrize("name", ["run.exe", "predictions/deep/x", "../x", "../../notes.md", "audit/x"])
def test_what_is_no_evidence_is_told(repository: World, name: str) -> None:
    file = (repository.add("new") / name).resolve()
    file.parent.mkdir(exist_ok=True)
    file.write_text("x")
    place = str(file.relative_to(repository.submissions.resolve()))
    assert warned(repository) == [(place, "this file is no part of a submission")]


def test_the_intervals_of_a_new_run_are_recomputed_whatever_is_drawn(repository: World) -> None:
    for index in range(20):
        repository.add(f"old{index}")
    commit(repository)
    run = repository.add("new")
    edit(run, "units/0/scores/metrics/all/auc/low", lambda low: low + 0.1)
    commit(repository)
    words = ["validate", str(repository.submissions), "--suite", str(repository.tasks_file), "--seed", "1"]
    assert CliRunner().invoke(app, words).exit_code == 0
    result = CliRunner().invoke(app, [*words, "--against", "HEAD~1"])
    assert result.exit_code == 1
    assert "metrics.all.auc.low" in result.output


# The quick look at a document's form.

_ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(data=st.data(), value=_ANY)
def test_the_quick_look_believes_nothing_that_the_schema_refuses(
    shared: World, data: st.DataObject, value: Any
) -> None:
    file = shared.submissions / "lab__form" / "1" / "result.json"
    if not file.exists():
        shared.add("form", tasks=("chest", "organ"))
    node = result = json.loads(file.read_text())
    while isinstance(node, dict | list) and node:
        parent, key = node, data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if data.draw(st.integers(0, 3)) == 0:
            break
        node = node[key]
    parent[key] = value
    if follows("result.schema.json")(result):
        assert schema_problems(result, "result.schema.json", "") == []


def test_the_quick_look_knows_what_is_right(shared: World) -> None:
    run = shared.add("right", tasks=("chest", "organ"))
    assert follows("result.schema.json")(json.loads((run / "result.json").read_text()))


def test_predictions_are_a_kind_that_is_known(shared: World) -> None:
    run = shared.add("known", tasks=("figures",), tracks=("retrieve",))
    predictions: Predictions = read_predictions(next((run / "predictions").iterdir()), shared.suite.task("figures"))
    assert "predictions are those" in likeness(predictions, predictions)
