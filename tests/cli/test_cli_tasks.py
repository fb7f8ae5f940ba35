"""`vlmed tasks`, the options of all commands, and what the command line imports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from command_line import Vlmed

import vlmed as package
from submission_factory import World
from vlmed.cli import app

HEAVY = ("torch", "transformers", "open_clip", "pyarrow", "jsonschema", "numpy", "PIL", "yaml")


def commands(group: Any, name: str = "") -> Iterator[str]:
    """Every command below a group, as a user types it."""
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name}{word} ")
        else:
            yield f"{name}{word}"


COMMANDS = sorted(commands(typer.main.get_command(app)))


def test_every_command_is_known_to_these_tests() -> None:
    assert {"tasks show", "data verify", "run", "validate", "submit", "leaderboard build", "demo"} <= set(COMMANDS)


@pytest.mark.parametrize("command", [*COMMANDS, "data", "fingerprint", "models", "submissions", "tasks"])
def test_every_help_has_an_example(vlmed: Vlmed, command: str) -> None:
    said = vlmed(*command.split(), "--help")
    assert said.code == 0
    assert f"Example: vlmed {command}" in " ".join(said.out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_no_word_of_a_help_is_lost(vlmed: Vlmed, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """What stands in brackets would be taken for colours."""
    monkeypatch.setenv("COLUMNS", "300")
    shown = " ".join(vlmed(*command.split(), "--help").out.split())
    node: Any = typer.main.get_command(app)
    for word in command.split():
        node = node.commands[word]
    assert [each.help for each in node.params if getattr(each, "help", None) and each.help not in shown] == []


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from vlmed.cli import main\n"
        "sys.argv = ['vlmed', '--help']\n"
        "try: main()\n"
        "finally: print('imported:', *sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "leaderboard" in said.stdout
    imported = set(said.stdout.partition("imported:")[2].split())
    assert imported.isdisjoint(HEAVY)
    assert "vlmed.cli" in imported


def test_python_m_is_the_command() -> None:
    said = subprocess.run([sys.executable, "-m", "vlmed", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == package.__version__


@pytest.mark.parametrize("arguments", [["bogus"], ["run"], ["run", "--bogus"], ["tasks", "show"], ["validate"]])
def test_a_command_line_that_is_none_is_refused(vlmed: Vlmed, arguments: list[str]) -> None:
    assert vlmed(*arguments).code == 2


def test_tasks_lists_every_task(vlmed: Vlmed) -> None:
    said = vlmed("tasks")
    assert said.code == 0
    assert all(name in said.out for name in ("breastmnist@1", "phantom_lesion@1", "chexpert@1"))


def test_tasks_as_json(vlmed: Vlmed, world: World) -> None:
    rows = json.loads(vlmed("tasks", "--json", "--suite", world.tasks_file).out)
    assert [row["task"] for row in rows] == list(world.suite.tasks)
    assert [row["manifest"] for row in rows].count("pending") == 1


def test_tracks(vlmed: Vlmed, world: World) -> None:
    rows = json.loads(vlmed("tasks", "--tracks", "--json", "--suite", world.tasks_file).out)
    assert [(row["track"], row["method"]) for row in rows] == [
        ("zero_shot@1", "zero_shot"),
        ("linear_probe@1", "linear_probe"),
    ]
    assert "linear_probe@1" in vlmed("tasks", "--tracks").out


def test_show(vlmed: Vlmed, world: World) -> None:
    said = vlmed("tasks", "show", "chest", "--suite", world.tasks_file)
    facts = yaml.safe_load(said.out)
    task = world.suite.task("chest")
    assert facts["digest"] == task.digest
    assert facts["manifest"] == task.manifest
    assert facts["prompts"]["default"]["normal"] == ["an image of normal"]
    assert json.loads(vlmed("tasks", "show", "chest", "--json", "--suite", world.tasks_file).out) == facts


def test_brackets_in_a_title_are_no_markup(vlmed: Vlmed, world: World, tmp_path: Path) -> None:
    changed = tmp_path / "changed.yaml"
    changed.write_text(world.tasks_file.read_text("utf-8").replace("Radiographs collection", "Scans [red] of 1999"))
    assert "Scans [red] of 1999" in vlmed("tasks", "--suite", changed).out


def test_an_unknown_task_names_the_nearest(vlmed: Vlmed) -> None:
    said = vlmed("tasks", "show", "brestmnist")
    assert said.code == 2
    assert "unknown task 'brestmnist'" in said.err
    assert "'breastmnist'" in said.err
    assert said.out == ""


@pytest.mark.parametrize("command", [["show", "chest"], ["check"]])
def test_an_option_before_the_command_is_not_lost(vlmed: Vlmed, world: World, command: list[str]) -> None:
    said = vlmed("tasks", "--suite", world.tasks_file, *command)
    assert said.code == 2
    assert f"after the command: vlmed tasks {command[0]}" in said.err


@pytest.mark.parametrize("level", ["", "tasks: chest@1", "tracks: zero_shot@1", "datasets: phantom"])
def test_an_unknown_key_in_a_task_file_is_named(vlmed: Vlmed, world: World, tmp_path: Path, level: str) -> None:
    tree = yaml.safe_load(world.tasks_file.read_text("utf-8"))
    node = tree
    for name in filter(None, level.split(": ")):
        node = node[name]
    node["colour"] = "blue"
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(tree, sort_keys=False), "utf-8")
    said = vlmed("tasks", "--suite", changed)
    assert said.code == 2
    assert str(changed) in said.err
    assert "'colour'" in said.err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("suite: [", "not YAML"),
        ("suite: a\nsuite: b\n", "stands twice"),
        ("!!python/object/apply:os.system [echo]", "not YAML"),
        ("[]", "$"),
    ],
)
def test_a_task_file_that_is_none_is_refused(vlmed: Vlmed, tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "tasks.yaml"
    path.write_text(content)
    said = vlmed("tasks", "--suite", path)
    assert said.code == 2
    assert says in said.err
    assert str(path) in said.err


def test_a_task_file_that_is_not_there(vlmed: Vlmed, tmp_path: Path) -> None:
    said = vlmed("tasks", "--suite", tmp_path / "none.yaml")
    assert said.code == 3
    assert "none.yaml" in said.err
