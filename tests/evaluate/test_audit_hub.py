"""From the Hub to a verdict by the commands alone: run, submit, audit; honest runs are confirmed, forged ones not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import factories
from families import TRACKS, checkpoint, publish
from hub_server import HubServer, local_hub
from vlmed.cli import app
from vlmed.errors import InputError, UsageError
from vlmed.files import write_json
from vlmed.hashing import file_hash
from vlmed.results.predictions import (
    AnswerPredictions,
    ClassificationPredictions,
    Predictions,
    RetrievalPredictions,
    read_predictions,
    write_predictions,
)
from vlmed.results.score import score
from vlmed.suite.load import load_suite
from vlmed.suite.types import Suite


@pytest.fixture(scope="module")
def suite_file(small_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small suite with one penalty and short answers."""
    tree: dict[str, Any] = yaml.safe_load(small_suite.read_text())
    del tree["tasks"]["side@1"]
    tree["tracks"]["linear_probe@1"]["recipe"]["penalties"] = [1.0]
    tree["tracks"]["zero_shot_vqa@1"]["recipe"]["max_tokens"] = 4
    path = tmp_path_factory.mktemp("suite") / "tasks.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def suite(suite_file: Path) -> Suite:
    return load_suite(suite_file)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with local_hub(tmp_path_factory.mktemp("hub")) as server:
        yield server


Command = Callable[..., Any]


@pytest.fixture(scope="module")
def vlmed(suite_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    cache = tmp_path_factory.mktemp("cache")

    def call(*words: object) -> Any:
        command = [*map(str, words), "--suite", str(suite_file)]
        return CliRunner(env={"VLMED_CACHE": str(cache)}).invoke(app, command)

    return call


@pytest.fixture(scope="module")
def submissions(hub: HubServer, vlmed: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dual encoder, the same in bf16, an adapter on it, and a generator, each submitted from the Hub."""
    root = tmp_path_factory.mktemp("published")
    clip, llava = (f"{repository}@{commit}" for repository, commit in (publish(hub, "clip"), publish(hub, "llava")))
    lora = factories.lora(root / "lora", checkpoint("clip"), targets=["q_proj", "v_proj"], base_ref=clip)
    hub.add("org/lora", lora)
    for name, model, tracks, options in (
        ("clip", clip, TRACKS["clip"], ()),
        ("fast", clip, ["zero_shot"], ("--precision", "bf16")),
        ("adapted", clip, ["zero_shot"], ("--adapter", "org/lora")),
        ("generator", llava, TRACKS["llava"], ()),
    ):
        chosen = ("--tracks", ",".join(tracks), "--tasks", "lesion,report,asked", *options)
        ran = vlmed("run", "--model", model, "--out", root / name, *chosen)
        assert ran.exit_code == 0, ran.output + repr(ran.exception)
        words = ("--org", "lab", "--model", name, "--licence", "mit", "--to", root / "submissions")
        assert vlmed("submit", root / name, *words).exit_code == 0
    return root / "submissions"


@pytest.fixture
def copy(submissions: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A run's folder among submissions of its own, which may be changed."""
    return lambda name: Path(shutil.copytree(submissions / f"lab__{name}/1", tmp_path / f"submissions/lab__{name}/1"))


def audited(vlmed: Command, run: Path, *options: object) -> tuple[int, dict[str, Any]]:
    """Exit code, and the record that was written."""
    said = vlmed("audit", run, "--auditor", "Ada", "--samples", 64, "--seed", 7, *options)
    assert said.exit_code in (0, 1), repr(said.exception)
    (record,) = (run / "audits").iterdir()
    assert said.output.splitlines()[-1] == f"{json.loads(record.read_text())['verdict']}: {record}"
    return said.exit_code, json.loads(record.read_text())


@pytest.mark.parametrize(
    ("name", "tracks"),
    [
        ("clip", {"zero_shot", "linear_probe", "zero_shot_retrieval", "zero_shot_vqa"}),
        ("fast", {"zero_shot"}),
        ("adapted", {"zero_shot"}),
        ("generator", {"zero_shot_choice", "zero_shot_vqa"}),
    ],
)
def test_an_honest_run_is_confirmed_and_shown_as_verified(
    vlmed: Command, copy: Callable[[str], Path], name: str, tracks: set[str]
) -> None:
    run = copy(name)
    code, record = audited(vlmed, run)
    assert (code, record["verdict"]) == (0, "confirmed")
    assert {unit["unit"].split(".")[1].removesuffix("-v1") for unit in record["units"]} == tracks
    assert all(unit["compared"] >= 10 and not unit["differing"] for unit in record["units"])
    assert vlmed("validate", run).exit_code == 0
    site = run.parents[2] / "site"
    assert vlmed("leaderboard", "build", run.parents[1], "--out", site).exit_code == 0
    assert '<span class="verified">verified</span>' in (site / f"models/lab__{name}.html").read_text()


def test_the_precision_of_the_run_decides_how_it_is_repeated_and_what_may_differ(
    vlmed: Command, copy: Callable[[str], Path]
) -> None:
    run = copy("fast")
    _, record = audited(vlmed, run)
    assert record["environment"]["precision"] == "bf16"
    assert {unit["tolerance"] for unit in record["units"]} == {0.04}
    # Of float32 again it would be 0.003.
    assert all(unit["largest_difference"] < 1e-4 for unit in record["units"])
    _, exact = audited(vlmed, copy("adapted"))
    assert {unit["tolerance"] for unit in exact["units"]} == {0.02}


# Forgeries


def forge(run: Path, unit: str, suite: Suite, share: float) -> None:
    """Make a share of a unit's predictions right, recompute what is claimed of them and sign it."""
    result = json.loads((run / "result.json").read_text())
    claim = next(one for one in result["units"] if one["unit"] == unit)
    task, file = suite.tasks[claim["task"]], run / claim["predictions"]["file"]
    write_predictions(file, righted(read_predictions(file, task), share))
    claim["predictions"]["sha256"] = file_hash(file)
    claim["scores"] = score(task, read_predictions(file, task), None)
    write_json(run / "result.json", result)


def righted(made: Predictions, share: float) -> Predictions:
    count = int(np.ceil(share * len(made.sample_ids)))
    if isinstance(made, ClassificationPredictions):
        values = made.probabilities.copy()
        values[:count] = 0.05 / (values.shape[1] - 1)
        values[np.arange(count), made.targets[:count]] = 0.95
        return replace(made, probabilities=values)
    if isinstance(made, AnswerPredictions):
        return replace(made, answers=[*made.targets[:count], *made.answers[count:]])
    assert isinstance(made, RetrievalPredictions)
    found, first = made.image_to_text, range(count)
    top = [(made.sample_ids[row], *(each for each in found.top[row] if each != made.sample_ids[row]))[:10]
           for row in first]  # fmt: skip
    ranks, strict = found.ranks.copy(), found.strict_ranks.copy()
    ranks[:count] = strict[:count] = 1
    return replace(made, image_to_text=replace(found, ranks=ranks, strict_ranks=strict, top=[*top, *found.top[count:]]))


@pytest.mark.parametrize(
    ("name", "unit", "share"),
    [
        ("clip", "lesion-v1.zero_shot-v1.s0.f100", 0.05),
        ("clip", "lesion-v1.linear_probe-v1.s0.f100", 0.05),
        ("clip", "report-v1.zero_shot_retrieval-v1.s0.f100", 0.5),
        ("adapted", "lesion-v1.zero_shot-v1.s0.f100", 0.05),
        ("generator", "lesion-v1.zero_shot_choice-v1.s0.f100", 0.05),
        ("generator", "asked-v1.zero_shot_vqa-v1.s0.f100", 0.5),
    ],
)
def test_predictions_that_are_not_the_models_are_found_though_they_validate(
    vlmed: Command, copy: Callable[[str], Path], suite: Suite, name: str, unit: str, share: float
) -> None:
    run = copy(name)
    forge(run, unit, suite, share)
    said = vlmed("validate", run)
    assert said.exit_code == 0, said.output
    code, record = audited(vlmed, run)
    assert (code, record["verdict"]) == (1, "contradicted")
    assert [one["unit"] for one in record["units"] if one["verdict"] == "contradicted"] == [unit]
    assert vlmed("validate", run).exit_code == 0, "the record itself is sound"
    assert f"look at this: {unit}: " in vlmed("validate", run).output


def test_an_adapter_that_was_left_out_is_found(vlmed: Command, copy: Callable[[str], Path]) -> None:
    run = copy("adapted")
    result = json.loads((run / "result.json").read_text())
    result["model"]["adapter"] = None
    write_json(run / "result.json", result)
    assert audited(vlmed, run)[1]["verdict"] == "contradicted"


# What can't be audited


@pytest.mark.parametrize("what", ["model", "adapter"])
def test_a_revision_that_is_gone_is_told_and_nothing_is_written(
    vlmed: Command, copy: Callable[[str], Path], what: str
) -> None:
    run = copy("adapted")
    result = json.loads((run / "result.json").read_text())
    (result["model"] if what == "model" else result["model"]["adapter"])["revision"] = "f" * 40
    write_json(run / "result.json", result)
    said = vlmed("audit", run, "--auditor", "Ada")
    assert isinstance(said.exception, UsageError)
    assert "f" * 40 in str(said.exception)
    assert not (run / "audits").exists()


def test_a_repository_that_is_gone_is_told(vlmed: Command, copy: Callable[[str], Path], hub: HubServer) -> None:
    run = copy("clip")
    result = json.loads((run / "result.json").read_text())
    result["model"]["ref"] = "org/gone"
    write_json(run / "result.json", result)
    said = vlmed("audit", run, "--auditor", "Ada")
    assert isinstance(said.exception, UsageError)
    assert "org/gone" in str(said.exception)
    assert not (run / "audits").exists()


@pytest.mark.parametrize(("precision", "error"), [("int3", InputError), ("fp16", UsageError)])
def test_a_precision_that_is_none_or_that_the_device_lacks_is_told(
    vlmed: Command, copy: Callable[[str], Path], precision: str, error: type[Exception]
) -> None:
    run = copy("fast")
    result = json.loads((run / "result.json").read_text())
    result["environment"]["precision"] = precision
    write_json(run / "result.json", result)
    said = vlmed("audit", run, "--auditor", "Ada")
    assert isinstance(said.exception, error)
    assert precision in str(said.exception)
