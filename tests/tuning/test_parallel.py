"""Generators tuned by two processes of a real `torchrun`, against the same training by one."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import launched
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

import generator_factories
from asked_suite import asked_suite
from vlmed.cli import app
from vlmed.errors import UsageError
from vlmed.evaluate.ranks import Ranks
from vlmed.models.load import load_model
from vlmed.results.validate import validate_run
from vlmed.suite.load import load_suite
from vlmed.tuning.parallel import ALONE, World

SCRIPT = [launched.__file__]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
RECIPE = {
    "open": "{question}",
    "yes_no": "{question}\nAnswer with yes or no.",
    "choice": "{question}\nAnswer with one of: {candidates}.",
    "max_tokens": 4,
    "decoding": "greedy",
    "parts": ["projector", "language"],
    "lora_lr": 1e-3,
    "projector_lr": 1e-4,
    "epochs": 2,
    "batch_size": 16,
    "optimiser": "adamw",
    "schedule": "cosine",
    "patience": 2,
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
}
UNITS = ("asked-v1.zero_shot_vqa-v1.s0.f100", "asked-v1.sft-v1.s0.f100")


def launch(*words: object, **variables: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in variables.items()}}
    return subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=600, env=environment)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and a suite whose questions have a track that trains and one that doesn't."""
    home = tmp_path_factory.mktemp("home")
    generator_factories.tiny_llava(home / "model")
    tree = yaml.safe_load(asked_suite(home).read_text())
    tree["tracks"]["sft@1"] = {"title": "Tuned", "method": "sft", "recipe": RECIPE}
    tree["tasks"]["asked@1"]["tracks"].append("sft")
    (home / "tasks.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return home


@pytest.fixture(scope="module")
def alone(home: Path) -> Path:
    """What one process makes of all of it."""
    model = load_model(f"dir:{home / 'model'}")
    launched.train(model, ALONE, home)
    launched.run(Ranks(), model, home, None)
    return home


@pytest.fixture(scope="module")
def killed(home: Path) -> subprocess.CompletedProcess[str]:
    """Two processes train all cases; then the second one is killed in the second epoch of the run's tuned unit."""
    return launch(*TORCHRUN, *SCRIPT, "train", home, 1)


@pytest.fixture(scope="module")
def together(home: Path, killed: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """The same run taken up again, at the command line."""
    assert killed.returncode
    words = ["--suite", home / "tasks.yaml", "--model", f"dir:{home / 'model'}", "--tasks", "asked"]
    words += ["--tracks", "zero_shot_vqa,sft", "--seeds", 0, "--out", home / "run2", "--keep-weights"]
    return launch(*TORCHRUN, "-m", "vlmed", "run", *words, VLMED_CACHE=home / "cache")


def trained(home: Path, name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What one process made, and what each of two did."""
    alone, first, second = (torch.load(home / f"{name}.{which}.pt") for which in ("0of1", "0of2", "1of2"))
    return alone, first, second


def assert_close(log: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert len(log) == len(other)
    for one, two in zip(log, other, strict=True):
        assert one.keys() == two.keys()
        for key in ("epoch", "lr", "train_loss", "val_loss"):
            assert one[key] == (two[key] if two[key] is None else pytest.approx(two[key], rel=1e-5)), key


@pytest.mark.parametrize("name", ["all", "diverging"])
def test_two_processes_come_to_the_weights_of_one(name: str, alone: Path, killed: Any) -> None:
    one, *two = trained(alone, name)
    for each in two:
        assert_close(each["log"], one["log"])
        # A share may be padded less than the whole.
        assert 0.5 * one["cost"] < each["cost"] == two[0]["cost"] <= one["cost"]
        for key, value in one["weights"].items():
            torch.testing.assert_close(each["weights"][key], value, rtol=0, atol=1e-5, msg=key)
    assert any("2 processes" in note for note in two[0]["notes"])
    if name == "all":
        assert [each["log"][-1]["images_at_once"] for each in two] == [4, 1]
    else:
        assert all(any("learning rate 1e+30" in note for note in each["notes"]) for each in (one, *two))


@pytest.mark.parametrize("name", launched.CASES)
def test_the_processes_have_the_same_weights_to_the_bit(name: str, alone: Path, killed: Any) -> None:
    one, first, second = trained(alone, name)
    for key, value in first["weights"].items():
        assert torch.equal(value, second["weights"][key]), key
    assert any(not torch.equal(value, one["weights"][key]) for key, value in first["weights"].items())


def test_processes_with_other_data_are_refused(home: Path, killed: Any) -> None:
    told = [(home / f"refused.{rank}").read_text() for rank in (0, 1)]
    assert told[0] == told[1]
    assert "do not tune the same thing" in told[0]
    assert "process 1" in told[0]


def test_a_killed_process_ends_the_run_and_leaves_a_checkpoint(home: Path, killed: Any) -> None:
    assert killed.stdout.splitlines() == ["hello from 0", f"{UNITS[0]} done by the first process alone"]
    assert "SIGKILL" in killed.stderr
    assert killed.stderr.count("error: ") <= 1
    assert killed.returncode


def test_a_run_taken_up_by_two_is_that_of_one(alone: Path, together: subprocess.CompletedProcess[str]) -> None:
    home = alone
    assert together.returncode == 0, together.stderr
    assert [" ".join(line.split()) for line in together.stderr.splitlines() if "asked-v1" in line] == [
        f"{UNITS[0]}: finished before",
        f"{UNITS[1]}: done by 2 processes",
    ]
    assert together.stdout.splitlines() == [
        str(home / "run2" / "result.json"),
        f"next: vlmed validate {home / 'run2'}",
    ]
    suite = load_suite(home / "tasks.yaml")
    report = validate_run(home / "run2", suite)
    assert report.accepted, report.problems
    one, two = (json.loads((home / f"run{size}" / "result.json").read_text()) for size in (1, 2))
    assert (two["environment"]["executor"], two["environment"]["processes"]) == ("torch.distributed", "2")
    for mine, theirs in zip(one["units"], two["units"], strict=True):
        assert mine["predictions"]["sha256"] == theirs["predictions"]["sha256"]
        assert mine["scores"] == theirs["scores"]
    assert "2 processes" in two["units"][0]["recipe_outcome"]["notes"]
    assert not (home / "run2" / "scratch").exists()
    logs = [
        [json.loads(line) for line in (home / f"run{size}" / "training" / f"{UNITS[1]}.jsonl").read_text().splitlines()]
        for size in (1, 2)
    ]
    assert_close(*logs)
    adapters = [load_file(home / f"run{size}" / "weights" / UNITS[1] / "adapter_model.safetensors") for size in (1, 2)]
    assert adapters[0].keys() == adapters[1].keys()
    for key, value in adapters[0].items():
        torch.testing.assert_close(adapters[1][key], value, rtol=0, atol=1e-5, msg=key)


@pytest.fixture(scope="module")
def ready() -> Any:
    """What starts processes that have imported the libraries already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "vlmed.evaluate.ranks", "vlmed.tuning.parallel"])
    return context


@pytest.mark.parametrize("failing", [("1",), ("0", "1")])
def test_an_error_is_told_once(failing: tuple[str, ...], home: Path, tmp_path: Path, ready: Any) -> None:
    """Also without `torchrun`, by whatever sets its variables."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = ("fail", home, *failing)
    started = [ready.Process(target=launched.member, args=(rank, port, tmp_path, words)) for rank in (0, 1)]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
    assert all(process.exitcode for process in started)
    said = [[(tmp_path / f"{stream}.{rank}").read_text() for stream in ("out", "err")] for rank in (0, 1)]
    assert [out for out, _ in said] == ["hello from 0\n", ""]
    told = "".join(error for _, error in said)
    assert told.count("error:") == told.count(" fails") == 1
    assert "Traceback" not in told


# One process


@pytest.mark.parametrize("option", [["--plan"], ["--profile"], ["--executor", "ray"]])
def test_what_is_for_one_process_is_refused_by_several(
    option: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ["run", "--suite", f"{home}/tasks.yaml", "--model", f"dir:{home}/model", "--tasks", "asked"]
    several = CliRunner().invoke(app, [*words, "--tracks", "sft", *option])
    assert isinstance(several.exception, UsageError)
    assert "are for one process" in str(several.exception)
    assert "without torchrun" in several.exception.problems[0].hint


@pytest.mark.parametrize(("rows", "size"), [(7, 3), (1, 2), (0, 2), (16, 4)])
def test_shares_are_the_whole_in_order(rows: int, size: int) -> None:
    shares = [World(rank, size).share(np.arange(rows)) for rank in range(size)]
    assert np.concatenate(shares).tolist() == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ranks().device("cuda:1") == "cuda:1"
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [Ranks().device(name) for name in ("cpu", "cuda")] == ["cpu", "cuda:3"]
    with pytest.raises(UsageError, match="a GPU of its own"):
        Ranks().device("cuda:1")
