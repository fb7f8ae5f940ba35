"""`vlmed judge` and `vlmed errors`, as a user meets them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Vlmed, files

from asked_suite import asked_suite
from judge_server import JudgeServer
from vlmed.data.load import DataLoader
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, plan
from vlmed.models.load import load_model
from vlmed.suite.load import load_suite


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return asked_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def answered(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, loaded = tmp_path_factory.mktemp("runs") / "random", load_suite(suite)
    runner = Runner(loaded, load_model("control:random"), DataLoader(cache=tmp_path_factory.mktemp("cache")))
    runner.run(plan(loaded, ["asked"], ["zero_shot_vqa"]), RunFolder(folder), lambda unit, state: None)
    return folder


@pytest.fixture
def run(answered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(answered, tmp_path / "run"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    for name in ("VLMED_ENDPOINT_KEY", "VLMED_ENDPOINT_BUDGET", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with JudgeServer() as running:
        yield running


def test_a_plan_asks_nothing_and_writes_nothing(vlmed: Vlmed, run: Path, suite: Path, server: JudgeServer) -> None:
    before = files(run)
    told = vlmed("judge", run, "--judge", server.ref, "--suite", suite, "--plan", "--json")
    planned = json.loads(told.out)
    assert told.code == 0
    assert planned["requests"] == 2 * planned["answers"] > 0
    assert planned["tokens"] > 1000 * planned["requests"]
    assert "requests, at most" in vlmed("judge", run, "--judge", "later", "--suite", suite, "--plan").out
    assert files(run) == before
    assert not server.bodies


def test_judging_tells_scores_agreement_and_cost(vlmed: Vlmed, run: Path, suite: Path, server: JudgeServer) -> None:
    server.moody = True
    told = vlmed("judge", run, "--judge", server.ref, "--suite", suite)
    assert told.code == 0, told.err
    requests = len(server.asked)
    assert f"{requests} requests, {100 * requests} tokens, 0 replies kept from before" in told.out
    assert "alpha" in told.out
    assert "0 unjudged" in told.out
    assert files(run).keys() >= {"judgement.json", *(f"judged/{path.name}" for path in (run / "predictions").iterdir())}


def test_judging_again_asks_nothing_twice(vlmed: Vlmed, run: Path, suite: Path, server: JudgeServer) -> None:
    first = json.loads(vlmed("judge", run, "--judge", server.ref, "--suite", suite, "--json").out)
    asked = len(server.asked)
    second = json.loads(vlmed("judge", run, "--judge", server.ref, "--suite", suite, "--json").out)
    assert len(server.asked) == asked
    assert second["cost"] == {"requests": 0, "tokens": 0, "kept_replies": asked}
    assert second["units"] == first["units"]
    assert second["judge"]["revision"].startswith("sha256:")


def test_a_budget_stops_it_and_writes_no_judgement(
    vlmed: Vlmed, run: Path, suite: Path, server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLMED_ENDPOINT_BUDGET", "requests=3")
    told = vlmed("judge", run, "--judge", server.ref, "--suite", suite, "--passes", 1)
    assert told.code == 2
    assert "budget" in told.err
    assert len(server.asked) == 3
    assert not (run / "judgement.json").exists()


@pytest.mark.parametrize("ref", ["hf:org/model", "control:random", "dir:."])
def test_a_judge_that_is_no_endpoint_is_refused(vlmed: Vlmed, run: Path, suite: Path, ref: str) -> None:
    told = vlmed("judge", run, "--judge", ref, "--suite", suite)
    assert told.code == 2
    assert "endpoint:URL#MODEL" in told.err


def test_an_unknown_judge_is_refused(vlmed: Vlmed, run: Path, suite: Path, server: JudgeServer) -> None:
    told = vlmed("judge", run, "--judge", f"endpoint:{server.url}#org/judgy", "--suite", suite)
    assert told.code == 2
    assert "org/judge" in told.err


def test_three_passes_are_refused(vlmed: Vlmed, run: Path) -> None:
    assert vlmed("judge", run, "--judge", "endpoint:http://x/v1#m", "--passes", 3).code == 2


@pytest.mark.parametrize("command", ["judge", "errors"])
def test_a_folder_without_a_run_is_missed(vlmed: Vlmed, tmp_path: Path, suite: Path, command: str) -> None:
    more = ("--judge", "endpoint:http://x/v1#m") if command == "judge" else ()
    told = vlmed(command, tmp_path, *more, "--suite", suite)
    assert told.code == 3
    assert "no result here" in told.err


@pytest.mark.parametrize("command", ["judge", "errors"])
def test_another_suite_is_refused(vlmed: Vlmed, run: Path, command: str) -> None:
    more = ("--judge", "endpoint:http://x/v1#m") if command == "judge" else ()
    told = vlmed(command, run, *more)
    assert told.code == 2
    assert "asked@1" in told.err


def test_errors_are_told_as_a_table_and_as_json(vlmed: Vlmed, run: Path, suite: Path) -> None:
    (unit,) = json.loads(vlmed("errors", run, "--suite", suite, "--json").out)
    told = vlmed("errors", run, "--suite", suite)
    assert told.code == 0, told.err
    assert f"{unit['wrong']} of {unit['n']} answers are wrong" in told.out
    assert sum(each["n"] for each in unit["classes"]) == unit["wrong"] > 0
    assert {each["family"] for each in unit["classes"]} >= {"language", "cross-modal", "medical reasoning"}
    for each in unit["classes"]:
        assert each["class"] in told.out
        assert each["share"]["value"] == pytest.approx(each["n"] / unit["wrong"], abs=1e-6)


def test_errors_by_a_judge_need_one(vlmed: Vlmed, run: Path, suite: Path) -> None:
    told = vlmed("errors", run, "--suite", suite, "--judged")
    assert told.code == 3
    assert "vlmed judge" in told.err
