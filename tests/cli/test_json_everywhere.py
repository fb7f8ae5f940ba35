"""`--json` wherever a program may read: one JSON document on standard output, everything else on standard error."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from command_line import Vlmed
from PIL import Image

from vlmed.cli import app

# Command -> why no program reads it.
WITHOUT = {"leaderboard serve": "a server: it says its address and runs until Ctrl-C"}


def _commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", {})
    if not inner:
        yield name, command
    for word, each in inner.items():
        yield from _commands(each, f"{name} {word}".strip())


COMMANDS = dict(_commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_answers_programs_or_says_why_not(name: str) -> None:
    has = any("--json" in each.opts for each in COMMANDS[name].params)
    assert has is (name not in WITHOUT), WITHOUT.get(name, "no --json")


def test_no_reason_is_left_over() -> None:
    assert WITHOUT.keys() <= COMMANDS.keys()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phantom_suite: Path) -> Path:
    """A folder with a suite whose tasks are pending, a finished run of it, and a few images."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(phantom_suite, tmp_path / "tasks.yaml")
    (tmp_path / "images").mkdir()
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{seed}.png")
    return tmp_path


def test_what_is_printed_is_json_alone(vlmed: Vlmed, here: Path) -> None:
    """In the order in which somebody may do it; each leaves something behind."""

    def told(*words: object, code: int = 0) -> Any:
        said = vlmed(*words, "--json")
        assert said.code == code, said.err
        return json.loads(said.out)

    suite = ("--suite", "tasks.yaml")
    prepared = told("data", "prepare", "lesion", *suite)
    assert sum(prepared["samples"].values()) == 80
    assert Path(prepared["folder"]).is_dir()
    (ran,) = told("run", "--model", "control:random", "--tasks", "lesion", "--out", "run", *suite)
    assert ran["result"] == "run/result.json"
    dry = told("submit", "run", "--org", "lab", "--model", "dice", "--licence", "mit", "--dry-run", *suite)
    assert dry["description"]["licence"] == "mit"
    assert set(dry["files"]) >= {"result.json", "submission.json"}
    assert not Path("submissions").exists()
    submitted = told("submit", "run", "--org", "lab", "--model", "dice", "--licence", "mit", *suite)
    assert submitted == {"submission": "submissions/lab__dice/1"}
    audited = told("audit", "lab__dice/1", "--auditor", "Ada", "--samples", "4", "--seed", "1", *suite)
    assert audited["verdict"] == "confirmed"
    assert Path(audited["file"]).is_file()
    told("leaderboard", "build", "--no-intervals", *suite)
    assert told("leaderboard", "export", "hub", *suite) == {"files": []}, "a control is no model"
    retracted = told("submissions", "retract", "lab__dice/1", "--reason", "a test")
    assert Path(retracted["retraction"]).is_file()
    assert told("fingerprint", "make", "images", "--out", "mine.parquet")["images"] == 2
    frozen = told("data", "freeze", "lesion", *suite)
    assert Path(frozen["manifest"]) == Path("manifests/lesion-v1.csv")
    assert "tasks.lesion@1" in told("tasks", "freeze", *suite)["frozen"]
    pages = told("tasks", "pages", "pages", *suite)["pages"]
    assert all(Path(page).is_file() for page in pages)


def test_a_plot_is_named(vlmed: Vlmed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmed.results.plots.plot_trainings", lambda run, out: [out / "unit.svg"])
    assert json.loads(vlmed("plot", "run", "--json").out) == {"figures": ["run/plots/unit.svg"]}


def test_the_demo_tells_its_story_on_standard_error(
    vlmed: Vlmed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def show(*_: object) -> None:
        typer.echo("what a person reads")
        sys.stdout.write("and what a table prints\n")

    monkeypatch.setattr("vlmed.cli.demo._show", show)
    said = vlmed("demo", "--out", tmp_path / "demo", "--json")
    assert json.loads(said.out)["submissions"] == str(tmp_path / "demo" / "submissions")
    assert "what a person reads" in said.err
    assert "and what a table prints" in said.err
