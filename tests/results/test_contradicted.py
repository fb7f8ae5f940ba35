"""A run that an audit contradicts: nobody can miss it, and nothing on the leaderboard ranks it."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from submission_factory import LORA, World, add_audit
from vlmed.cli import app
from vlmed.leaderboard.build import build
from vlmed.leaderboard.rank import Row, current_rows, rank_tables
from vlmed.leaderboard.read import read_submissions
from vlmed.results.plausible import flags_of

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>"
NOTE = "contradicted by an audit"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """The best of three models is contradicted."""
    world = World(tmp_path / "world")
    add_audit(world.add("best", 2.2), differing=9)
    add_audit(world.add("good", 1.5))
    world.add("fair", 0.5)
    return world


def rows(world: World) -> dict[str, Row]:
    read = read_submissions(world.submissions, world.suite, world.manifests, False)
    (table,) = rank_tables(world.suite, current_rows(world.suite, read.entries), world.manifests)
    return {row.entry.model: row for row in table.models}


def command(world: World, *words: object) -> Any:
    return CliRunner().invoke(app, [*map(str, words)])


# Who keeps the submissions


def test_validation_accepts_the_run_and_flags_it(world: World) -> None:
    suite = ("--suite", world.tasks_file)
    run = world.submissions / "lab__best/1"
    said = command(world, "validate", run, "--no-intervals", *suite)
    assert said.exit_code == 0
    assert "look at this: chest-1.zero_shot-1.0.1: 9 of 64 predictions differ" in said.output
    said = command(world, "validate", run, "--no-intervals", "--github", *suite)
    assert "::notice title=look at this::chest-1.zero_shot-1.0.1" in said.output
    (facts,) = json.loads(command(world, "validate", run, "--no-intervals", "--json", *suite).stdout)
    assert [flag["kind"] for flag in facts["flags"]] == ["audit"]
    assert "look at this" not in command(world, "validate", world.submissions / "lab__good/1", *suite).output


def test_the_list_says_contradicted_and_verified(world: World) -> None:
    listed = json.loads(command(world, "submissions", "list", world.submissions, "--json").stdout)
    assert {row["run"]: row["state"] for row in listed} == {
        "lab__best/1": "contradicted",
        "lab__good/1": "verified",
        "lab__fair/1": "",
    }


def test_a_run_of_which_a_part_is_confirmed_is_not_verified(world: World) -> None:
    run = world.add("part", seeds=(0, 1))
    (file,) = (add_audit(run) / "audits").iterdir()
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"units": record["units"][:1]}))
    listed = json.loads(command(world, "submissions", "list", world.submissions, "--json").stdout)
    assert next(row["state"] for row in listed if row["run"] == "lab__part/1") == ""


def test_show_has_the_record_and_the_flag(world: World) -> None:
    words = ("submissions", "show", "lab__best/1", "--in", world.submissions, "--suite", world.tasks_file, "--json")
    facts = json.loads(command(world, *words).stdout)
    assert [(one["file"], one["auditor"], one["verdict"]) for one in facts["audits"]] == [
        ("2026-11-22-1.json", "Ada, vlmed", "contradicted")
    ]
    assert [flag["kind"] for flag in facts["flags"]] == ["audit"]


def test_a_contradicted_control_is_flagged_too(world: World) -> None:
    run = add_audit(world.control("oracle", 30.0), differing=1)
    assert [flag.kind for flag in flags_of(run, world.submissions, world.suite, world.manifests)] == ["audit"]


def test_an_audit_of_another_result_flags_nothing(world: World) -> None:
    run = add_audit(world.add("other"), differing=9, result="0" * 64)
    assert "audit" not in [flag.kind for flag in flags_of(run, world.submissions, world.suite, world.manifests)]


def test_hostile_texts_of_an_auditor_are_printed_without_harm(world: World) -> None:
    run = add_audit(world.add("m"), differing=9, auditor=f"x\x1b[2J\n::error::y {HOSTILE}")
    suite = ("--suite", world.tasks_file)
    for words in (
        ("validate", run, "--no-intervals", *suite),
        ("validate", run, "--no-intervals", "--github", *suite),
        ("submissions", "show", "lab__m/1", "--in", world.submissions, *suite),
    ):
        said = command(world, *words).output
        assert "\x1b" not in said
        assert "\n::error" not in said


# The leaderboard


def test_what_is_contradicted_stands_last_without_a_rank(world: World) -> None:
    found = rows(world)
    assert list(found) == ["good", "fair", "best"]
    assert (found["best"].rank, found["best"].note) == (None, NOTE)
    assert found["best"].value is not None, "it stays visible"
    assert [found[name].note for name in ("good", "fair")] == ["", ""]


def test_the_others_are_ranked_as_if_it_were_not_there(world: World) -> None:
    ranks = {name: row.rank for name, row in rows(world).items() if row.rank}
    alone = World(world.root / "alone")
    add_audit(alone.add("good", 1.5))
    alone.add("fair", 0.5)
    assert ranks == {name: row.rank for name, row in rows(alone).items()}


def test_only_what_was_contradicted_loses_its_rank(world: World) -> None:
    run = world.add("two", 2.0, tasks=("chest", "organ"))
    (file,) = (add_audit(run, differing=9) / "audits").iterdir()
    record = json.loads(file.read_text())
    record["units"][1] |= {"differing": 0, "verdict": "confirmed"}
    file.write_text(json.dumps(record))
    read = read_submissions(world.submissions, world.suite, world.manifests, False)
    tables = rank_tables(world.suite, current_rows(world.suite, read.entries), world.manifests)
    found = {table.task.name: row for table in tables for row in table.models if row.entry.model == "two"}
    assert (found["chest"].rank, found["chest"].note) == (None, NOTE)
    assert (found["organ"].rank, found["organ"].note) == ((1, 1), "")


def test_one_contradicted_seed_is_enough(world: World) -> None:
    run = world.add("seeds", seeds=(0, 1))
    (file,) = (add_audit(run, differing=9) / "audits").iterdir()
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"units": record["units"][:1]}))
    assert rows(world)["seeds"].rank is None


def test_the_pages_and_the_exports_do_not_look_clean(world: World) -> None:
    site = build(world.submissions, world.root / "site", world.suite, world.manifests, intervals=False).page.parent
    for page in ("tasks/chest-1.html", "models/lab__best.html"):
        assert NOTE in (site / page).read_text("utf-8")
    tables = json.loads((site / "data/leaderboard.json").read_text("utf-8"))["tables"]
    row = next(row for row in tables[0]["rows"] if row["name"] == "best")
    assert (row["rank"], row["note"], row["verified"]) == (None, NOTE, False)
    with (site / "data/results.csv").open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["model"] == "best"]
    assert {(line["rank_low"], line["verified"]) for line in lines} == {("", "0")}
    assert list((site / "badges").glob("lab__good/*"))
    assert not list((site / "badges").glob("lab__best/*"))


@pytest.mark.parametrize("text", [HOSTILE, "=HYPERLINK(0)", "'\"><svg onload=alert(1)>", "{{ 7*7 }}", "</bdi></td>"])
def test_hostile_texts_of_an_audit_are_text_on_every_page(world: World, text: str) -> None:
    (file,) = (add_audit(world.add("m", adapter=LORA), auditor=text, vlmed_version=text) / "audits").iterdir()
    record = json.loads(file.read_text())
    record["units"][0] |= {"reason": text}
    record |= {"environment": {text: text}}
    file.write_text(json.dumps(record))
    hostile = pages(world, "hostile")
    assert text not in hostile["models/lab__m.html"] or "<" not in text
    record["units"][0] |= {"reason": "plain"}
    file.write_text(json.dumps(record | {"auditor": "Ada", "vlmed_version": "1", "environment": {}}))
    plain = pages(world, "plain")
    assert {name: re.findall(r"<(/?\w+)", page) for name, page in hostile.items()} == {
        name: re.findall(r"<(/?\w+)", page) for name, page in plain.items()
    }
    for path in (world.root / "hostile").rglob("*.csv"):
        with path.open(newline="", encoding="utf-8") as lines:
            assert not any(cell.startswith(("=", "@")) for row in csv.reader(lines) for cell in row)


def pages(world: World, out: str) -> dict[str, str]:
    site = build(world.submissions, world.root / out, world.suite, world.manifests, intervals=False).page.parent
    return {path.relative_to(site).as_posix(): path.read_text("utf-8") for path in site.rglob("*.html")}
