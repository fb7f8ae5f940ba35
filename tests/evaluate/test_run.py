"""From a model reference to a validated result, through the public classes and the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

import factories
from vlmed.data.load import DataLoader
from vlmed.errors import UsageError
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, plan
from vlmed.models.load import load_model
from vlmed.results.predictions import ClassificationPredictions, read_predictions
from vlmed.results.validate import validate_run
from vlmed.suite.load import load_suite
from vlmed.suite.types import Suite, Task

TRACKS = ("zero_shot", "linear_probe")


def evaluate(
    suite: Suite, model: str, out: Path, cache: Path, tasks: Sequence[str] = ("lesion",), **options: Any
) -> tuple[Path, list[tuple[str, str]]]:
    """Run a model; gives the run folder and what was reported."""
    told: list[tuple[str, str]] = []
    loaded = load_model(model, options.get("adapter"))
    runner = Runner(suite, loaded, DataLoader(options.get("root"), cache=cache), batch_size=16)
    units = plan(suite, tasks, options.get("tracks", TRACKS))
    runner.run(units, RunFolder(out), lambda unit, state: told.append((unit.id, state)))
    return out, told


def classified(path: Path, task: Task) -> ClassificationPredictions:
    stored = read_predictions(path, task)
    assert isinstance(stored, ClassificationPredictions)
    return stored


def metrics(run: Path) -> Any:
    return [unit["scores"] for unit in json.loads((run / "result.json").read_text())["units"]]


def prediction_bytes(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "predictions").iterdir())}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(suite: Suite, open_clip_model: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, _ = evaluate(suite, f"dir:{open_clip_model}", tmp_path_factory.mktemp("runs") / "run", cache)
    return folder


def test_a_run_validates(run: Path, suite: Suite) -> None:
    report = validate_run(run, suite)
    assert report.accepted, report.problems
    assert report.recomputed == 12


def test_zero_shot_is_what_open_clip_itself_gives(run: Path, suite: Suite, open_clip_model: Path, cache: Path) -> None:
    task = suite.task("lesion")
    stored = classified(run / "predictions" / "lesion-v1.zero_shot-v1.s0.f100.parquet", task)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{open_clip_model}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{open_clip_model}")
    loader = DataLoader(cache=cache)
    samples, images = loader.table(task).split("test"), loader.dataset(task.dataset)
    model.eval()
    with torch.no_grad():
        pixels = torch.stack([preprocess(images.image(sample.image)) for sample in samples])
        features = model.encode_image(pixels, normalize=True)
        prompts = [task.prompts["vlmed"][spec.name] for spec in task.classes]
        means = torch.stack([model.encode_text(tokenize(list(texts)), normalize=True).mean(0) for texts in prompts])
        classifier = torch.nn.functional.normalize(means, dim=-1)
        expected = (model.logit_scale.exp() * features @ classifier.T).softmax(-1).numpy()
    np.testing.assert_allclose(stored.probabilities, expected, atol=2e-6)
    assert list(stored.sample_ids) == sorted(sample.id for sample in samples)
    assert stored.by_template.shape == (len(samples), 9, 5)


def test_two_runs_are_byte_identical(run: Path, suite: Suite, open_clip_model: Path, tmp_path: Path) -> None:
    again, _ = evaluate(suite, f"dir:{open_clip_model}", tmp_path / "again", tmp_path / "fresh-cache")
    assert prediction_bytes(again) == prediction_bytes(run)
    assert metrics(again) == metrics(run)


def test_finished_units_are_not_repeated(run: Path, suite: Suite, open_clip_model: Path, cache: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "predictions").iterdir()}
    _, told = evaluate(suite, f"dir:{open_clip_model}", run, cache)
    assert [state for _, state in told] == ["finished before"] * 2
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_unit_whose_files_were_touched_is_done_again(
    suite: Suite, open_clip_model: Path, cache: Path, tmp_path: Path
) -> None:
    folder, _ = evaluate(suite, f"dir:{open_clip_model}", tmp_path / "run", cache)
    good = prediction_bytes(folder)
    for path in (folder / "predictions").iterdir():
        path.write_bytes(b"damaged")
    _, told = evaluate(suite, f"dir:{open_clip_model}", folder, cache)
    assert [state for _, state in told] == ["done"] * 2
    assert prediction_bytes(folder) == good


def test_features_are_shared_between_tracks(run: Path) -> None:
    first, second = json.loads((run / "result.json").read_text())["units"]
    images = {unit["track"]: unit["cost"]["images"] for unit in (first, second)}
    test = first["predictions"]["rows"]
    assert images["zero_shot@1"] == test
    # The probe embeds train and val; the test images come from the cache.
    assert 0 < images["linear_probe@1"] <= 120 - test


def test_controls_know_nothing_or_everything(suite: Suite, cache: Path, tmp_path: Path) -> None:
    auc = {}
    for name in ("majority", "random", "oracle"):
        folder, _ = evaluate(suite, f"control:{name}", tmp_path / name, cache, tracks=("zero_shot",))
        assert validate_run(folder, suite).accepted
        auc[name] = metrics(folder)[0]["metrics"]["all"]["auc"]
    assert auc["oracle"]["value"] == 1.0
    assert auc["majority"]["value"] == 0.5
    assert auc["random"]["low"] < 0.5 < auc["random"]["high"]


def test_a_blank_image_gives_every_sample_the_same(
    suite: Suite, open_clip_model: Path, cache: Path, tmp_path: Path
) -> None:
    folder, _ = evaluate(suite, f"control:blank/dir:{open_clip_model}", tmp_path / "b", cache, tracks=("zero_shot",))
    (file,) = (folder / "predictions").iterdir()
    probabilities = classified(file, suite.task("lesion")).probabilities
    assert np.ptp(probabilities, axis=0).max() < 1e-6
    assert metrics(folder)[0]["metrics"]["all"]["auc"]["value"] == pytest.approx(0.5, abs=0.15)


def test_an_image_only_model_can_be_probed_but_not_asked(suite: Suite, cache: Path, tmp_path: Path) -> None:
    model = factories.tiny_vit(tmp_path / "vit")
    folder, _ = evaluate(suite, f"dir:{model}", tmp_path / "probe", cache, tracks=("linear_probe",))
    assert validate_run(folder, suite).accepted
    with pytest.raises(UsageError, match=r"embeds images and no texts"):
        evaluate(suite, f"dir:{model}", tmp_path / "zero", cache, tracks=("zero_shot",))
    assert not (tmp_path / "zero").exists()


def test_a_folder_with_another_run_is_refused(run: Path, suite: Suite, cache: Path, tmp_path: Path) -> None:
    before = prediction_bytes(run)
    with pytest.raises(UsageError, match="holds another run"):
        evaluate(suite, "control:random", run, cache)
    assert prediction_bytes(run) == before
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="holds other files"):
        evaluate(suite, "control:random", tmp_path, cache)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def command(suite: Path, model: str, out: Path, cache: Path) -> list[str]:
    code = "import sys; from vlmed.cli import main; sys.argv[0] = 'vlmed'; main()"
    options = ["--tasks", "lesion,side", "--tracks", "zero_shot,linear_probe", "--batch-size", "4"]
    return [sys.executable, "-c", code, "run", "--suite", str(suite), "--model", model, "--out", str(out), *options]


def test_kill_9_and_run_again_gives_the_same_bytes(small_suite: Path, open_clip_model: Path, tmp_path: Path) -> None:
    def start(out: Path, cache: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command(small_suite, f"dir:{open_clip_model}", out, cache),
            env=os.environ | {"VLMED_CACHE": str(cache)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    whole = start(tmp_path / "whole", tmp_path / "cache-1")
    killed = start(tmp_path / "killed", tmp_path / "cache-2")
    done = tmp_path / "killed" / "units"
    deadline = time.monotonic() + 120
    while not (done.exists() and any(done.glob("*.json"))) and time.monotonic() < deadline and killed.poll() is None:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in done.glob("*.json")}
    assert finished, "the run was to be killed after its first unit"
    assert not (tmp_path / "killed" / "result.json").exists(), "the run was to be killed before its end"
    resumed = start(tmp_path / "killed", tmp_path / "cache-2")
    said = resumed.communicate()[1].decode()
    assert whole.wait() == 0
    assert resumed.returncode == 0, said
    assert said.count("finished before") == len(finished)
    for name, when in finished.items():
        assert (done / name).stat().st_mtime_ns == when
    assert prediction_bytes(tmp_path / "killed") == prediction_bytes(tmp_path / "whole")
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert validate_run(tmp_path / "killed", load_suite(small_suite)).accepted


def test_real_breastmnist_zero_shot_and_probe(shared_data: Path, open_clip_model: Path, tmp_path: Path) -> None:
    suite = load_suite()
    folder, _ = evaluate(
        suite, f"dir:{open_clip_model}", tmp_path / "run", tmp_path / "cache", ["breastmnist"], root=shared_data
    )
    report = validate_run(folder, suite)
    assert report.accepted, report.problems
    probe, zero_shot = metrics(folder)
    assert probe["n"]["all"] == zero_shot["n"]["all"] == 156
    # Even random convolutions see something in an ultrasound; a probe on them beats prompts that mean nothing.
    assert probe["metrics"]["all"]["auc"]["value"] > 0.6
