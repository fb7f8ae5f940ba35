"""What a submitter says: asked for, checked, kept, and never a way around validation."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from forgery import check, edit
from hub_server import HubServer, Repository
from submission_factory import World
from vlmed.cli import app
from vlmed.errors import InputError, UsageError, VlmedError
from vlmed.files import write_json
from vlmed.leaderboard.read import read_submissions
from vlmed.leakage.fingerprint import fingerprint, write_fingerprint
from vlmed.results.description import Description, Training, read_description
from vlmed.results.submit import describe, retract, submit

SAID = Description("2026-11-22", "mit", Training(["pmc_15m"], "own reports"), "a@example.org", "https://example.org/p")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world", samples=40)


@pytest.fixture
def run(world: World, tmp_path: Path) -> Path:
    made = world.add("model")
    shutil.move(made, tmp_path / "run")
    made.parent.rmdir()
    return tmp_path / "run"


def corpus() -> str:
    from vlmed.leakage.contamination import load_graph

    return sorted(load_graph().corpora)[0]


def test_a_description_comes_back_as_it_went(world: World, run: Path) -> None:
    said = replace(SAID, training=Training([corpus()], "own reports"))
    describe(run, said)
    assert check(world, run, intervals=False).problems == []
    assert read_description(run) == said


def test_a_run_without_one_is_accepted(world: World, run: Path) -> None:
    assert read_description(run) is None
    assert check(world, run, intervals=False).accepted


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        ("licence", "", "$.licence"),
        ("licence", ..., "$"),
        ("more", 1, "$"),
        ("date", "2026-13-01", "$.date"),
        ("date", "2026-11-22\n", "$.date"),
        ("paper", "javascript:alert(1)", "$.paper"),
        ("paper", "http://example.org", "$.paper"),
        ("code", 'https://example.org/"><script>', "$.code"),
        ("training/corpora", ["no_such_corpus"], "$.training.corpora[0]"),
        ("training/corpora", "all", "$.training.corpora"),
        ("training/other", "x" * 1001, "$.training.other"),
        ("supersedes", "../1", "$.supersedes"),
        ("fingerprint", "0" * 64, "$.fingerprint"),
        ("schema_version", 2, "$.schema_version"),
    ],
)
def test_a_wrong_description_is_refused_with_its_place(
    world: World, run: Path, path: str, value: Any, place: str
) -> None:
    describe(run, replace(SAID, training=Training([corpus()])))
    (run / "result.json").rename(run / "kept")
    (run / "submission.json").rename(run / "result.json")
    edit(run, path, value)
    (run / "result.json").rename(run / "submission.json")
    (run / "kept").rename(run / "result.json")
    report = check(world, run, intervals=False)
    assert not report.accepted
    assert place in {problem.path for problem in report.problems if problem.file.endswith("submission.json")}


def pictures(*seeds: int) -> list[tuple[str, Image.Image]]:
    drawn = [np.random.default_rng(seed).integers(0, 256, (32, 32), np.uint8) for seed in seeds]
    return [(f"{seed}", Image.fromarray(pixels)) for seed, pixels in zip(seeds, drawn, strict=True)]


def test_a_fingerprint_that_has_a_test_image_is_told(world: World, run: Path, tmp_path: Path) -> None:
    from vlmed.suite.manifest import manifest_path

    made = fingerprint(pictures(1, 2))
    image = made.table["pixels"][1].as_py()[0].hex()
    file = manifest_path(world.suite.task("chest"), world.manifests)
    text = file.read_text().replace(f"{5:032x}", image)
    file.write_text(text)
    world = refrozen(world)
    shutil.rmtree(run)
    run = world.add("exposed")
    write_fingerprint(tmp_path / "f.parquet", made)
    describe(run, SAID_NOTHING, tmp_path / "f.parquet")
    (problem,) = [each for each in check(world, run, intervals=False).problems if "fingerprint" in each.file]
    assert problem.severity == "warning"
    assert "has 1 of 40 test images of chest@1" in problem.what
    assert problem.got == "s00005"


SAID_NOTHING = Description("2026-11-22", "mit")


def refrozen(world: World) -> World:
    """Name the changed manifest in the task file."""
    from vlmed.hashing import file_hash
    from vlmed.suite.load import load_suite
    from vlmed.suite.manifest import manifest_path

    task = world.suite.task("chest")
    text = world.tasks_file.read_text()
    world.tasks_file.write_text(text.replace(task.manifest, file_hash(manifest_path(task, world.manifests)), 1))
    load_suite.cache_clear()
    world.suite = load_suite(world.tasks_file)
    return world


@pytest.mark.parametrize("content", [b"", b"PAR1" * 10, b"x" * 100])
def test_a_fingerprint_that_is_none_is_refused(world: World, run: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f.parquet").write_bytes(content)
    describe(run, SAID_NOTHING, tmp_path / "f.parquet")
    assert not check(world, run, intervals=False).accepted


def test_a_fingerprint_goes_with_its_hash(world: World, run: Path, tmp_path: Path) -> None:
    write_fingerprint(tmp_path / "f.parquet", fingerprint(pictures(1)))
    describe(run, SAID_NOTHING, tmp_path / "f.parquet")
    assert check(world, run, intervals=False).accepted
    write_fingerprint(run / "fingerprint.parquet", fingerprint(pictures(2)))
    assert "not the one that was hashed" in str(check(world, run, intervals=False).problems[0])
    (run / "fingerprint.parquet").unlink()
    assert "stand together" in check(world, run, intervals=False).problems[0].what


def test_a_correction_takes_the_place_of_what_it_names(world: World) -> None:
    world.add("model")
    world.add("model", run="2")
    describe(world.submissions / "lab__model" / "2", replace(SAID_NOTHING, supersedes="1"))
    found = read_submissions(world.submissions, world.suite, world.manifests, intervals=False)
    assert [entry.path for entry in found.entries] == ["lab__model/2"]
    assert [(run.path, run.problems[0].what) for run in found.refused] == [
        ("lab__model/1", "this run is superseded by 2")
    ]
    assert found.entries[0].description == replace(SAID_NOTHING, supersedes="1")


@pytest.mark.parametrize("name", ["2", "7"])
def test_a_correction_of_itself_or_of_nothing_is_refused(world: World, name: str) -> None:
    run = world.add("model", run="2")
    describe(run, replace(SAID_NOTHING, supersedes=name))
    assert "$.supersedes" in {problem.path for problem in check(world, run, intervals=False).problems}


def test_a_refused_correction_corrects_nothing(world: World) -> None:
    world.add("model")
    correction = world.add("model", run="2")
    describe(correction, replace(SAID_NOTHING, supersedes="1"))
    edit(correction, "units/0/predictions/rows", 7)
    found = read_submissions(world.submissions, world.suite, world.manifests, intervals=False)
    assert [entry.path for entry in found.entries] == ["lab__model/1"]


# Retraction


def test_a_retracted_run_is_left_out_with_its_reason(world: World) -> None:
    run = world.add("model")
    retract(run, "wrong <b>checkpoint</b>")
    assert check(world, run, intervals=False).accepted
    found = read_submissions(world.submissions, world.suite, world.manifests, intervals=False)
    assert found.entries == []
    assert found.refused[0].problems[0].what == "this run was retracted: wrong <b>checkpoint</b>"
    with pytest.raises(UsageError, match="retracted already"):
        retract(run, "again")


@pytest.mark.parametrize("reason", ["", "  ", "x" * 1001])
def test_a_retraction_needs_a_reason(world: World, reason: str) -> None:
    with pytest.raises(UsageError, match="reason"):
        retract(world.add("model"), reason)
    with pytest.raises(UsageError, match="no such run"):
        retract(world.submissions / "none" / "1", "x")


def test_a_forged_retraction_is_refused(world: World) -> None:
    run = world.add("model")
    (run / "retraction.json").write_text('{"reason": 1}')
    assert not check(world, run, intervals=False).accepted


# Submitting


def test_submission_and_fingerprint_are_copied(world: World, run: Path, tmp_path: Path) -> None:
    write_fingerprint(tmp_path / "f.parquet", fingerprint(pictures(1)))
    describe(run, SAID_NOTHING, tmp_path / "f.parquet")
    (run / "notes.txt").write_text("mine")
    target = submit(check(world, run, intervals=False), "lab", "m", "1", world.submissions)
    names = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert names == [
        "fingerprint.parquet",
        "predictions/chest-1.zero_shot-1.0.1.parquet",
        "result.json",
        "submission.json",
    ]
    assert check(world, target, intervals=False).problems == []


@pytest.mark.parametrize("name", ["result.json", "predictions/chest-1.zero_shot-1.0.1.parquet"])
def test_what_changes_after_validation_is_not_submitted(world: World, run: Path, name: str) -> None:
    report = check(world, run, intervals=False)
    if name == "result.json":
        edit(run, "model/name", "another")
    else:
        (run / name).write_bytes(b"x")
    with pytest.raises(InputError, match="changed while it was submitted"):
        submit(report, "lab", "m", "1", world.submissions)
    assert list((world.submissions / "lab__m").iterdir()) == []


def command(world: World, *words: object) -> Any:
    return CliRunner().invoke(app, [*map(str, words), "--suite", str(world.tasks_file)])


def test_flags_say_everything(world: World, run: Path, tmp_path: Path) -> None:
    said = command(
        world, "submit", run, "--org", "lab", "--model", "m", "--to", tmp_path / "to", "--licence", "mit",
        "--trained-on", corpus(), "--trained-on-other", "own", "--contact", "me", "--code", "https://example.org/c",
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    written = json.loads((tmp_path / "to" / "lab__m" / "1" / "submission.json").read_text())
    assert written["training"] == {"corpora": [corpus()], "other": "own"}
    assert (written["licence"], written["contact"], written["code"]) == ("mit", "me", "https://example.org/c")


def test_none_is_a_declaration_and_silence_is_none(world: World, run: Path, tmp_path: Path) -> None:
    options = ["--org", "lab", "--to", tmp_path / "to", "--licence", "mit"]
    for model, more, expected in (("a", ["--trained-on", "none"], []), ("b", [], None)):
        assert command(world, "submit", run, "--model", model, *options, *more).exit_code == 0
        described = read_description(tmp_path / "to" / f"lab__{model}" / "1")
        assert described is not None
        assert described.training.corpora == expected


def test_a_dry_run_shows_everything_and_publishes_nothing(world: World, run: Path, tmp_path: Path) -> None:
    said = command(world, "submit", run, "--org", "lab", "--model", "m", "--to", tmp_path / "to", "--licence", "mit",
                   "--dry-run")  # fmt: skip
    assert said.exit_code == 0
    assert "would write" in said.stdout
    assert "result.json" in said.stdout
    assert '"licence": "mit"' in said.stdout
    assert not (tmp_path / "to").exists()


def test_a_description_without_a_licence_is_asked_for(world: World, run: Path, tmp_path: Path) -> None:
    said = command(world, "submit", run, "--org", "lab", "--model", "m", "--to", tmp_path / "to", "--contact", "me")
    assert isinstance(said.exception, UsageError)
    assert "needs its licence" in str(said.exception)


def test_a_faulty_description_does_not_stay_in_the_run(world: World, run: Path, tmp_path: Path) -> None:
    options = ["--org", "lab", "--model", "m", "--to", tmp_path / "to", "--licence", "mit"]
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and nothing else")
    faulty = ["--fingerprint", broken]
    assert "fingerprint.parquet" in str(command(world, "submit", run, *options, *faulty).exception)
    assert not (run / "submission.json").exists()
    assert not (run / "fingerprint.parquet").exists()
    assert command(world, "submit", run, *options, "--dry-run").exit_code == 0
    before = (run / "submission.json").read_bytes()
    assert command(world, "submit", run, *options, *faulty).exception
    assert (run / "submission.json").read_bytes() == before
    assert not (run / "fingerprint.parquet").exists()


def test_an_unknown_corpus_is_told_before_anything_is_written(world: World, run: Path, tmp_path: Path) -> None:
    options = ["--org", "lab", "--model", "m", "--to", tmp_path / "to", "--licence", "mit"]
    said = command(world, "submit", run, *options, "--trained-on", "PMC-15M,no_such")
    assert "'pmc_15m'" in str(said.exception)
    assert "no_such" in str(said.exception)
    assert not (run / "submission.json").exists()


def test_what_was_said_stays_when_something_else_is_wrong(world: World, run: Path, tmp_path: Path) -> None:
    edit(run, "units/0/scores/n/all", lambda count: count + 1)
    options = ["--org", "lab", "--model", "m", "--to", tmp_path / "to", "--licence", "mit"]
    assert command(world, "submit", run, *options).exception
    assert read_description(run) is not None


# The Hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    pytest.importorskip("huggingface_hub")
    import huggingface_hub.constants as constants

    with HubServer() as server:
        server.repositories["board/entries"] = Repository(commits={"0" * 40: {}}, refs={"main": "0" * 40})
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


def test_a_pull_request_adds_the_folder_and_changes_nothing_else(
    world: World, run: Path, hub: HubServer, tmp_path: Path
) -> None:
    said = command(world, "submit", run, "--org", "lab", "--model", "m", "--to", tmp_path / "to", "--licence", "mit",
                   "--hub", "board/entries")  # fmt: skip
    assert said.exit_code == 0, said.output + repr(said.exception)
    assert "/datasets/board/entries/discussions/1" in said.stdout
    (offered,) = hub.pull_requests
    place = "submissions/lab__m/1"
    assert set(offered) == {
        f"{place}/result.json", f"{place}/submission.json", f"{place}/predictions/chest-1.zero_shot-1.0.1.parquet"
    }  # fmt: skip
    assert offered[f"{place}/result.json"] == (run / "result.json").read_bytes()
    assert hub.repositories["board/entries"].refs == {"main": "0" * 40}
    assert not (tmp_path / "to").exists()


def test_what_the_hub_refuses_is_told(world: World, run: Path, hub: HubServer, tmp_path: Path) -> None:
    options = ["--org", "lab", "--model", "m", "--to", tmp_path / "to"]
    said = command(world, "submit", run, *options, "--hub", "board/none")
    assert isinstance(said.exception, VlmedError)
    assert "the Hub says" in str(said.exception)
    said = command(world, "submit", run, *options, "--hub", "not a name")
    assert isinstance(said.exception, VlmedError)


# Looking


def test_list_show_and_diff(world: World) -> None:
    one, other = world.add("a", 0.5), world.add("b", 2.0)
    describe(one, SAID_NOTHING)
    retract(other, "x")
    folder = world.submissions
    rows = json.loads(CliRunner().invoke(app, ["submissions", "list", str(folder), "--json"]).stdout)
    assert [(row["run"], row["licence"], row["state"]) for row in rows] == [
        ("lab__a/1", "mit", ""), ("lab__b/1", "", "retracted")
    ]  # fmt: skip
    shown = json.loads(command(world, "submissions", "show", "lab__a/1", "--in", folder, "--json").stdout)
    assert shown["description"]["licence"] == "mit"
    assert {row["metric"] for row in shown["metrics"]} == {"auc"}
    words = ["submissions", "diff", "lab__a/1", "lab__b/1", "--in", str(folder), "--json"]
    places = {row["place"] for row in json.loads(CliRunner().invoke(app, words).stdout)}
    assert "$.model.name" in places
    assert any(place.endswith("metrics.all.auc.value") for place in places)
    assert "$.model.kind" not in places
    assert isinstance(command(world, "submissions", "show", "lab__z/1", "--in", folder).exception, UsageError)


def test_looking_prints_no_control_characters(world: World) -> None:
    run = world.add("a", name="x\x1b[2J")
    write_json(run / "submission.json", {**SAID_NOTHING.to_json(), "contact": "y\x1b[2J"})
    said = command(world, "submissions", "show", "lab__a/1", "--in", world.submissions)
    assert "\x1b" not in said.stdout
    assert "x\ufffd[2J" in said.stdout or "x\\uFFFD" in said.stdout
