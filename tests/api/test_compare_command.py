"""`vlmed compare` and `vlmed results`, as a program and as a person read them."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from submission_factory import World
from vlmed.cli import main
from vlmed.results.shown import shown_p


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command; gives exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vlmed", *map(str, arguments)])
        code: Any = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        return (code, *capsys.readouterr())

    return call


def run(world: World, name: str) -> Path:
    return world.submissions / f"lab__{name}" / "1"


def test_compare_for_people_and_for_programs(say: Any, world: World) -> None:
    arguments = ("compare", run(world, "strong"), run(world, "weak"), "--suite", world.tasks_file)
    code, out, err = say(*arguments)
    assert (code, err) == (0, "")
    assert "chest-1.zero_shot-1.0.1" in out
    code, out, _ = say(*arguments, "--json")
    rows = json.loads(out)
    assert [row["task"] for row in rows] == ["chest@1", "organ@1", "figures@1", "median@1", "questions@1"]
    assert rows[0]["difference"] > 0


@pytest.mark.parametrize(
    ("p", "shown"), [(0.0, "< 0.001"), (1e-9, "< 0.001"), (0.001, "0.001"), (0.0321, "0.032"), (1.0, "1"), (None, "-")]
)
def test_no_p_is_zero(p: float | None, shown: str) -> None:
    assert shown_p(p) == shown


def test_compare_shows_no_p_that_its_test_cannot_tell(say: Any, world: World) -> None:
    world.add("blind", 0.0, tasks=("chest",))
    world.add("sure", 30.0, tasks=("chest",))
    arguments = ("compare", run(world, "sure"), run(world, "blind"), "--suite", world.tasks_file)
    assert json.loads(say(*arguments, "--json")[1])[0]["p"] < 0.001
    assert "< 0.001" in say(*arguments)[1]


def test_compare_tells_what_it_left_out(say: Any, world: World) -> None:
    world.add("one", tasks=("chest",), org="other")
    code, _, err = say("compare", run(world, "strong"), world.submissions / "other__one" / "1",
                       "--suite", world.tasks_file)  # fmt: skip
    assert code == 0
    assert "4 units are in one of the runs alone" in err


def test_compare_in_vain(say: Any, world: World, tmp_path: Path) -> None:
    code, out, err = say("compare", run(world, "strong"), tmp_path / "nowhere")
    assert (code, out) == (3, "")
    assert "there is no result here" in err
    code, _, err = say("compare", run(world, "strong"), run(world, "weak"), "--suite", world.tasks_file,
                       "--metric", "auk")  # fmt: skip
    assert code == 2
    assert "auc" in err
    assert say("compare", run(world, "strong"))[0] == 2


def test_results_as_table_json_and_csv(say: Any, world: World) -> None:
    arguments = ("results", run(world, "strong"), run(world, "weak"), "--suite", world.tasks_file)
    code, table, _ = say(*arguments)
    assert code == 0
    assert table.count("hf:lab/strong") == 5
    assert "110 clean" in table
    assert "120 all" not in table
    rows = json.loads(say(*arguments, "--json", "--tasks", "ch*")[1])
    assert {row["task"] for row in rows} == {"chest@1"}
    assert len(rows) == 2 * 2 * 4
    lines = list(csv.DictReader(io.StringIO(say(*arguments, "--csv", "--tasks", "ch*")[1])))
    assert [line["metric"] for line in lines] == [row["metric"] for row in rows]
    assert float(lines[0]["value"]) == rows[0]["value"]


def test_results_in_vain(say: Any, world: World, tmp_path: Path) -> None:
    assert say("results", tmp_path)[0] == 2
    code, _, err = say("results", run(world, "strong"), "--suite", world.tasks_file, "--tasks", "chst")
    assert code == 2
    assert "chest" in err
    assert say("results", run(world, "strong"), "--json", "--csv")[0] == 2


def test_a_strangers_words_do_not_drive_the_terminal(say: Any, world: World) -> None:
    world.add("escape", ref="hf:lab/\x1b[31mred [bold]x[/bold]", org="other")
    code, out, _ = say("results", world.submissions / "other__escape", "--suite", world.tasks_file)
    assert code == 0
    assert "\x1b" not in out
    assert "[bold]x[/bold]" in out
