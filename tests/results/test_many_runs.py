"""Many runs: drawn intervals, several processes, kept verdicts, git history."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forgery import bump, edit
from submission_factory import World
from vlmed.cli import app
from vlmed.cli.validate import annotation
from vlmed.errors import Problem, UsageError
from vlmed.results.frozen import Frozen
from vlmed.results.history import history_problems
from vlmed.results.many import Draw, Validator
from vlmed.results.validate import find_runs


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "world", samples=40)
    for name in ("a", "b", "c"):
        world.add(name)
    return world


def accepted(validator: Validator, world: World, jobs: int = 1) -> list[bool]:
    return [report.accepted for report in validator.reports(find_runs(world.submissions), jobs)]


def test_a_draw_of_all_finds_what_a_draw_of_none_leaves(world: World) -> None:
    edit(world.submissions / "lab__b" / "1", "units/0/scores/metrics/all/auc/low", bump)
    for share, expected in ((0.0, [True] * 3), (1.0, [True, False, True])):
        assert accepted(Validator(world.suite, world.manifests, Draw(share, 1)), world) == expected


def test_a_draw_takes_its_share_and_another_seed_draws_others() -> None:
    hashes = [f"{number:064x}" for number in range(4000)]
    one, other = ({each for each in hashes if Draw(0.1, seed)(each)} for seed in (1, 2))
    assert len(one) == pytest.approx(400, abs=80)
    assert one != other
    assert one == {each for each in hashes if Draw(0.1, 1)(each)}


def test_two_processes_say_the_same_in_the_same_order(world: World) -> None:
    edit(world.submissions / "lab__b" / "1", "units/0/predictions/rows", 7)
    validator = Validator(world.suite, world.manifests, intervals=False)
    runs = find_runs(world.submissions)
    assert list(validator.reports(runs, jobs=2)) == list(validator.reports(runs))


def test_a_kept_verdict_stands_until_a_byte_changes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validator = Validator(world.suite, world.manifests, intervals=False, verdicts=tmp_path / "kept")
    first = list(validator.reports(find_runs(world.submissions)))
    read: list[Path] = []
    real = sys.modules["vlmed.results.many"].validate_run

    def counted(run: Path, *rest: object) -> object:
        read.append(run)
        return real(run, *rest)

    monkeypatch.setattr("vlmed.results.many.validate_run", counted)
    assert list(validator.reports(find_runs(world.submissions))) == first
    assert read == []
    changed = world.submissions / "lab__b" / "1"
    edit(changed, "units/0/scores/metrics/all/auc/value", bump)
    assert accepted(validator, world) == [True, False, True]
    assert read == [changed]
    (changed / "predictions" / "spare.parquet").touch()
    accepted(validator, world)
    assert read == [changed, changed]


def test_kept_and_new_verdicts_stand_in_the_order_of_the_runs(world: World, tmp_path: Path) -> None:
    runs = find_runs(world.submissions)
    validator = Validator(world.suite, world.manifests, intervals=False, verdicts=tmp_path / "kept")
    list(validator.reports(runs[1:2]))
    edit(runs[2], "units/0/predictions/rows", 7)
    for _ in range(2):
        reports = list(validator.reports(runs, jobs=2))
        assert [report.folder for report in reports] == runs
        assert [report.accepted for report in reports] == [True, True, False]
    assert reports == list(Validator(world.suite, world.manifests, intervals=False).reports(runs))


def test_a_run_that_changes_while_it_is_read_gets_no_verdict(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validator = Validator(world.suite, world.manifests, intervals=False, verdicts=tmp_path / "kept")
    real, runs = sys.modules["vlmed.results.many"].validate_run, find_runs(world.submissions)

    def touched(run: Path, *rest: object) -> object:
        report = real(run, *rest)
        (run / "predictions" / "spare.parquet").touch()
        return report

    monkeypatch.setattr("vlmed.results.many.validate_run", touched)
    list(validator.reports(runs))
    assert not list((tmp_path / "kept").rglob("*.json"))


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"problems": [{"x": 1}]}'])
def test_a_damaged_verdict_is_made_again(world: World, tmp_path: Path, content: bytes) -> None:
    validator = Validator(world.suite, world.manifests, intervals=False, verdicts=tmp_path / "kept")
    assert accepted(validator, world) == [True] * 3
    for file in (tmp_path / "kept").rglob("*.json"):
        file.write_bytes(content)
    assert accepted(validator, world) == [True] * 3


def test_a_killed_validation_leaves_whole_verdicts_and_nothing_else(world: World, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in world.submissions.rglob("*") if path.is_file()}
    kept = tmp_path / "kept"
    command = [sys.executable, "-m", "vlmed", "validate", str(world.submissions), "--cache", str(kept)]
    process = subprocess.Popen(
        [*command, "--suite", str(world.tasks_file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not list(kept.rglob("*.json")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for file in kept.rglob("*.json"):
        assert set(json.loads(file.read_text())) >= {"problems", "recomputed"}
    assert before == {path: path.read_bytes() for path in world.submissions.rglob("*") if path.is_file()}


def test_frozen_manifests_are_read_once(world: World) -> None:
    frozen = Frozen(world.manifests)
    task = world.suite.task("chest")
    assert frozen.manifest(task) is frozen.manifest(task)
    assert frozen.questions(task) is None


def test_a_file_of_a_run_means_the_run(world: World) -> None:
    run = world.submissions / "lab__a" / "1"
    file = next((run / "predictions").iterdir())
    assert find_runs(file) == [run]
    file.unlink()
    assert find_runs(file) == [run]
    assert find_runs(run / "predictions") == [run]


def test_submissions_under_way_are_not_found(world: World) -> None:
    (world.submissions / "lab__a" / "1").rename(world.submissions / "lab__a" / ".1.x")
    assert len(find_runs(world.submissions)) == 2


# GitHub


def test_an_annotation_can_t_be_left() -> None:
    hostile = "a\n::stop-commands::x\r%0A,file=b:c"
    line = annotation(Problem(hostile, hostile, hostile, hostile, hostile))
    assert len(line.splitlines()) == 1
    assert line.startswith("::error file=a%0A%3A%3Astop-commands%3A%3Ax%0D%250A%2Cfile=b%3Ac,title=")


def test_github_output_names_file_and_place(world: World) -> None:
    run = world.submissions / "lab__b" / "1"
    edit(run, "units/0/predictions/rows", 7)
    said = CliRunner().invoke(app, ["validate", str(run), "--github", "--suite", str(world.tasks_file)])
    assert said.exit_code == 1
    assert f"file={os.path.relpath(run)}/result.json,title=another number of rows" in said.stdout
    assert "$.units[0].predictions.rows" in said.stdout


# History


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(world: World) -> World:
    git(world.root, "init", "-q", "-b", "main")
    git(world.root, "add", "-A")
    git(world.root, "commit", "-qm", "published")
    git(world.root, "switch", "-qc", "work")
    return world


def commit(world: World) -> None:
    git(world.root, "add", "-A")
    git(world.root, "commit", "-qm", "more")


def test_new_runs_audits_and_retractions_change_nothing_published(repository: World) -> None:
    repository.add("new")
    repository.add("a", run="2")
    run = repository.submissions / "lab__a" / "1"
    (run / "audits").mkdir()
    (run / "audits" / "x.json").write_text("{}")
    (run / "retraction.json").write_text("{}")
    commit(repository)
    found = history_problems(repository.submissions, "main")
    assert [(problem.severity, Path(problem.file).name) for problem in found] == [
        ("warning", "x.json"),
        ("warning", "retraction.json"),
    ]


@pytest.mark.parametrize(
    ("name", "refused"), [("audits/a.json", True), ("retraction.json", True), ("judgement.json", False)]
)
def test_a_new_run_brings_no_audit(repository: World, name: str, refused: bool) -> None:
    run = repository.add("new")
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text("{}")
    commit(repository)
    found = [(problem.what, problem.file) for problem in history_problems(repository.submissions, "main")]
    assert found == ([("a new run can't bring its own audit or retraction", str(run / name))] if refused else [])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda run: (run / "result.json").write_text("{}"), "changed"),
        (lambda run: (run / "result.json").unlink(), "removed"),
        (lambda run: (run / "submission.json").write_text("{}"), "added"),
        (lambda run: (run / "predictions" / "more.parquet").touch(), "added"),
        (lambda run: run.rename(run.parent / "2"), "removed"),
        (lambda run: run.parent.rename(run.parents[1] / "lab__z"), "removed"),
    ],
)
@pytest.mark.parametrize("committed", [False, True])
def test_what_is_published_never_changes(repository: World, change: object, word: str, committed: bool) -> None:
    run = repository.submissions / "lab__b" / "1"
    assert callable(change)
    change(run)
    if committed:
        commit(repository)
    elif word == "added":
        git(repository.root, "add", "-A")
    problems = history_problems(repository.submissions, "main")
    assert problems
    assert all(word in problem.what and "lab__b/1" in problem.file for problem in problems)


def test_runs_that_others_merged_meanwhile_are_not_missed(repository: World) -> None:
    repository.add("mine")
    commit(repository)
    git(repository.root, "switch", "-q", "main")
    repository.add("theirs")
    commit(repository)
    git(repository.root, "switch", "-q", "work")
    assert history_problems(repository.submissions, "main") == []


@pytest.mark.parametrize("revision", ["nothing", "--output=/tmp/x", ""])
def test_a_revision_that_is_none(repository: World, revision: str) -> None:
    with pytest.raises(UsageError):
        history_problems(repository.submissions, revision)


def test_the_command_refuses_a_changed_history(repository: World) -> None:
    run = repository.submissions / "lab__b" / "1"
    (run / "predictions" / "spare.parquet").touch()
    commit(repository)
    options = ["--no-intervals", "--suite", str(repository.tasks_file)]
    said = CliRunner().invoke(app, ["validate", str(repository.submissions), "--against", "main", *options])
    assert said.exit_code == 1
    assert "a file of a published run was added" in said.output
