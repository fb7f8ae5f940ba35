"""A generator tuned on a task's questions, from a model reference to a validated result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import generator_factories
from vlmed.data.load import DataLoader
from vlmed.data.questions import questions
from vlmed.errors import InputError, UsageError
from vlmed.evaluate import tuned_generator
from vlmed.evaluate.answer import prompt
from vlmed.evaluate.estimate import estimate
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, Unit
from vlmed.models.load import load_model
from vlmed.models.protocols import LoadedModel, ModelInfo
from vlmed.results.predictions import AnswerPredictions, read_predictions
from vlmed.results.validate import validate_run
from vlmed.suite.types import Suite, Track
from vlmed.tuning import generative, generator_trial
from vlmed.tuning.generator_batches import Pairs

ASKING = {
    "open": "{question}",
    "yes_no": "{question}\nAnswer with yes or no.",
    "choice": "{question}\nAnswer with one of: {candidates}.",
    "max_tokens": 4,
    "decoding": "greedy",
}
TUNING = {
    "parts": ["projector", "language"],
    "lora_lr": 1e-2,
    "projector_lr": 1e-3,
    "epochs": 2,
    "batch_size": 4,
    "schedule": "cosine",
    "warmup": 0.03,
    "clip": 1.0,
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
}


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generator_factories.tiny_llava(tmp_path_factory.mktemp("models") / "tiny-llava")


@pytest.fixture
def tuned_suite(suite: Suite) -> Callable[..., Suite]:
    """The phantom suite with a track that tunes generators on its questions."""

    def with_track(**changes: Any) -> Suite:
        track = Track("sft_ml", 1, "Projector and LoRA on language", "sft", ASKING | TUNING | changes)
        task = suite.task("asked")
        return replace(
            suite,
            tasks={**suite.tasks, task.id: replace(task, tracks=(*task.tracks, track.name))},
            tracks={**suite.tracks, track.id: track},
        )

    return with_track


def run(
    suite: Suite, model: LoadedModel, out: Path, cache_folder: Path, keep: bool = False, track: str = "sft_ml"
) -> Any:
    """A validated unit and its answers."""
    unit = Unit(suite.task("asked"), suite.track(track), fraction=0.1 if track == "sft_ml" else 1.0)
    Runner(suite, model, DataLoader(cache=cache_folder), keep_weights=keep).run(
        [unit], RunFolder(out), lambda unit, state: None
    )
    report = validate_run(out, suite)
    assert report.accepted, report.problems
    (found,) = json.loads((out / "result.json").read_text())["units"]
    answered = read_predictions(out / found["predictions"]["file"], suite.task("asked"))
    assert isinstance(answered, AnswerPredictions)
    return found, answered


def test_a_unit_is_tuned_answered_saved_and_undone(
    tuned_suite: Callable[..., Suite], folder: Path, cache_folder: Path, tmp_path: Path
) -> None:
    suite, model = tuned_suite(), load_model(f"dir:{folder}")
    network = model.predictor.model  # type: ignore[union-attr]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    unit, answered = run(suite, model, tmp_path / "run", cache_folder, keep=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())

    told = unit["recipe_outcome"]
    assert (told["lora_lr"], told["projector_lr"]) == (1e-2, 1e-3)
    assert told["samples_seen"] == 2 * told["train_samples"] > 0
    assert told["moved: language"] > 0 < told["moved: projector"]
    assert unit["cost"]["training"] == told["samples_seen"] * told["trained_parameters"]
    log = [
        json.loads(line) for line in (tmp_path / "run" / "training" / f"{unit['unit']}.jsonl").read_text().splitlines()
    ]
    assert [row["epoch"] for row in log] == [0, 1, 2]
    assert log[-1]["val_loss"] < log[0]["val_loss"]
    assert not (tmp_path / "run" / "scratch").exists()

    # The saved adapter answers as the tuned unit did, on the track that trains nothing.
    adapter = load_model(f"dir:{folder}", adapter=f"dir:{tmp_path / 'run' / 'weights' / unit['unit']}")
    asking = {"pair": "{question} {candidate}", **ASKING}
    plain = replace(suite, tracks={**suite.tracks, "plain@1": Track("plain", 1, "", "answer", asking)})
    task = plain.task("asked")
    plain = replace(plain, tasks={**plain.tasks, task.id: replace(task, tracks=(*task.tracks, "plain"))})
    _, again = run(plain, adapter, tmp_path / "again", cache_folder, track="plain")
    _, untuned = run(plain, model, tmp_path / "untuned", cache_folder, track="plain")
    assert list(again.answers) == list(answered.answers) != list(untuned.answers)


def test_training_asks_as_the_test_does(
    tuned_suite: Callable[..., Suite], folder: Path, cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = tuned_suite()
    sets: list[Pairs] = []
    tune = generative.tune_generator

    def watched(generator: Any, recipe: Any, train: Pairs, val: Pairs, **options: Any) -> Any:
        sets.extend([train, val])
        few = [Pairs(each.image, each.prompts[:4], each.answers[:4]) for each in sets]
        return tune(generator, recipe, *few, **options)

    monkeypatch.setattr(tuned_generator, "tune_generator", watched)
    run(suite, load_model(f"dir:{folder}"), tmp_path / "run", cache_folder)
    table = DataLoader(cache=cache_folder).table(suite.task("asked"))
    val = table.split("val")
    asked = questions(table, val)
    assert list(sets[1].prompts) == [prompt(asked[sample.id], ASKING) for sample in val]
    assert list(sets[1].answers) == [sample.target for sample in val]
    test = {sample.id for sample in table.split("test")}
    assert len(sets[0]) + len(val) < len(table.samples) - len(test)


def test_a_killed_unit_goes_on_to_the_same_answers(
    tuned_suite: Callable[..., Suite], folder: Path, cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, model = tuned_suite(), load_model(f"dir:{folder}")
    _, whole = run(suite, model, tmp_path / "whole", cache_folder)
    save = generator_trial.GeneratorTrial._save

    def save_and_die(self: Any, *args: Any) -> None:
        save(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generator_trial.GeneratorTrial, "_save", save_and_die)
        run(suite, model, tmp_path / "run", cache_folder)
    assert list((tmp_path / "run" / "scratch").rglob("trial-0.pt"))
    unit, resumed = run(suite, model, tmp_path / "run", cache_folder)
    assert list(resumed.answers) == list(whole.answers)
    assert unit["recipe_outcome"]["samples_seen"] == 2 * unit["recipe_outcome"]["train_samples"]


def test_a_recipe_is_checked_before_anything_trains(
    tuned_suite: Callable[..., Suite], folder: Path, cache_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="unknown key") as caught:
        run(tuned_suite(rank=8), load_model(f"dir:{folder}"), tmp_path / "run", cache_folder)
    assert "tasks.yaml: sft_ml@1" in str(caught.value)


def test_a_plan_counts_the_epochs_of_all_learning_rates(
    tuned_suite: Callable[..., Suite], folder: Path, cache_folder: Path, tmp_path: Path
) -> None:
    model = load_model(f"dir:{folder}")
    for changes, rates in (({}, 1), ({"lora_lr": [1e-2, 1e-3], "projector_lr": [1e-3, 1e-4]}, 2)):
        suite = tuned_suite(**changes)
        runner = Runner(suite, model, DataLoader(cache=cache_folder))
        (told,) = estimate(runner, [Unit(suite.task("asked"), suite.track("sft_ml"))], RunFolder(tmp_path))
        samples = runner.data.table(suite.task("asked")).samples
        train = sum(sample.split == "train" for sample in samples)
        assert (told.epochs, told.rates, told.training) == (2, rates, train * 2 * rates)
        assert told.images == sum(sample.split == "test" for sample in samples)
        assert told.seconds > 0


def test_a_generator_without_weights_is_told(
    tuned_suite: Callable[..., Suite], cache_folder: Path, tmp_path: Path
) -> None:
    class Far:
        def answer(self, requests: Any) -> list[str]:
            return [""] * len(requests)

    info = ModelInfo("endpoint:http://x/m", "m", "sha256:" + "0" * 64, "endpoint", "m", "generator", 1)
    with pytest.raises(UsageError, match="can't be tuned from here"):
        run(tuned_suite(), LoadedModel(info, Far()), tmp_path / "run", cache_folder)


def test_a_blindfolded_generator_is_blind_in_training_too(
    tuned_suite: Callable[..., Suite], folder: Path, cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(
        tuned_generator, "tune_generator", lambda g, r, train, val, **_: shown.extend([train, val]) or 1 / 0
    )
    for ref in (f"control:blank/dir:{folder}", f"control:swapped/dir:{folder}"):
        with pytest.raises(ZeroDivisionError):
            run(tuned_suite(), load_model(ref), tmp_path / ref[8:12], cache_folder)
    colours = [len(pairs.image(0).getcolors(1 << 20)) for pairs in shown]
    assert colours[:2] == [1, 1]
    assert min(colours[2:]) > 1


@pytest.mark.parametrize("name", ["majority", "oracle"])
def test_controls_follow_the_track(
    name: str, tuned_suite: Callable[..., Suite], cache_folder: Path, tmp_path: Path
) -> None:
    unit, _ = run(tuned_suite(), load_model(f"control:{name}"), tmp_path / "run", cache_folder)
    assert unit["scores"]["metrics"]["all"]["accuracy"]["value"] > 0
