"""Generators and endpoints through the formats of all four VQA data sets: `vlmed run`, then `vlmed validate`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from vqa_formats import MADE, REAL, made_data, small_vqa_suite

from endpoint_server import EndpointServer
from families import checkpoint
from vlmed.cli import main
from vlmed.data.load import DataLoader
from vlmed.data.questions import questions
from vlmed.evaluate.answer import prompt
from vlmed.hashing import pixel_hash
from vlmed.results.predictions import AnswerPredictions, read_predictions
from vlmed.suite.load import load_suite
from vlmed.suite.types import Suite

MODELS = ("llava", "qwen", "endpoint")
NAME = "org/tiny"

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def suite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_vqa_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def suite(suite_file: Path) -> Suite:
    return load_suite(suite_file)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def vlmed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path) -> Callable[..., str]:
    """Run a command in this process and give what it printed."""

    def call(*arguments: object) -> str:
        monkeypatch.setenv("VLMED_CACHE", str(cache))
        monkeypatch.setattr(sys, "argv", ["vlmed", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert not ended.value.code, said.err
        return said.out

    return call


@pytest.fixture
def evaluated(vlmed: Callable[..., str], suite_file: Path, tmp_path: Path) -> Run:
    """A model through tasks, validated by its own command -> the units of its result, by task."""

    def run(ref: str, tasks: tuple[str, ...], root: Path) -> dict[str, Any]:
        out = tmp_path / "run"
        vlmed("run", "--model", ref, "--tasks", ",".join(tasks), "--tracks", "zero_shot_vqa", "--suite", suite_file,
              "--data-root", root, "--out", out)  # fmt: skip
        (facts,) = json.loads(vlmed("validate", out, "--suite", suite_file, "--json"))
        assert facts["accepted"], facts
        units = json.loads((out / "result.json").read_text("utf-8"))["units"]
        return {unit["task"].partition("@")[0]: unit for unit in units}

    return run


@contextmanager
def reference(model: str) -> Iterator[str]:
    """How a model is named, as long as it is there."""
    if model != "endpoint":
        yield f"dir:{checkpoint(model)}"
        return
    with EndpointServer([NAME]) as server:
        yield f"endpoint:{server.url}#{NAME}"


def check_unit(unit: dict[str, Any], suite: Suite, loader: DataLoader, run: Path) -> AnswerPredictions:
    """Each question of the test split stands in the file with its own target, and the counts are those of the data."""
    task = suite.task(unit["task"])
    table = loader.table(task)
    samples = table.split("test")
    asked = questions(table, samples)
    found = read_predictions(run / unit["predictions"]["file"], task)
    assert isinstance(found, AnswerPredictions)
    assert dict(zip(found.sample_ids, found.targets, strict=True)) == {each.id: each.target for each in samples}
    closed = {each.id: bool(asked[each.id].candidates) for each in samples}
    assert dict(zip(found.sample_ids, found.closed.tolist(), strict=True)) == closed
    n = unit["scores"]["n"]
    assert (n["all"], n["closed"], n["open"]) == (
        len(samples),
        sum(closed.values()),
        len(samples) - sum(closed.values()),
    )
    assert 0 <= n["unparsed"] <= n["all"]
    assert n["closed"] and n["open"]
    assert all(0 <= metric["value"] <= 1 for metric in unit["scores"]["metrics"]["all"].values())
    return found


def check_sees(found: AnswerPredictions, suite: Suite, loader: DataLoader, task: str, model: str) -> None:
    """The endpoint repeats what arrived: the frozen prompt and every pixel. A tiny model's answers differ by image."""
    table, images = loader.table(suite.task(task)), loader.dataset(suite.task(task).dataset)
    samples = table.split("test")
    said = dict(zip(found.sample_ids, found.answers, strict=True))
    if model != "endpoint":
        assert len(set(said.values())) > len({each.text for each in questions(table, samples).values()}) / 2
        return
    recipe, asked = suite.track("zero_shot_vqa").recipe, questions(table, samples)
    for sample in samples:
        pixels = pixel_hash(images.image(sample.image).convert("RGB"))
        assert said[sample.id] == f"{prompt(asked[sample.id], recipe)} | {pixels}"


def check(units: dict[str, Any], suite: Suite, loader: DataLoader, run: Path, model: str) -> None:
    for task, unit in units.items():
        check_sees(check_unit(unit, suite, loader, run), suite, loader, task, model)


@pytest.mark.parametrize("model", [*MODELS, "llava_original"])
def test_layouts_made_here(model: str, evaluated: Run, suite: Suite, made: Path, cache: Path, tmp_path: Path) -> None:
    with reference(model) as ref:
        units = evaluated(ref, MADE, made)
    assert units.keys() == set(MADE)
    check(units, suite, DataLoader(made, cache=cache), tmp_path / "run", model)


@pytest.mark.parametrize("model", MODELS)
def test_real_releases(
    model: str, evaluated: Run, suite: Suite, shared_data: Path, cache: Path, tmp_path: Path
) -> None:
    with reference(model) as ref:
        units = evaluated(ref, REAL, shared_data)
    assert units.keys() == set(REAL)
    check(units, suite, DataLoader(shared_data, cache=cache), tmp_path / "run", model)


# --- a server that is killed ---

_SERVE = """
import sys
from endpoint_server import EndpointServer

port, journal = int(sys.argv[1]), open(sys.argv[2], "a", buffering=1, encoding="utf-8")

class Journal(list):
    def append(self, asked):
        journal.write(" | ".join(map(str, asked)).replace(chr(10), " ") + chr(10))

class Fixed(EndpointServer):
    def start(self):
        self.port = port
        self.answered = Journal()
        super().start()

with Fixed(["org/tiny"], latency=0.02, capacity=2):
    print("ready", flush=True)
    sys.stdin.read()
"""


def serve(port: int, journal: Path) -> subprocess.Popen[str]:
    """A server of its own process; each line of the journal is a request that it answered in full."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(port), str(journal)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def lines(journal: Path) -> list[str]:
    return journal.read_text("utf-8").splitlines() if journal.exists() else []


def test_a_killed_server_loses_nothing_and_is_asked_nothing_twice(
    suite_file: Path, suite: Suite, made: Path, tmp_path: Path
) -> None:
    """The server's process is killed with requests under way, and another takes its port while the run goes on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    journal, out, cache = tmp_path / "journal", tmp_path / "run", tmp_path / "cache"
    command = ["run", "--model", f"endpoint:http://127.0.0.1:{port}/v1#{NAME}", "--tasks", ",".join(MADE), "--tracks",
               "zero_shot_vqa", "--suite", suite_file, "--data-root", made, "--out", out]  # fmt: skip
    server = serve(port, journal)
    environment = os.environ | {"VLMED_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen([sys.executable, "-m", "vlmed", *map(str, command)], env=environment)
    try:
        while len(lines(journal)) < 6:
            assert run.poll() is None
            time.sleep(0.005)
        server.send_signal(signal.SIGKILL)
        server.wait()
        before = lines(journal)
        time.sleep(0.1)
        server = serve(port, journal)
        assert run.wait(300) == 0
    finally:
        for process in (run, server):
            process.kill()
            process.wait()
    loader = DataLoader(made, cache=cache)
    units = json.loads((out / "result.json").read_text("utf-8"))["units"]
    answers: list[str] = []
    for unit in units:
        found = check_unit(unit, suite, loader, out)
        check_sees(found, suite, loader, unit["task"].partition("@")[0], "endpoint")
        answers += [answer.replace("\n", " ") for answer in found.answers]
    assert 0 < len(before) < len(answers)
    assert Counter(lines(journal)) == Counter(answers)
