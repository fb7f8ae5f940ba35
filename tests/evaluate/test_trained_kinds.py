"""Retrieval tuned on captions and questions answered by a fusion, from a model reference to a validated result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import families
import own_models
import pmc_clip_factory
from vlmed.data.load import DataLoader
from vlmed.data.questions import questions
from vlmed.errors import UsageError, VlmedError
from vlmed.evaluate import fused
from vlmed.evaluate.estimate import estimate
from vlmed.evaluate.fused import Vocabulary
from vlmed.evaluate.methods import method_for
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, plan
from vlmed.metrics.answers import parse_open
from vlmed.metrics.text import normalise
from vlmed.models.load import load_model
from vlmed.models.own import own_model
from vlmed.models.protocols import LoadedModel, ModelInfo
from vlmed.results.predictions import AnswerPredictions, RetrievalPredictions, read_predictions
from vlmed.results.validate import validate_run
from vlmed.suite.types import Suite, Task, Track
from vlmed.tuning.fusion_files import load_fusion
from vlmed.tuning.trial import Trial

CAPTIONS = {"head": "captions", "optimiser": "adam", "lr": [0.003], "epochs": 3, "patience": 3, "batch_size": 32}
FUSION = {
    "encoders": "frozen",
    "fusion": {"module": "bilinear", "glimpses": 2, "width": 32, "dropout": 0.1},
    "optimiser": "adamw",
    "lr": [0.003],
    "weight_decay": 0.1,
    "head_weight_decay": 0.1,
    "epochs": 12,
    "patience": 6,
    "batch_size": 32,
}
TRACKS = {
    "retrieval_lora": ("lora", CAPTIONS),
    "retrieval_partial": ("partial", CAPTIONS),
    "retrieval_full": ("full", CAPTIONS),
    "fusion": ("fusion", FUSION),
    "fusion_lora": ("fusion", FUSION | {"encoders": "lora", "epochs": 1}),
    "fusion_full": ("fusion", FUSION | {"encoders": "full", "epochs": 1}),
    "fusion_own": ("fusion", FUSION | {"fusion": {"module": "own"}, "epochs": 1}),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models so small lose most of their time to a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(suite: Suite) -> Suite:
    """The small suite with these tracks, and with questions that the image alone decides."""
    tracks = {f"{name}@1": Track(name, 1, name, method, recipe) for name, (method, recipe) in TRACKS.items()}
    report = replace(suite.task("report"), tracks=tuple(name for name in TRACKS if name.startswith("retrieval")))
    asked = replace(suite.task("asked"), tracks=tuple(name for name in TRACKS if name.startswith("fusion")))
    where = {"question_type": ("modality",), "answer_type": ("OPEN",)}
    modality = replace(asked, name="modality", where=where, definition={**asked.definition, "where": str(where)})
    tasks = {task.id: task for task in (report, asked, modality, replace(suite.task("lesion"), tracks=("lora",)))}
    return replace(suite, tasks=tasks, tracks={**suite.tracks, **tracks})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def evaluate(
    suite: Suite, model: LoadedModel, out: Path, cache: Path, task: str, track: str, **options: Any
) -> tuple[Any, Any]:
    """A validated unit of one task and track, and its predictions."""
    runner = Runner(suite, model, DataLoader(cache=cache), batch_size=16, keep_weights=options.pop("keep", False))
    runner.run(plan(suite, [task], [track], **options), RunFolder(out), lambda unit, state: None)
    report = validate_run(out, suite)
    assert report.accepted, report.problems
    (unit,) = json.loads((out / "result.json").read_text())["units"]
    return unit, read_predictions(out / unit["predictions"]["file"], suite.task(task))


def value(unit: Any, metric: str) -> float:
    return float(unit["scores"]["metrics"]["all"][metric]["value"])


# Retrieval


def test_tuned_retrieval_beats_zero_shot_and_leaves_no_features(
    trained: Suite, suite: Suite, open_clip_model: Path, tmp_path: Path
) -> None:
    model, cache = load_model(f"dir:{open_clip_model}"), tmp_path / "cache"
    before, _ = evaluate(suite, model, tmp_path / "zero", cache, "report", "zero_shot_retrieval")
    features = sorted(cache.glob("features/*"))
    encoder: Any = model.predictor
    weights = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    unit, found = evaluate(trained, model, tmp_path / "run", cache, "report", "retrieval_full")
    assert isinstance(found, RetrievalPredictions)
    assert value(unit, "mean_reciprocal_rank") > value(before, "mean_reciprocal_rank")
    assert sorted(cache.glob("features/*")) == features
    assert all(torch.equal(tensor, weights[name]) for name, tensor in encoder.model.state_dict().items())
    told = unit["recipe_outcome"]
    assert told["lr"] == 0.003
    assert told["changed_parameters"] > 0
    assert unit["cost"]["training"] == told["samples_seen"] * told["trained_parameters"]
    assert unit["cost"]["images"] == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "training" / f"{unit['unit']}.jsonl").open()]
    assert [row["epoch"] for row in log] == list(range(len(log)))
    assert log[-1]["train_loss"] < log[1]["train_loss"]


def test_saved_weights_retrieve_the_same_without_tuning(
    trained: Suite, suite: Suite, open_clip_model: Path, cache: Path, tmp_path: Path
) -> None:
    model = load_model(f"dir:{open_clip_model}")
    for track, adapter in (("retrieval_lora", True), ("retrieval_partial", False)):
        out = tmp_path / track
        unit, found = evaluate(trained, model, out, cache, "report", track, fractions=[0.5], seeds=[1], keep=True)
        assert (unit["fraction"], unit["seed"]) == (0.5, 1)
        saved = out / "weights" / unit["unit"]
        again = load_model(f"dir:{open_clip_model}", adapter=f"dir:{saved}") if adapter else load_model(f"dir:{saved}")
        _, same = evaluate(suite, again, tmp_path / f"{track}-again", cache, "report", "zero_shot_retrieval")
        np.testing.assert_array_equal(same.image_to_text.ranks, found.image_to_text.ranks)
        np.testing.assert_array_equal(same.text_to_image.ranks, found.text_to_image.ranks)


def test_an_image_encoder_and_a_recipe_for_classes_can_not_retrieve(
    trained: Suite, cache: Path, tmp_path: Path, open_clip_model: Path
) -> None:
    info = ModelInfo("dir:v", "v", "sha256:" + "0" * 64, "vit", "ViT", "image_encoder", 1)
    with pytest.raises(UsageError, match="embeds images and no texts"):
        evaluate(trained, LoadedModel(info, own_models.OwnImages()), tmp_path / "a", cache, "report", "retrieval_lora")
    report = replace(trained.task("report"), tracks=("lora",))
    wrong = replace(trained, tasks={report.id: report})
    with pytest.raises(UsageError, match="the track's recipe is for classes"):
        evaluate(wrong, load_model(f"dir:{open_clip_model}"), tmp_path / "b", cache, "report", "lora")


def test_a_recipe_for_captions_can_not_classify(
    trained: Suite, cache: Path, tmp_path: Path, open_clip_model: Path
) -> None:
    lesion = replace(trained.task("lesion"), tracks=("retrieval_lora",))
    wrong = replace(trained, tasks={lesion.id: lesion})
    with pytest.raises(UsageError, match="not for classes, and the task has classes") as caught:
        evaluate(wrong, load_model(f"dir:{open_clip_model}"), tmp_path / "run", cache, "lesion", "retrieval_lora")
    (problem,) = caught.value.problems
    assert (problem.got, problem.expected) == ("captions", "prompts or linear")
    assert problem.path.endswith("retrieval_lora@1.recipe.head")


# Questions


@pytest.mark.parametrize("track", ["fusion", "fusion_lora", "fusion_full", "fusion_own"])
def test_a_kept_fusion_answers_as_its_unit(track: str, trained: Suite, cache: Path, tmp_path: Path) -> None:
    home = families.checkpoint("pmc_clip" if track == "fusion_own" else "open_clip")
    model, out = load_model(f"dir:{home}"), tmp_path / "run"
    unit, answered = evaluate(trained, model, out, cache, "modality", track, keep=True)
    saved = out / "weights" / unit["unit"]
    assert "load_fusion" in (saved / "README.md").read_text()
    if track == "fusion_full":
        model = load_model(f"dir:{saved}")
    elif track == "fusion_lora":
        model = load_model(f"dir:{home}", adapter=f"dir:{saved}")
    loader = DataLoader(cache=cache)
    table, shown = loader.table(trained.task("modality")), loader.dataset(trained.task("modality").dataset)
    test = table.split("test")
    texts = [each.text for each in questions(table, test).values()]
    again = load_fusion(saved, model).answer([shown.image(sample.image) for sample in test], texts)
    assert again == list(answered.answers)


def test_a_plan_encodes_images_of_a_frozen_encoder_once(trained: Suite, open_clip_model: Path, cache: Path) -> None:
    runner = Runner(trained, load_model(f"dir:{open_clip_model}"), DataLoader(cache=cache), batch_size=16)
    frozen, lora = estimate(runner, plan(trained, ["asked"], ["fusion", "fusion_lora"]), RunFolder(cache / "none"))
    fused = replace(runner, model=load_model(f"dir:{families.checkpoint('pmc_clip')}"))
    (own,) = estimate(fused, plan(trained, ["asked"], ["fusion_own"]), RunFolder(cache / "none"))
    samples = runner.data.table(trained.task("asked")).samples
    assert frozen.images == own.images == len({sample.image for sample in samples})
    assert lora.images == sum(sample.split == "test" for sample in samples)
    # As many samples as if the encoder trained, each a pass through the fusion alone.
    assert frozen.training == 12 * sum(sample.split == "train" for sample in samples)
    assert (frozen.epochs, frozen.rates, lora.epochs) == (12, 1, 1)
    assert frozen.seconds > 0
    assert own.seconds > 0


def test_a_fusion_sees_what_questions_alone_can_not_tell(
    trained: Suite, open_clip_model: Path, cache: Path, tmp_path: Path
) -> None:
    model = load_model(f"dir:{open_clip_model}")
    unit, answered = evaluate(trained, model, tmp_path / "run", cache, "modality", "fusion")
    blind, _ = evaluate(trained, load_model("control:majority"), tmp_path / "blind", cache, "modality", "fusion")
    assert value(unit, "accuracy") >= value(blind, "accuracy") + 0.2
    assert isinstance(answered, AnswerPredictions)
    told = unit["recipe_outcome"]
    assert (told["answers"], told["unseen_answers"], told["unseen_answer_share"]) == (3, 0, 0)
    assert told["trained_parameters"] == told["changed_parameters"]
    assert not (tmp_path / "run" / "scratch").exists()
    assert (tmp_path / "run" / "training" / f"{unit['unit']}.jsonl").exists()


def test_unseen_answers_are_wrong_and_counted(
    trained: Suite, open_clip_model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task: Task = trained.task("modality")
    table = DataLoader(cache=cache).table(task)
    hidden = "CT"
    count = sum(sample.target == hidden for sample in table.split("test"))
    assert 0 < count < len(table.split("test"))
    kept = [each for each in table.samples if each.split == "test" or each.target != hidden]
    monkeypatch.setattr(DataLoader, "table", lambda self, task, images=True: replace(table, samples=tuple(kept)))
    model = load_model(f"dir:{open_clip_model}")
    unit, answered = evaluate(trained, model, tmp_path / "run", cache, "modality", "fusion")
    told = unit["recipe_outcome"]
    assert told["answers"] == 2
    assert told["unseen_answers"] == count
    assert told["unseen_answer_share"] == pytest.approx(count / len(table.split("test")), abs=1e-6)
    unseen = np.array([target == hidden for target in answered.targets])
    assert not answered.answered.exact[unseen].any()
    assert hidden not in answered.answers


def test_closed_questions_choose_among_all_answers(
    trained: Suite, open_clip_model: Path, cache: Path, tmp_path: Path
) -> None:
    model = load_model(f"dir:{open_clip_model}")
    unit, answered = evaluate(trained, model, tmp_path / "run", cache, "asked", "fusion_full", fractions=[0.5])
    table = DataLoader(cache=cache).table(trained.task("asked"))
    train = {sample.target for sample in table.split("train")}
    assert set(answered.answers) <= train
    assert unit["recipe_outcome"]["train_samples"] < len(table.split("train"))
    assert unit["recipe_outcome"]["answers"] <= len({normalise(target) for target in train})
    assert any(key.startswith("moved: transformer.") for key in unit["recipe_outcome"])
    assert list(questions(table, table.split("test"))) == list(answered.sample_ids)


def test_pmc_clip_answers_with_its_own_fusion(trained: Suite, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    model = load_model(f"dir:{pmc_clip_factory.tiny_pmc_clip(tmp_path / 'model')}")
    unit, _ = evaluate(trained, model, tmp_path / "run", cache, "modality", "fusion_own")
    assert any(key.startswith("moved: fusion.") for key in unit["recipe_outcome"])


def test_a_killed_run_comes_to_the_same_answers(
    trained: Suite, open_clip_model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(f"dir:{open_clip_model}")
    whole, expected = evaluate(trained, model, tmp_path / "whole", cache, "modality", "fusion")
    save = Trial._save

    def save_and_die(self: Trial) -> None:
        save(self)
        if self.state.epoch == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trial, "_save", save_and_die)
        evaluate(trained, model, tmp_path / "run", cache, "modality", "fusion")
    assert list((tmp_path / "run" / "scratch").rglob("trial-0.pt"))
    unit, answered = evaluate(trained, model, tmp_path / "run", cache, "modality", "fusion")
    assert answered.answers == expected.answers
    assert unit["recipe_outcome"] == whole["recipe_outcome"]


class FusedDual(own_models.OwnDual):
    """A user's own network with a module `fusion`."""

    fusion = object()


def test_who_may_follow_a_track_with_the_models_own_fusion(
    trained: Suite, open_clip_model: Path, cache: Path, tmp_path: Path
) -> None:
    (unit,) = plan(trained, ["asked"], ["fusion_own"])
    pmc_clip = f"dir:{families.checkpoint('pmc_clip')}"
    for ref in (pmc_clip, f"control:blank/{pmc_clip}", "control:majority"):
        assert method_for(unit, load_model(ref).info, trained)
    assert method_for(unit, own_model(FusedDual()).info, trained)
    for model in (load_model(f"dir:{open_clip_model}"), own_model(own_models.OwnDual())):
        with pytest.raises(UsageError, match="no fusion module of its own") as caught:
            evaluate(trained, model, tmp_path / "run", cache, "asked", "fusion_own")
        assert "bilinear" in str(caught.value)
    assert not list((tmp_path / "run").glob("*"))


def test_an_encoder_without_tokens_is_told_what_it_lacks(trained: Suite, cache: Path, tmp_path: Path) -> None:
    info = ModelInfo("dir:o", "o", "sha256:" + "0" * 64, "own", "OwnDual", "dual_encoder", 1)
    with pytest.raises(UsageError, match="gives no tokens") as caught:
        evaluate(trained, LoadedModel(info, own_models.OwnDual()), tmp_path / "run", cache, "asked", "fusion")
    assert "encode_image_tokens and encode_text_tokens" in str(caught.value)


def test_a_full_disk_names_the_folder(
    trained: Suite, open_clip_model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any, **_options: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vlmed.tuning.tokens.tempfile.TemporaryFile", full)
    with pytest.raises(VlmedError, match="tokens can't be kept") as caught:
        evaluate(trained, load_model(f"dir:{open_clip_model}"), tmp_path / "run", cache, "modality", "fusion")
    assert "No space left" in str(caught.value)


def test_answers_have_one_spelling_and_one_order() -> None:
    vocabulary = Vocabulary.of(["The Liver", "liver", "Yes", "liver", "left lung.", "yes", "Left lung"])
    assert vocabulary.answers == ("Left lung", "liver", "Yes")
    assert [vocabulary.label(text) for text in ("LIVER", "a left lung", "no")] == [1, 0, fused.UNKNOWN]
    assert Vocabulary.of(["liver", "yes"]) == Vocabulary.of(["yes", "liver"])
    assert all(parse_open(text) == normalise(text) for text in vocabulary.answers)
