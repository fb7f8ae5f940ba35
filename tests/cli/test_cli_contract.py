"""What scripts rely on: names of commands, arguments and options, exit codes, silence and colours."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import Vlmed

from submission_factory import World
from vlmed.cli import app

# Command -> arguments; options. More may come; none of these may go or change its name.
CONTRACT = {
    "tasks": "; --json --suite --tracks",
    "tasks check": "; --json --suite",
    "tasks freeze": "; --json --suite",
    "tasks pages": "folder; --json --suite",
    "tasks show": "name; --json --suite",
    "data freeze": "task; --data-root --ids-only --json --suite",
    "data prepare": "task; --data-root --json --suite",
    "data verify": "task; --data-root --json --suite",
    "data where": "task; --data-root --json --suite",
    "leakage": "tasks; --across --all --data-root --ids-only --json --out --suite",
    "fingerprint make": "images; --json --out --skip-unreadable --splits",
    "fingerprint check": "file; --exact --json --suite",
    "fingerprint freeze": "task; --data-root --json --suite",
    "models": "; --json",
    "models inspect": "ref; --adapter --json",
    "models show": "name; --json --suite",
    "run": "; --adapter --batch-size --blind --channels-last --compile --data-root --device --executor --fractions "
    "--json --keep-weights --model --models --out --plan --precision --price-per-hour --profile --ray-address "
    "--seeds --suite --tasks --tracks --trust-remote-code --worker-cpus --worker-gpus --workers",
    "plot": "run; --json --out",
    "validate": "paths; --against --cache --full --github --intervals --jobs --json --seed --suite",
    "compare": "run_a run_b; --json --metric --suite",
    "submit": "run; --code --contact --dry-run --fingerprint --hub --json --licence --model --org --paper --run "
    "--suite --supersedes --to --trained-on --trained-on-other",
    "audit": "run; --auditor --data-root --device --json --samples --seed --suite --trust-remote-code",
    "submissions diff": "one other; --in --json",
    "submissions list": "folder; --json",
    "submissions retract": "run; --in --json --reason",
    "submissions show": "run; --in --json --suite",
    "leaderboard build": "submissions; --cache --full --intervals --jobs --json --out --seed --suite",
    "leaderboard serve": "site; --port",
    "leaderboard publish": "site; --dry-run --json --message --pages --space",
    "leaderboard export": "form site; --json --model --out --suite",
    "results": "paths; --csv --json --suite --tasks",
    "judge": "run; --data-root --json --judge --passes --plan --suite",
    "errors": "run; --data-root --json --judged --suite",
    "demo": "; --epochs --json --out",
    "doctor": "; --data-root --json --suite",
}


def _walk(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    yield name, command
    for word, inner in getattr(command, "commands", {}).items():
        yield from _walk(inner, f"{name} {word}".strip())


COMMANDS = dict(_walk(typer.main.get_command(app)))


@pytest.mark.parametrize("name", CONTRACT)
def test_published_names_stay(name: str) -> None:
    arguments, _, options = CONTRACT[name].partition(";")
    parameters = COMMANDS[name].params
    assert [each.name for each in parameters if each.param_type_name == "argument"] == arguments.split()
    assert set(options.split()) <= {option for each in parameters for option in each.opts}


def test_every_command_is_in_the_contract() -> None:
    callable_names = {name for name, command in COMMANDS.items() if name and not hasattr(command, "commands")}
    assert callable_names <= CONTRACT.keys()


def test_options_of_vlmed_itself() -> None:
    options = {option for each in COMMANDS[""].params for option in each.opts}
    assert {"--version", "--quiet", "-q", "--no-color", "--no-colour", "--install-completion"} <= options


def test_exit_codes(vlmed: Vlmed, world: World, tmp_path: Path) -> None:
    suite = ["--suite", world.tasks_file]
    run = world.add("net")
    assert vlmed("validate", run, *suite).code == 0
    result = json.loads((run / "result.json").read_text("utf-8"))
    result["units"][0]["scores"]["metrics"]["all"]["auc"]["value"] /= 2
    (run / "result.json").write_text(json.dumps(result), "utf-8")
    assert vlmed("validate", run, *suite).code == 1, "a check failed"
    assert vlmed("validate", tmp_path / "nowhere", *suite).code == 2, "wrong use"
    assert vlmed("data", "verify", "papila").code == 3, "data that only the user can get"


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, vlmed: Vlmed) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vlmed.suite.check.check_suite", interrupted)
    assert vlmed("tasks", "check").code == 130


@pytest.mark.parametrize("place", [0, 1, 99], ids=["before", "between", "after"])
def test_quiet_leaves_results_alone(
    vlmed: Vlmed, phantom_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    # Whatever the command sets in the environment goes again with this test.
    for name in ("VLMED_QUIET", "HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, "")
    words = ["run", "--model", "control:majority", "--tasks", "lesion", "--suite", str(phantom_suite)]
    loud = vlmed(*words, "--out", tmp_path / "loud")
    assert ": done" in loud.err
    words.insert(place, "--quiet")
    quiet = vlmed(*words, "--out", tmp_path / "quiet")
    assert quiet.code == 0
    assert quiet.err == ""
    assert quiet.out == loud.out.replace("loud", "quiet")


def test_problems_are_told_to_the_quiet_too(vlmed: Vlmed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMED_QUIET", "1")
    assert "unknown task" in vlmed("tasks", "show", "nothing").err


def test_no_option_of_vlmed_is_taken_after_two_dashes(vlmed: Vlmed) -> None:
    assert "unknown task '--quiet'" in vlmed("tasks", "show", "--", "--quiet").err


@pytest.mark.parametrize(("words", "variables"), [(["--no-color"], {}), (["--no-colour"], {}), ([], {"NO_COLOR": "1"})])
def test_colours_can_be_off(tmp_path: Path, words: list[str], variables: dict[str, str]) -> None:
    told = _on_a_terminal(words, tmp_path, variables)
    assert "python" in told
    assert "\x1b[3" not in told


def test_a_terminal_gets_colours(tmp_path: Path) -> None:
    assert "\x1b[32mok" in _on_a_terminal([], tmp_path, {})


def _on_a_terminal(words: list[str], cache: Path, variables: dict[str, str]) -> str:
    """What `vlmed doctor` prints of one finding where standard output is a terminal."""
    code = (
        "import sys, vlmed.evaluate.doctor as doctor; from vlmed.cli import main\n"
        "doctor.examine = lambda *_: [doctor.Finding('python', 'ok', 'here')]\n"
        f"sys.argv = ['vlmed', 'doctor', *{words!r}]\nmain()"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "VLMED_CACHE": str(cache), "TERM": "xterm"} | variables
    environment |= {} if variables else {"NO_COLOR": ""}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    told = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # so Linux tells that the other side is closed
            break
        if not part:
            break
        told += part
    process.wait()
    os.close(ours)
    return told.decode()


def test_help_as_a_word(vlmed: Vlmed) -> None:
    asked, told = vlmed("help", "tasks", "show"), vlmed("tasks", "show", "--help")
    assert asked.code == 0
    assert asked.out == told.out


@pytest.mark.parametrize(
    ("typed", "offered"), [("vlmed doc", "doctor"), ("vlmed tasks sh", "show"), ("vlmed run --pl", "--plan")]
)
def test_shells_complete(typed: str, offered: str) -> None:
    environment = {**os.environ, "_VLMED_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    environment["COMP_CWORD"] = str(len(typed.split()) - 1)
    # `main` has no part in completion but its name: the shell asks the program that it completes.
    code = "import sys; sys.argv = ['vlmed']; from vlmed.cli import app; app(prog_name='vlmed')"
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert offered in told.stdout.split()


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    environment = {**os.environ, "VLMED_CACHE": str(tmp_path)}
    words = f"{sys.executable} -m vlmed tasks --json | head -c 1"
    told = subprocess.run(["bash", "-c", words], env=environment, capture_output=True, text=True, check=False)
    assert told.stdout == "["
    assert "Traceback" not in told.stderr
