"""Retrieval, questions and choice by letter, from a model reference to a validated result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlmed.data.load import DataLoader
from vlmed.data.questions import questions
from vlmed.data.table import Sample
from vlmed.errors import UsageError
from vlmed.evaluate import blocks
from vlmed.evaluate.answer import prompt
from vlmed.evaluate.choose import choose
from vlmed.evaluate.job import swapped
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, plan
from vlmed.models.load import load_model
from vlmed.models.protocols import LoadedModel, ModelInfo, Request
from vlmed.results.predictions import AnswerPredictions, RetrievalPredictions, read_predictions
from vlmed.results.validate import validate_run
from vlmed.suite.types import Suite


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def evaluate(suite: Suite, model: LoadedModel, out: Path, cache: Path, task: str, track: str) -> Any:
    """A validated unit of one task and track, and its predictions."""
    runner = Runner(suite, model, DataLoader(cache=cache), batch_size=16)
    runner.run(plan(suite, [task], [track]), RunFolder(out), lambda unit, state: None)
    report = validate_run(out, suite)
    assert report.accepted, report.problems
    (unit,) = json.loads((out / "result.json").read_text())["units"]
    return unit, read_predictions(out / unit["predictions"]["file"], suite.task(task))


def generator(answers: Any) -> LoadedModel:
    info = ModelInfo("dir:g", "g", "sha256:" + "0" * 64, "llava", "Llava", "generator", 1)
    return LoadedModel(info, answers)


class Parrot:
    """Says one text to every request, and remembers what it was asked."""

    def __init__(self, said: str) -> None:
        self.said = said
        self.asked: list[Request] = []

    def answer(self, requests: Sequence[Request]) -> list[str]:
        self.asked += requests
        return [self.said] * len(requests)


class Letters(Parrot):
    """Knows token probabilities: the later the letter, the likelier."""

    def choose(self, requests: Sequence[Request], choices: Sequence[str]) -> np.ndarray:
        self.asked += requests
        return np.tile(np.arange(len(choices), dtype=float), (len(requests), 1))


def test_retrieval_ranks_are_those_of_a_plain_argsort(
    suite: Suite, open_clip_model: Path, cache: Path, tmp_path: Path
) -> None:
    model = load_model(f"dir:{open_clip_model}")
    unit, found = evaluate(suite, model, tmp_path / "run", cache, "report", "zero_shot_retrieval")
    assert isinstance(found, RetrievalPredictions)
    loader, task = DataLoader(cache=cache), suite.task("report")
    samples, images = loader.table(task).split("test"), loader.dataset(task.dataset)
    encoder: Any = model.predictor
    with torch.inference_mode():
        pixels = torch.stack([encoder.preprocess(images.image(sample.image)) for sample in samples])
        image = torch.nn.functional.normalize(encoder.encode_images(pixels), dim=-1).double()
        text = torch.nn.functional.normalize(encoder.encode_texts([each.target for each in samples]), dim=-1).double()
    similarity = (image @ text.T).numpy()
    captions = np.array([sample.target for sample in samples])
    for row, caption in enumerate(captions):
        best = similarity[row][captions == caption].max()
        above = (similarity[row][captions != caption] > best + 1e-6).sum()
        near = (np.abs(similarity[row][captions != caption] - best) <= 1e-6).sum()
        assert 1 + above <= found.image_to_text.ranks[row] <= 1 + above + near
    assert {"recall_at_1", "text_to_image_recall_at_1"} <= set(unit["scores"]["metrics"]["all"])


@pytest.mark.parametrize(("name", "low", "high"), [("oracle", 1.0, 1.0), ("random", 0.0, 0.5), ("majority", 0.0, 0.1)])
def test_controls_retrieve_everything_or_by_chance(
    suite: Suite, cache: Path, tmp_path: Path, name: str, low: float, high: float
) -> None:
    model = load_model(f"control:{name}")
    unit, _ = evaluate(suite, model, tmp_path / "run", cache, "report", "zero_shot_retrieval")
    for metric in ("recall_at_1", "text_to_image_recall_at_1"):
        assert low <= unit["scores"]["metrics"]["all"][metric]["value"] <= high


def test_a_dual_encoder_answers_closed_questions_by_its_best_candidate(
    suite: Suite, open_clip_model: Path, cache: Path, tmp_path: Path
) -> None:
    model = load_model(f"dir:{open_clip_model}")
    unit, answered = evaluate(suite, model, tmp_path / "run", cache, "asked", "zero_shot_vqa")
    assert isinstance(answered, AnswerPredictions)
    loader, task = DataLoader(cache=cache), suite.task("asked")
    table, encoder = loader.table(task), model.predictor
    asked = questions(table, table.split("test"))
    for row, sample in enumerate(table.split("test")[:20]):
        candidates = asked[sample.id].candidates
        if not candidates:
            assert answered.answers[row] == ""
            continue
        texts = [f"{asked[sample.id].text} {name}" for name in candidates]
        with torch.inference_mode():
            pixels = encoder.preprocess(loader.dataset(task.dataset).image(sample.image))[None]  # type: ignore[union-attr]
            image = torch.nn.functional.normalize(encoder.encode_images(pixels), dim=-1)  # type: ignore[union-attr]
            text = torch.nn.functional.normalize(encoder.encode_texts(texts), dim=-1)  # type: ignore[union-attr]
        similar = (image @ text.T)[0]
        assert similar[candidates.index(answered.answers[row])] >= similar.max() - 1e-6
    n = unit["scores"]["n"]
    assert n["unparsed"] == n["open"] > 0


def test_a_generator_gets_each_kind_of_question_in_its_template(suite: Suite, cache: Path, tmp_path: Path) -> None:
    parrot = Parrot("yes")
    unit, answered = evaluate(suite, generator(parrot), tmp_path / "run", cache, "asked", "zero_shot_vqa")
    assert len(parrot.asked) == len(answered.sample_ids)
    assert {request.max_tokens for request in parrot.asked} == {64}
    assert any(request.prompt.endswith("\nAnswer with yes or no.") for request in parrot.asked)
    assert all(request.image is not None for request in parrot.asked)
    assert 0 < unit["scores"]["metrics"]["all"]["balanced_closed_accuracy"]["value"] <= 0.5


def test_a_killed_generator_asks_nothing_twice(
    suite: Suite, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 16)

    class Dying(Parrot):
        def answer(self, requests: Sequence[Request]) -> list[str]:
            if self.asked:
                raise KeyboardInterrupt
            return super().answer(requests)

    first, second = Dying("no"), Parrot("no")
    with pytest.raises(KeyboardInterrupt):
        evaluate(suite, generator(first), tmp_path / "run", cache, "asked", "zero_shot_vqa")
    _, answered = evaluate(suite, generator(second), tmp_path / "run", cache, "asked", "zero_shot_vqa")
    assert 0 < len(first.asked) < len(answered.sample_ids)
    assert len(first.asked) + len(second.asked) == len(answered.sample_ids)
    assert set(answered.answers) == {"no"}
    assert not (tmp_path / "run" / "scratch").exists()


def test_questions_alone_beat_chance_and_the_oracle_knows_all(suite: Suite, cache: Path, tmp_path: Path) -> None:
    value = {}
    for name in ("majority", "random", "oracle"):
        model = load_model(f"control:{name}")
        unit, _ = evaluate(suite, model, tmp_path / name, cache, "asked", "zero_shot_vqa")
        value[name] = unit["scores"]["metrics"]["all"]["accuracy"]["value"]
    assert value["random"] < value["majority"] < value["oracle"] == 1.0


def test_templates_follow_the_kind_of_question(suite: Suite, cache: Path) -> None:
    recipe = suite.track("zero_shot_vqa").recipe
    table = DataLoader(cache=cache).table(suite.task("asked"))
    kinds = {prompt(each, recipe).partition("\n")[2][:11] for each in questions(table, table.split("test")).values()}
    assert kinds <= {"", "Answer with"}
    assert len(kinds) == 2


RECIPE = {"question": "Which?", "option": "{letter}. {name}", "instruction": "Say.", "max_tokens": 4}
IMAGES = [Image.new("RGB", (4, 4))] * 3


def test_letters_are_averaged_over_both_orders() -> None:
    model = Letters("")
    by_order = choose(model, IMAGES, ["a", "b", "c"], RECIPE | {"orders": ["forward", "backward"]})
    assert model.asked[0].prompt == "Which?\nA. a\nB. b\nC. c\nSay."
    assert model.asked[-1].prompt == "Which?\nA. c\nB. b\nC. a\nSay."
    # A model that likes the last letter knows nothing, and both orders together say so.
    np.testing.assert_allclose(by_order.mean(axis=1)[:, 0], by_order.mean(axis=1)[:, 2])
    assert by_order.shape == (3, 2, 3)
    assert by_order[0, 0].argmax() == 2
    assert by_order[0, 1].argmax() == 0
    np.testing.assert_allclose(by_order.sum(axis=2), 1)


@pytest.mark.parametrize(
    ("said", "expected"), [("B", [0, 1, 0]), ("The answer is B.", [0, 1, 0]), ("who knows", [1 / 3] * 3)]
)
def test_text_alone_becomes_a_class_or_none(said: str, expected: list[float]) -> None:
    probabilities = choose(Parrot(said), IMAGES, ["left", "middle", "right"], RECIPE | {"orders": ["forward"]})
    np.testing.assert_allclose(probabilities, [[expected]] * 3)


def test_more_classes_than_letters_are_refused() -> None:
    with pytest.raises(UsageError, match="more classes than letters"):
        choose(Parrot("A"), IMAGES, [str(number) for number in range(27)], RECIPE | {"orders": ["forward"]})


def test_a_choice_unit_validates(suite: Suite, cache: Path, tmp_path: Path) -> None:
    unit, stored = evaluate(suite, generator(Letters("")), tmp_path / "run", cache, "lesion", "zero_shot_choice")
    assert stored.by_template.shape[1] == 2
    assert unit["scores"]["metrics"]["all"]["auc"]["value"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("track", "task", "hint"),
    [("zero_shot", "lesion", "zero_shot_choice"), ("linear_probe", "lesion", "zero_shot_choice")],
)
def test_a_generator_is_told_which_track_it_can_follow(
    suite: Suite, cache: Path, tmp_path: Path, track: str, task: str, hint: str
) -> None:
    with pytest.raises(UsageError, match="writes text") as caught:
        evaluate(suite, generator(Parrot("")), tmp_path / "run", cache, task, track)
    assert hint in str(caught.value)
    assert not (tmp_path / "run").exists()


def samples(rows: Sequence[tuple[str, str]]) -> tuple[Sample, ...]:
    return tuple(Sample(f"s{number}", "test", image, group, "x", 0, {}) for number, (image, group) in enumerate(rows))


def test_swapped_images_are_never_ones_own_nor_of_ones_group() -> None:
    rows = samples([("i1", "a"), ("i2", "a"), ("i3", "b"), ("i4", "b"), ("i1", "a")])
    instead = swapped(rows)
    owner = {"i1": "a", "i2": "a", "i3": "b", "i4": "b"}
    for sample in rows:
        assert owner[instead[sample.id]] != sample.group
    # Questions on one image get one image.
    assert instead["s0"] == instead["s4"]


def test_one_group_swaps_within_itself() -> None:
    rows = samples([("i1", "a"), ("i2", "a")])
    assert swapped(rows) == {"s0": "i2", "s1": "i1"}


def test_one_image_has_no_other() -> None:
    with pytest.raises(Exception, match="no other image"):
        swapped(samples([("i1", "a"), ("i1", "b")]))


def test_a_plan_repeats_only_what_can_differ(suite: Suite) -> None:
    units = plan(suite, ["le*", "report"], ["zero_shot*", "linear_probe"], [0.25, 1.0], [0, 1])
    assert [unit.id for unit in units] == [
        "lesion-v1.zero_shot-v1.s0.f100",
        "lesion-v1.zero_shot_choice-v1.s0.f100",
        "lesion-v1.linear_probe-v1.s0.f25",
        "lesion-v1.linear_probe-v1.s0.f100",
        "report-v1.zero_shot_retrieval-v1.s0.f100",
    ]


@pytest.mark.parametrize(("fractions", "seeds"), [([0.0], [0]), ([1.5], [0]), ([1.0], [-1])])
def test_no_plan_with_impossible_numbers(suite: Suite, fractions: list[float], seeds: list[int]) -> None:
    with pytest.raises(UsageError, match="can't be"):
        plan(suite, ["lesion"], ["zero_shot"], fractions, seeds)


def test_a_pattern_that_names_nothing_is_told(suite: Suite) -> None:
    with pytest.raises(UsageError, match="zzz"):
        plan(suite, ["zzz*"], ["zero_shot"])


def test_a_share_of_training_reaches_the_probe(
    suite: Suite, open_clip_model: Path, cache: Path, tmp_path: Path
) -> None:
    runner = Runner(suite, load_model(f"dir:{open_clip_model}"), DataLoader(cache=cache), batch_size=16)
    folder = RunFolder(tmp_path / "run")
    runner.run(plan(suite, ["lesion"], ["linear_probe"], [0.5, 1.0]), folder, lambda unit, state: None)
    assert validate_run(folder.path, suite).accepted
    half, whole = json.loads((folder.path / "result.json").read_text())["units"]
    assert (half["fraction"], whole["fraction"]) in {(0.5, 1.0), (1.0, 0.5)}
    small, large = sorted(unit["cost"]["training"] for unit in (half, whole))
    assert 0.4 < small / large < 0.6


def test_a_model_that_looks_at_the_image_changes_with_it(
    suite: Suite, open_clip_model: Path, cache: Path, tmp_path: Path
) -> None:
    own, other = (
        evaluate(suite, load_model(ref), tmp_path / str(number), cache, "lesion", "zero_shot")[1]
        for number, ref in enumerate((f"dir:{open_clip_model}", f"control:swapped/dir:{open_clip_model}"))
    )
    assert list(own.sample_ids) == list(other.sample_ids)
    assert not np.array_equal(own.probabilities, other.probabilities)
    # The same images go round, so each prediction stands at another sample.
    rows = {tuple(row) for row in own.probabilities.tolist()}
    assert all(min(np.abs(np.subtract(row, mine)).max() for mine in rows) < 1e-5 for row in other.probabilities)
