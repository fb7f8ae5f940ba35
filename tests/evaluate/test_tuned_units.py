"""Tuned tracks from a model reference to a validated result, and what they leave behind."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from vlmed.data.load import DataLoader
from vlmed.data.prepare import PreparedDataset
from vlmed.evaluate import tuned
from vlmed.evaluate.estimate import estimate
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, plan
from vlmed.hashing import file_hash
from vlmed.models.load import load_model
from vlmed.results.predictions import ClassificationPredictions, read_predictions
from vlmed.results.validate import validate_run
from vlmed.suite.load import load_suite
from vlmed.suite.types import Suite

SHORT = {"epochs": 2, "patience": 2, "lr": [0.01], "batch_size": 16}
TUNED = ("lora", "lora_linear", "partial", "partial_linear", "full", "full_linear")


@pytest.fixture(scope="module")
def quick(small_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """The small suite with its tuned tracks cut to two epochs."""
    tree: dict[str, Any] = yaml.safe_load(small_suite.read_text())
    for key, track in tree["tracks"].items():
        if key.split("@")[0] in TUNED:
            track["recipe"] |= SHORT
    path = tmp_path_factory.mktemp("quick") / "tasks.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_suite(path)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(quick: Suite, open_clip_model: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Every tuned track, once, with what was tuned."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "tuned")
    evaluate(quick, f"dir:{open_clip_model}", folder, cache, ",".join(TUNED), keep_weights=True)
    return folder


def evaluate(suite: Suite, ref: str, folder: RunFolder, cache: Path, tracks: str, **options: Any) -> Runner:
    model = load_model(ref, options.get("adapter"))
    runner = Runner(suite, model, DataLoader(cache=cache), 16, options.get("keep_weights", False))
    seeds = options.get("seeds", [0])
    units = plan(suite, ["lesion"], tracks.split(","), options.get("fractions", [1.0]), seeds)
    runner.run(units, folder, lambda unit, state: None)
    report = validate_run(folder.path, suite)
    assert report.accepted, report.problems
    return runner


def units_of(folder: RunFolder) -> dict[str, Any]:
    tree = json.loads((folder.path / "result.json").read_text())
    return {unit["track"].split("@")[0]: unit for unit in tree["units"]}


def probabilities(suite: Suite, folder: RunFolder, track: str) -> Any:
    stored = read_predictions(folder.path / units_of(folder)[track]["predictions"]["file"], suite.task("lesion"))
    assert isinstance(stored, ClassificationPredictions)
    return stored.probabilities


@pytest.mark.parametrize("track", TUNED)
def test_every_tuned_track_proves_that_it_trained(run: RunFolder, track: str) -> None:
    told = units_of(run)[track]["recipe_outcome"]
    assert told["changed_tensors"] > 0
    assert 0 < told["changed_parameters"] <= told["trained_parameters"]
    assert any(name.startswith("moved: ") and moved > 0 for name, moved in told.items() if name != "notes")
    assert units_of(run)[track]["cost"]["training"] == told["samples_seen"] * told["trained_parameters"]


def test_scopes_train_more_and_more(run: RunFolder) -> None:
    trained = {name: unit["recipe_outcome"]["trained_parameters"] for name, unit in units_of(run).items()}
    assert trained["lora"] < trained["partial"] < trained["full"]


def test_tracks_differ_and_the_model_is_put_back(
    run: RunFolder, quick: Suite, open_clip_model: Path, cache: Path, tmp_path: Path
) -> None:
    seen = {track: probabilities(quick, run, track).tobytes() for track in TUNED}
    assert len(set(seen.values())) == len(TUNED)
    model = load_model(f"dir:{open_clip_model}")
    encoder: Any = model.predictor
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = encoder.encode_images(pixels)
    runner = Runner(quick, model, DataLoader(cache=cache), 16)
    runner.run(plan(quick, ["lesion"], ["full"]), RunFolder(tmp_path / "run"), lambda unit, state: None)
    with torch.inference_mode():
        assert torch.equal(encoder.encode_images(pixels), before)


@pytest.mark.parametrize("track", ["lora", "partial"])
def test_what_was_tuned_runs_again_and_predicts_the_same(
    run: RunFolder, quick: Suite, open_clip_model: Path, cache: Path, tmp_path: Path, track: str
) -> None:
    (weights,) = (run.path / "weights").glob(f"*.{track}-v1.*")
    # Prompts are its classifier, so that zero-shot with the tuned weights is the tuned unit.
    base, adapter = (f"dir:{open_clip_model}", f"dir:{weights}") if track == "lora" else (f"dir:{weights}", None)
    evaluate(quick, base, again := RunFolder(tmp_path / "again"), cache, "zero_shot", adapter=adapter)
    np.testing.assert_allclose(probabilities(quick, again, "zero_shot"), probabilities(quick, run, track), atol=1e-4)
    assert "vlmed" in (weights / "README.md").read_text()


@pytest.mark.parametrize("track", ["lora", "full_linear"])
def test_kept_pixels_change_no_weight_and_nothing_is_decoded_again(
    run: RunFolder, quick: Suite, open_clip_model: Path, cache: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, track: str,
) -> None:  # fmt: skip
    decoded = Counter[str]()
    image = PreparedDataset.image

    def counting(dataset: PreparedDataset, name: str) -> Any:
        decoded[name] += 1
        return image(dataset, name)

    monkeypatch.setattr(PreparedDataset, "image", counting)
    weights = {}
    for kind, gib in (("kept", "16"), ("decoded", "0")):
        monkeypatch.setenv("VLMED_PIXELS_GIB", gib)
        folder = RunFolder(tmp_path / kind)
        evaluate(quick, f"dir:{open_clip_model}", folder, cache, track, keep_weights=True)
        weights[kind] = tensors(folder)
        assert bool(decoded) == (kind == "decoded")
    assert set(decoded.values()) == {1}
    assert weights["kept"] == weights["decoded"]
    assert weights["kept"].items() <= tensors(run).items()


def tensors(folder: RunFolder) -> dict[str, str]:
    """The hash of every file of weights that a run kept."""
    return {
        path.relative_to(folder.path).as_posix(): file_hash(path)
        for path in (folder.path / "weights").rglob("*.safetensors")
    }


def test_a_log_is_kept(run: RunFolder) -> None:
    (path,) = (run.path / "training").glob("*.lora-v1.*")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert all(row["lr"] == 0.01 for row in rows)
    assert not (run.path / "scratch").exists()


def test_seeds_and_shares_are_units_of_their_own(
    quick: Suite, open_clip_model: Path, cache: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    evaluate(quick, f"dir:{open_clip_model}", folder, cache, "lora_linear", fractions=[0.25, 1.0], seeds=[0, 1])
    units = json.loads((folder.path / "result.json").read_text())["units"]
    assert len({unit["predictions"]["sha256"] for unit in units}) == 4
    seen = {(unit["fraction"], unit["seed"]): unit["recipe_outcome"]["train_samples"] for unit in units}
    assert seen[0.25, 0] == seen[0.25, 1] < seen[1.0, 0] == seen[1.0, 1]


def test_a_killed_training_goes_on_to_the_same_predictions(
    run: RunFolder, quick: Suite, open_clip_model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ended = RunFolder(tmp_path / "run"), 0

    def dying(path: Path) -> Path:
        nonlocal ended
        ended += 1
        if ended == 1:
            raise KeyboardInterrupt
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    monkeypatch.setattr(tuned, "_made", dying)
    with pytest.raises(KeyboardInterrupt):
        evaluate(quick, f"dir:{open_clip_model}", folder, cache, "lora")
    assert list((folder.path / "scratch").rglob("trial-0.pt"))
    evaluate(quick, f"dir:{open_clip_model}", folder, cache, "lora")
    assert np.array_equal(probabilities(quick, folder, "lora"), probabilities(quick, run, "lora"))


def test_a_plan_tells_what_is_done_and_what_it_takes(
    run: RunFolder, quick: Suite, open_clip_model: Path, cache: Path
) -> None:
    model = load_model(f"dir:{open_clip_model}")
    runner = Runner(quick, model, DataLoader(cache=cache), 16)
    units = plan(quick, ["lesion"], ["lora", "linear_probe"], [1.0], [0, 1])
    probe, first, second = sorted(estimate(runner, units, run), key=lambda each: each.unit.id)
    assert (first.state, second.state) == ("finished", "to do")
    assert (first.seconds, second.training) == (0.0, 2 * len(runner.data.table(quick.task("lesion")).split("train")))
    assert second.seconds > 0
    assert probe.images <= 120
    assert probe.training == 0


def test_a_plan_counts_the_images_that_shares_of_the_training_data_embed(
    quick: Suite, open_clip_model: Path, tmp_path: Path
) -> None:
    runner = Runner(quick, load_model(f"dir:{open_clip_model}"), DataLoader(cache=tmp_path / "cache"), 16)
    folder = RunFolder(tmp_path / "run")
    units = plan(quick, ["lesion"], ["linear_probe", "zero_shot"], [0.25, 1.0], [0])
    planned = {each.unit.id: each.images for each in estimate(runner, units, folder)}
    runner.run(units, folder, lambda unit, state: None)
    tree = json.loads((folder.path / "result.json").read_text())
    assert planned == {unit["unit"]: unit["cost"]["images"] for unit in tree["units"]}
    assert len(set(planned.values())) > 1
    again = estimate(runner, units, RunFolder(tmp_path / "other"))
    assert {(each.images, each.state) for each in again} == {(0, "features cached")}
