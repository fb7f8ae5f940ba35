"""Several hands at one folder of submissions: names, branches that meet, builds in between."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forgery import edit
from submission_factory import World
from vlmed.cli import app
from vlmed.leaderboard.build import build
from vlmed.results.history import history_problems
from vlmed.results.many import Validator
from vlmed.results.validate import find_runs


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world", samples=40)
    made.add("a")
    return made


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, check=False)


@pytest.fixture
def repository(world: World) -> World:
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "published"]):
        assert git(world.root, *words).returncode == 0
    return world


def commit(folder: Path) -> None:
    assert git(folder, "add", "-A").returncode == 0
    assert git(folder, "commit", "-qm", "more").returncode == 0


def another(revision: str) -> str:
    return revision[:-1] + ("0" if revision[-1] == "1" else "1")


def move(world: World, name: str, place: str) -> None:
    """A new run that stands at `place`."""
    made = world.add(name)
    target = world.submissions / place
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(made, target)
    made.parent.rmdir()
    commit(world.root)


@pytest.mark.parametrize(
    "place",
    ["Lab__b/1", "ｌab__b/1", "lаb__b/1", "lab_b/1", "lab__b/Run", "lab__b/1/deeper", "lab__b", ".lab__b/1", "lab__/1"],
)
def test_a_new_run_stands_where_runs_stand(repository: World, place: str) -> None:
    move(repository, "new", place)
    (problem,) = history_problems(repository.submissions, "HEAD~1")
    assert (problem.severity, problem.got) == ("error", place)
    assert "no folder of a submission" in problem.what


@pytest.mark.parametrize(
    ("org", "warned"), [("1ab", True), ("l-ab", True), ("iab", True), ("lab", False), ("lob", False)]
)
def test_a_new_organisation_that_looks_like_another_is_told(repository: World, org: str, warned: bool) -> None:
    move(repository, "new", f"{org}__b/1")
    problems = history_problems(repository.submissions, "HEAD~1")
    assert [(problem.severity, problem.got) for problem in problems] == ([("warning", org)] if warned else [])


def test_of_many_runs_the_new_ones_get_flags(repository: World) -> None:
    for index in range(20):
        shutil.copytree(repository.submissions / "lab__a", repository.submissions / f"lab__copy-{index}")
    commit(repository.root)
    shutil.copytree(repository.submissions / "lab__a", repository.submissions / "other__mine")
    edit(repository.submissions / "other__mine" / "1", "model/revision", another)
    commit(repository.root)
    options = ["--no-intervals", "--suite", str(repository.tasks_file)]
    said = CliRunner().invoke(app, ["validate", str(repository.submissions), "--against", "HEAD~1", *options])
    assert said.exit_code == 0, said.output
    assert "are those of lab__a/1, byte by byte" in said.output
    assert "are those of other__mine" not in said.output, "what is old was looked at before"


def clones(world: World, *names: str) -> list[Path]:
    """A bare repository beside the world's, and clones of it."""
    shared = world.root.parent / "shared.git"
    assert git(world.root, "clone", "-q", "--bare", str(world.root), str(shared)).returncode == 0
    made = [world.root.parent / name for name in names]
    for folder in made:
        assert git(world.root, "clone", "-q", str(shared), str(folder)).returncode == 0
    return made


def test_two_maintainers_merge_at_once_and_nothing_is_lost(repository: World) -> None:
    first, second = clones(repository, "first", "second")
    for folder, name in ((first, "b"), (second, "c")):
        made = repository.add(name)
        shutil.move(made.parent, folder / "submissions" / made.parent.name)
        commit(folder)
    assert git(first, "push", "-q").returncode == 0
    assert git(second, "push", "-q").returncode != 0, "the later one is told, and overwrites nothing"
    assert git(second, "pull", "-q", "--rebase").returncode == 0
    assert history_problems(second / "submissions", "HEAD~1") == []
    assert git(second, "push", "-q").returncode == 0
    runs = find_runs(second / "submissions")
    assert [run.parent.name for run in runs] == ["lab__a", "lab__b", "lab__c"]
    reports = Validator(repository.suite, repository.manifests, False).reports(runs)
    assert all(report.accepted for report in reports)


def test_two_maintainers_give_the_same_name_and_one_is_told(repository: World) -> None:
    first, second = clones(repository, "first", "second")
    for folder, skill in ((first, 1.0), (second, 0.2)):
        made = repository.add("b", skill)
        shutil.move(made.parent, folder / "submissions" / made.parent.name)
        commit(folder)
    assert git(first, "push", "-q").returncode == 0
    assert git(second, "push", "-q").returncode != 0
    assert git(second, "pull", "-q", "--rebase").returncode != 0, "git names the files that both brought"
    assert git(second, "rebase", "--abort").returncode == 0
    assert git(second, "fetch", "-q").returncode == 0
    assert git(second, "checkout", "-q", "origin/main", "--", ".").returncode == 0
    assert [run.parent.name for run in find_runs(second / "submissions")] == ["lab__a", "lab__b"]


def test_a_build_during_a_merge_leaves_the_half_run_out_and_the_next_one_has_it(world: World, tmp_path: Path) -> None:
    made = world.add("b")
    late = tmp_path / "predictions"
    (made / "predictions").rename(late)
    site = tmp_path / "site"
    found = build(world.submissions, site, world.suite, world.manifests, intervals=False)
    assert [refused.path for refused in found.submissions.refused] == ["lab__b/1"]
    assert {row.entry.model for table in found.tables for row in table.models} == {"a"}
    late.rename(made / "predictions")
    found = build(world.submissions, site, world.suite, world.manifests, intervals=False)
    assert {row.entry.model for table in found.tables for row in table.models} == {"a", "b"}
