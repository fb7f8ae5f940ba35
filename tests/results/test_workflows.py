"""The workflows of GitHub call commands that exist, with tokens that read, and run nothing that a stranger wrote."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from vlmed.cli import app

FOLDER = Path(__file__).parents[2] / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))


def workflow(path: Path) -> Any:
    return yaml.load(path.read_text(), yaml.BaseLoader)  # `on` is no boolean


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in workflow(path)["jobs"].values() for step in job["steps"]]


def commands(path: Path) -> list[list[str]]:
    """The words after `python -m vlmed` of every call."""
    scripts = "\n".join(step.get("run", "") for step in steps(path))
    return [shlex.split(match) for match in re.findall(r"-m vlmed ([^|\n]*)", scripts)]


def test_there_are_four() -> None:
    assert [path.stem for path in FILES] == ["audit", "guard", "publish", "validate"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_command_and_option_exists(path: Path) -> None:
    assert commands(path)
    for words in commands(path):
        command: Any = typer.main.get_command(app)
        rest = list(words)
        while hasattr(command, "commands") and rest and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        assert command.name not in (None, "vlmed"), words
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in rest if word.startswith("--")} <= known, words


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_tokens_read_and_no_expression_stands_in_a_script(path: Path) -> None:
    made = workflow(path)
    assert made["permissions"] == {"contents": "read"}
    for step in steps(path):
        # An expression in a script is text that GitHub pastes in: a branch's name would become shell code.
        assert "${{" not in step.get("run", "")
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] == "false"
    writing = {name for name, job in made["jobs"].items() if "write" in str(job.get("permissions", ""))}
    assert writing <= {"publish"}


def test_a_pull_request_is_validated_by_the_base_and_never_installed() -> None:
    made = workflow(FOLDER / "validate.yml")
    assert "pull_request" in made["on"]
    assert "pull_request_target" not in made["on"]
    installs = [step["run"] for step in steps(FOLDER / "validate.yml") if "pip install" in step.get("run", "")]
    assert installs == ["python -m pip install ./trusted"]
    checkouts = {
        step["with"]["path"]: step["with"].get("ref", "")
        for step in steps(FOLDER / "validate.yml")
        if "checkout" in step.get("uses", "")
    }
    assert "base.sha" in checkouts["trusted"]
    assert "secrets." not in (FOLDER / "validate.yml").read_text()
    assert all(words[0] == "validate" for words in commands(FOLDER / "validate.yml"))
