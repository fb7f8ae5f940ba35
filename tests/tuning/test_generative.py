"""Tuning of generators, against hand-written token lists, transformers' own loss and plain comparisons of weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, get_cosine_schedule_with_warmup
from tuning_cases import assert_equal, moved

import generator_factories
import llava_factory
from vlmed.errors import CheckError, InputError, UsageError, VlmedError
from vlmed.models import generators
from vlmed.models.generators import HfGenerator
from vlmed.models.load import load_model
from vlmed.models.protocols import LoadedModel, Request
from vlmed.models.reference import parse_reference
from vlmed.models.resolve import resolve
from vlmed.tuning import generator_trial
from vlmed.tuning.batches import shuffled
from vlmed.tuning.course import DivergedError
from vlmed.tuning.generative import TunedGenerator, tune_generator
from vlmed.tuning.generator_batches import IGNORED, Batch, Pairs, Teacher
from vlmed.tuning.generator_learner import make_generator_learner
from vlmed.tuning.generator_parts import answer_loss
from vlmed.tuning.generator_recipe import GeneratorRecipe, parse_generator_recipe
from vlmed.tuning.generator_save import save_generator
from vlmed.tuning.generator_trial import rate_factor
from vlmed.tuning.tune import LOG

FAMILIES = ["llava", "qwen", "blip2", "gemma"]
COMBINATIONS = [["projector"], ["language"], ["vision"], ["vision", "projector", "language"]]
# Where each family keeps its parts; the projector comes first, since Qwen's lies within its vision tower.
HOMES = {
    "llava": ("model.multi_modal_projector.", "model.vision_tower.", "model.language_model."),
    "qwen": ("model.visual.merger.", "model.visual.", "model.language_model."),
    "blip2": (("query_tokens", "qformer.", "language_projection."), "vision_model.", "language_model."),
    "gemma": ("model.multi_modal_projector.", "model.vision_tower.", "model.language_model."),
}
# Linear layers of two blocks each; LLaVA uses its vision tower but for the last block.
LAYERS = {
    "llava": {"vision": 6, "language": 14},
    "qwen": {"vision": 10, "language": 14},
    "blip2": {"vision": 8, "language": 12},
    "gemma": {"vision": 12, "language": 14},
}
# How the answer "left lung" and its end stand in the vocabulary.
SAID = {
    "llava": ["▁left", "▁lung", "</s>"],
    "qwen": ["left", "Ġlung", "<|im_end|>"],
    "blip2": ["Ġleft", "Ġlung", "</s>"],
    "gemma": ["left", "▁lung", "<end_of_turn>"],
}
PROMPTS = {
    "llava": "USER: <image>\n{} ASSISTANT:",
    "qwen": "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{}<|im_end|>\n<|im_start|>assistant\n",
    "blip2": "Question: {} Answer:",
    "gemma": "<start_of_turn>user\n<start_of_image>{}<end_of_turn>\n<start_of_turn>model\n",
}
QUESTIONS = ["What is", "What is left", "Is no lung left? yes no", "What is left lung?"]
ANSWERS = ["left lung", "yes", "no", "lung yes no left"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    home = tmp_path_factory.mktemp("generators")
    return cache(lambda name: generator_factories.MAKERS[name](home / name))


@pytest.fixture(scope="module")
def loaded(folders: Callable[[str], Path]) -> Callable[[str], LoadedModel]:
    """Models shared by tests that leave them as they were, which is what `undo` promises."""
    return cache(lambda name: load_model(f"dir:{folders(name)}"))


@pytest.fixture
def generator(loaded: Callable[[str], LoadedModel]) -> Callable[[str], HfGenerator]:
    return lambda name: loaded(name).predictor


def noise(width: int, height: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def image(row: int) -> Image.Image:
    return noise(30 + 17 * row, 90 - 8 * row, row)


def pairs(count: int = 4, answers: Sequence[str] = ANSWERS) -> Pairs:
    return Pairs(image, [QUESTIONS[row % 4] for row in range(count)], [answers[row % 4] for row in range(count)])


def requests(count: int = 4) -> list[Request]:
    return [Request(image(row), QUESTIONS[row], 6) for row in range(count)]


def recipe(parts: Sequence[str], **options: Any) -> GeneratorRecipe:
    given: dict[str, Any] = {"parts": list(parts), "epochs": 1, "batch_size": 4, "patience": 100}
    if "projector" in parts:
        given["projector_lr"] = 1e-2
    if set(parts) - {"projector"}:
        given |= {"lora_lr": 1e-2, "lora": {"rank": 2, "alpha": 4, "dropout": 0.0}}
    return parse_generator_recipe(given | options)


def tuned_on(model: HfGenerator, parts: Sequence[str], data: Pairs | None = None, **options: Any) -> TunedGenerator:
    keep = {key: options.pop(key) for key in ("seed", "folder") if key in options}
    data = data or pairs()
    return tune_generator(model, recipe(parts, **options), data, data, **keep)


def tensors(model: HfGenerator) -> dict[str, torch.Tensor]:
    """A copy of every parameter and buffer by its name without a LoRA, whose own are left out."""
    named = [*model.model.named_parameters(), *model.model.named_buffers()]
    return {
        name.replace(".base_layer.", "."): tensor.detach().clone() for name, tensor in named if ".lora_" not in name
    }


def weights(tuned: TunedGenerator) -> dict[str, torch.Tensor]:
    return tuned.learner.copies()


def batch_of(model: HfGenerator, data: Pairs, size: int = 4) -> list[Batch]:
    return Teacher(model).chunks(data, np.arange(len(data)), size)


# Labels and loss


@pytest.mark.parametrize("name", FAMILIES)
def test_labels_are_the_answers_and_their_ends_alone(name: str, generator, folders) -> None:
    processor = AutoProcessor.from_pretrained(folders(name))
    (batch,) = batch_of(generator(name), pairs())
    shown = {"text": [PROMPTS[name].format(QUESTIONS[0])], "images": [[image(0)]], "return_tensors": "pt"}
    prompt = processor(**shown)["input_ids"][0].tolist()
    answer = processor.tokenizer.convert_tokens_to_ids(SAID[name])
    padding = len(batch.labels[0]) - len(prompt) - len(answer)
    pad = processor.tokenizer.pad_token_id
    assert padding > 0
    assert batch.labels[0].tolist() == [IGNORED] * len(prompt) + answer + [IGNORED] * padding
    assert batch.inputs["input_ids"][0].tolist() == prompt + answer + [pad] * padding
    assert batch.inputs["attention_mask"][0].tolist() == [1] * (len(prompt) + len(answer)) + [0] * padding
    assert batch.tokens == 3 + 2 + 2 + 5


@pytest.mark.parametrize("name", FAMILIES)
def test_the_prompt_is_that_of_inference(name: str, generator) -> None:
    model = generator(name)
    (batch,) = batch_of(model, pairs())
    for row, request in enumerate(requests()):
        alone = model._inputs([request])["input_ids"][0]
        ids, labels = batch.inputs["input_ids"][row], batch.labels[row]
        first = int((labels != IGNORED).nonzero()[0])
        assert ids[:first].tolist() == alone.tolist()


@torch.no_grad()
@pytest.mark.parametrize("name", [*FAMILIES, "internvl", "paligemma", "blip2_t5"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_loss_is_transformers_own(name: str, generator, folders) -> None:
    model = generator(name)
    (batch,) = batch_of(model, pairs())
    plain = AutoModelForImageTextToText.from_pretrained(folders(name), dtype=torch.float32).eval()
    inputs = {key: value for key, value in batch.inputs.items() if key != "decoder_input_ids"}
    mean = float(plain(**inputs, labels=batch.labels).loss)
    assert float(answer_loss(model, batch)) / batch.tokens == pytest.approx(mean, rel=1e-5)
    # Padding changes nothing, and neither does the company of other questions.
    alone = sum(float(answer_loss(model, chunk)) for chunk in batch_of(model, pairs(), 1))
    assert alone / batch.tokens == pytest.approx(mean, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", [*FAMILIES, "internvl", "paligemma", "blip2_t5"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_what_is_trained_is_what_inference_computes(name: str, generator) -> None:
    """Without its end's, an answer's loss is its negative log-probability when it is generated, token by token."""
    model = generator(name)
    for row, batch in enumerate(batch_of(model, pairs(), 1)):
        batch.labels[0, (batch.labels[0] != IGNORED).nonzero()[-1]] = IGNORED
        chosen = model.choose([requests()[row]], [ANSWERS[row]])[0, 0]
        assert float(answer_loss(model, batch)) == pytest.approx(-chosen, rel=1e-4)


def test_gradients_in_chunks_are_the_whole_gradient(generator) -> None:
    model, data = generator("qwen"), pairs(7)
    learner = make_generator_learner(model, recipe(["vision", "projector", "language"]))
    with torch.no_grad():
        for name, parameter in learner.parameters().items():
            if ".lora_B." in name:
                parameter.add_(0.1)
    rows = np.arange(7)
    (ready,) = learner.teacher.chunks(data, rows, 7)
    whole = learner.backward(data, rows, [ready], ready.tokens)
    gradients = {name: parameter.grad.clone() for name, parameter in learner.parameters().items()}
    parts = learner.backward(data, rows, learner.teacher.chunks(data, rows, 2), ready.tokens)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    for name, parameter in learner.parameters().items():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-5, msg=name)
    learner.release()


# What moves


def part_of(family: str, name: str) -> str:
    for part, home in zip(("projector", "vision", "language"), HOMES[family], strict=True):
        if name.startswith(home):
            return part
    return ""


@pytest.mark.parametrize("parts", COMBINATIONS, ids=lambda parts: "".join(part[0] for part in parts))
@pytest.mark.parametrize("name", FAMILIES)
def test_only_the_named_parts_move_and_they_come_back(name: str, parts: list[str], generator) -> None:
    model = generator(name)
    before, answers = tensors(model), model.answer(requests())
    # Two steps, since A gets no gradient through a B that is still zero.
    with tuned_on(model, parts, batch_size=2) as tuned:
        changed = moved(before, tensors(model))
        proof = tuned.proof.to_json()
        assert {part.group for part in tuned.by_part} == set(parts)
    assert {part_of(name, each) for each in changed} == set(parts)
    for part in set(parts) - {"projector"}:
        layers = [each for each in changed if part_of(name, each) == part]
        assert len(layers) == LAYERS[name][part]
        assert all(each.endswith(".weight") and before[each].ndim == 2 for each in layers)
        assert not any("embed" in each or "head" in each for each in layers)
    if "projector" in parts:
        held = [each for each in before if part_of(name, each) == "projector" and before[each].is_floating_point()]
        assert {each for each in changed if part_of(name, each) == "projector"} <= set(held)
    assert proof["tensors_changed"] == proof["tensors"]
    assert proof["frozen_tensors"] > 0
    assert_equal(tensors(model), before)
    assert model.answer(requests()) == answers
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.model.parameters())
    assert not model.model.training


def test_trained_parameters_are_the_analytic_count(generator) -> None:
    model = generator("qwen")
    blocks = model.model.model.language_model.layers
    linear = [layer for layer in blocks.modules() if isinstance(layer, torch.nn.Linear)]
    expected = sum(3 * (layer.in_features + layer.out_features) for layer in linear)
    with tuned_on(model, ["language"], lora={"rank": 3}, epochs=2) as tuned:
        assert tuned.cost.trained_parameters == expected
        assert tuned.cost.samples_seen == 8
        assert tuned.cost.training == 8 * expected
        assert tuned.cost.flops > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_a_lora_whose_b_is_zero_changes_nothing(name: str, generator) -> None:
    model = generator(name)
    before, answers, chosen = tensors(model), model.answer(requests()), model.choose(requests(), ANSWERS)
    learner = make_generator_learner(model, recipe(["vision", "language"]))
    for _ in ("beside", "merged"):
        assert model.answer(requests()) == answers
        np.testing.assert_array_equal(model.choose(requests(), ANSWERS), chosen)
        learner.merge()
    learner.release()
    assert_equal(tensors(model), before)


def test_a_part_that_did_not_train_is_an_error(generator, monkeypatch) -> None:
    model = generator("llava")
    before = tensors(model)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda _: None)
    with pytest.raises(CheckError, match="stayed as it was") as caught:
        tuned_on(model, ["projector", "language"])
    places = " ".join(problem.path for problem in caught.value.problems)
    assert "multi_modal_projector.linear_1" in places
    assert "language_model.layers.1" in places
    assert_equal(tensors(model), before)


def test_a_half_precision_model_trains_in_float32_and_ends_in_its_own(folders) -> None:
    model = load_model(f"dir:{folders('llava')}").predictor
    model.model.bfloat16()
    before = tensors(model)
    learner = make_generator_learner(model, recipe(["projector", "language"]))
    assert {parameter.dtype for parameter in learner.parameters().values()} == {torch.float32}
    learner.release()
    with tuned_on(model, ["projector", "language"]):
        assert {tensor.dtype for tensor in tensors(model).values() if tensor.is_floating_point()} == {torch.bfloat16}
        assert {part_of("llava", each) for each in moved(before, tensors(model))} == {"projector", "language"}
        assert len(model.answer(requests())) == 4
    assert_equal(tensors(model), before)


# Learning


COLOURS = {"yes": (220, 30, 30), "left": (30, 30, 220)}


def test_a_planted_rule_is_learnt_from_image_and_question(generator) -> None:
    """The answer depends on the colour to one question, and on nothing to another."""
    asked = [("What is", said, said) for said in COLOURS] + [("What is left?", said, "lung no") for said in COLOURS]
    model = generator("llava")

    def shown(row: int) -> Image.Image:
        return Image.new("RGB", (40, 40), COLOURS[asked[row][1]])

    data = Pairs(shown, [question for question, _, _ in asked], [answer for _, _, answer in asked])
    questions = [Request(shown(row), question, 5) for row, (question, _, _) in enumerate(asked)]
    assert not set(model.answer(questions)) & {"yes", "left", "lung no"}
    options = {"epochs": 25, "batch_size": 4, "lora": {"rank": 8, "alpha": 16, "dropout": 0.0}, "clip": 1.0}
    with tuned_on(model, ["vision", "projector", "language"], data, **options) as tuned:
        assert model.answer(questions) == list(data.answers)
        assert tuned.log[-1]["val_loss"] < 0.1 * tuned.log[0]["val_loss"]


def test_the_best_epoch_is_kept_and_training_stops_early(generator) -> None:
    model = generator("llava")
    wrong = pairs(answers=[answer[::-1] for answer in ANSWERS])
    given = recipe(["language"], epochs=9, patience=2, schedule="constant")
    with tune_generator(model, given, pairs(), wrong) as tuned:
        losses = [row["val_loss"] for row in tuned.log]
        assert tuned.chosen["epoch"] == int(np.argmin(losses[1:])) + 1
        assert len(losses) == tuned.chosen["epoch"] + 3
        assert tuned.learner.mean_loss(wrong) == pytest.approx(tuned.chosen["val_loss"], rel=1e-5)


def test_the_best_of_the_learning_rates_is_kept(generator) -> None:
    rates = {"lora_lr": [1e-5, 1e-2], "projector_lr": [1e-5, 1e-3]}
    with tuned_on(generator("llava"), ["projector", "language"], **rates) as tuned:
        assert tuned.chosen["lr"] == {"lora": 1e-2, "projector": 1e-3}
        assert [row["lr"] for row in tuned.log] == [1e-5, 1e-5, 1e-2, 1e-2]
        assert tuned.cost.samples_seen == 8


@pytest.mark.parametrize("warmup", [0.0, 0.03, 0.5])
def test_the_rate_is_transformers_cosine_after_the_warm_up(warmup: float) -> None:
    steps, given = 40, recipe(["projector"], warmup=warmup)
    rising = int(np.ceil(warmup * steps))
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_cosine_schedule_with_warmup(optimiser, rising, steps)
    factors = [rate_factor(step, steps, given) for step in range(steps)]
    np.testing.assert_allclose(factors[:rising], np.arange(1, rising + 1) / max(1, rising))
    np.testing.assert_allclose(factors[rising:], [schedule.lr_lambdas[0](step) for step in range(rising, steps)])
    assert rate_factor(39, 40, recipe(["projector"], schedule="constant")) == 1.0


# Seeds and resuming


def test_the_seed_decides_everything(generator) -> None:
    def run(seed: int) -> dict[str, torch.Tensor]:
        options = {"seed": seed, "lora": {"rank": 2, "dropout": 0.5}, "batch_size": 2}
        with tuned_on(generator("llava"), ["language"], **options) as tuned:
            return weights(tuned)

    state, first = torch.get_rng_state(), run(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert_equal(run(0), first)
    assert moved(run(1), first)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 4])
def test_a_killed_training_goes_on_to_the_same_weights(after: int, generator, tmp_path, monkeypatch) -> None:
    """Killed in an epoch, and at the end of one."""
    model, data = generator("llava"), pairs(6)
    given = {"epochs": 2, "batch_size": 2, "warmup": 0.2, "clip": 1.0, "lora": {"rank": 2, "dropout": 0.5}}
    parts = ["projector", "language"]
    with tuned_on(model, parts, data, **given) as tuned:
        whole, log, answers = weights(tuned), tuned.log, model.answer(requests())
    monkeypatch.setattr(generator_trial, "SAVE_EVERY_SECONDS", 0.0)
    save, saved = generator_trial.GeneratorTrial._save, []

    def save_and_die(self: Any, *args: Any) -> None:
        save(self, *args)
        saved.append(self)
        if len(saved) == after:
            raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(generator_trial.GeneratorTrial, "_save", save_and_die)
        tuned_on(model, parts, data, folder=tmp_path, **given)
    with tuned_on(model, parts, data, folder=tmp_path, **given) as tuned:
        assert_equal(weights(tuned), whole)
        assert model.answer(requests()) == answers
    losses = [[(row["epoch"], row["val_loss"]) for row in each] for each in (tuned.log, log)]
    assert losses[0] == losses[1]
    np.testing.assert_allclose([row["train_loss"] for row in tuned.log[1:]], [row["train_loss"] for row in log[1:]])
    assert [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()] == tuned.log


@pytest.mark.parametrize("change", ["seed", "recipe", "answers", "prompts"])
def test_the_checkpoint_of_another_training_is_refused(change: str, generator, tmp_path) -> None:
    model = generator("llava")
    tuned_on(model, ["projector"], folder=tmp_path).undo()
    data = pairs(answers=ANSWERS[::-1]) if change == "answers" else pairs()
    if change == "prompts":
        data = Pairs(image, QUESTIONS[::-1], ANSWERS)
    options = {"epochs": 2} if change == "recipe" else {}
    with pytest.raises(UsageError, match="another training"):
        tuned_on(model, ["projector"], data, seed=int(change == "seed"), folder=tmp_path, **options)


# Faults


def test_nan_is_told_with_its_place(folders) -> None:
    model = load_model(f"dir:{folders('llava')}").predictor
    before = tensors(model)
    with pytest.raises(DivergedError) as caught:
        tuned_on(model, ["language"], pairs(6), lora_lr=1e30, batch_size=2)
    problem = caught.value.problems[0]
    assert problem.path == "epoch 1, step 2 of 3"
    assert problem.got == "nan at learning rate 1e+30 (lora)"
    assert "smaller learning rate" in problem.hint
    assert_equal(tensors(model), before)
    with torch.no_grad():
        model.model.model.multi_modal_projector.linear_1.bias[0] = float("nan")
    with pytest.raises(DivergedError, match="epoch 0, validation"):
        tuned_on(model, ["language"])


def test_a_learning_rate_that_diverges_is_noted(generator) -> None:
    with tuned_on(generator("llava"), ["language"], lora_lr=[1e-2, 1e30], epochs=2) as tuned:
        assert tuned.chosen["lr"] == {"lora": 1e-2}
        assert any("nan at learning rate 1e+30 (lora) in epoch" in note for note in tuned.notes)


@contextmanager
def refusing(model: HfGenerator, refused: Callable[[int], bool]) -> Iterator[None]:
    """Let the model refuse a number of questions at once, as a full GPU does, but for the look at one blank image."""

    def hook(module: Any, _: Any, inputs: dict[str, torch.Tensor]) -> None:
        if torch.is_grad_enabled() and module.training and refused(len(inputs["input_ids"])):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    handle = model.model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def test_out_of_memory_keeps_the_effective_batch(generator) -> None:
    model, data, parts = generator("qwen"), pairs(6), ["projector", "language"]
    with tuned_on(model, parts, data) as tuned:
        whole = tuned.log[-1]["val_loss"]
    with refusing(model, lambda count: count > 2), tuned_on(model, parts, data) as tuned:
        assert tuned.log[-1]["val_loss"] == pytest.approx(whole, rel=1e-3)
        assert tuned.log[-1]["images_at_once"] == 2
        assert any("computed 2 at a time" in note for note in tuned.notes)


def test_one_question_too_large_is_computed_without_keeping_activations(generator) -> None:
    model, parts = generator("qwen"), ["vision", "projector", "language"]
    with tuned_on(model, parts) as tuned:
        whole = tuned.log[-1]["val_loss"]
    with refusing(model, lambda _: not model.model.is_activation_checkpointing), tuned_on(model, parts) as tuned:
        assert tuned.log[-1]["val_loss"] == pytest.approx(whole, rel=1e-3)
        assert "activations were computed twice to save memory" in tuned.notes
    assert not model.model.is_activation_checkpointing
    assert not model.model.get_input_embeddings()._forward_hooks


def test_a_single_question_too_large(generator) -> None:
    model = generator("llava")
    before = tensors(model)
    with refusing(model, lambda _: True), pytest.raises(VlmedError, match="single sample does not fit") as caught:
        tuned_on(model, ["language"])
    assert "Tried to allocate 20.00 GiB" in str(caught.value)
    assert_equal(tensors(model), before)


def test_sets_that_nothing_can_be_learnt_from(generator) -> None:
    empty, blank = pairs(0), Pairs(image, QUESTIONS, ["yes", " ", "no", ""])
    with pytest.raises(InputError) as caught:
        tune_generator(generator("llava"), recipe(["projector"]), empty, blank)
    told = [(problem.what, problem.path) for problem in caught.value.problems]
    assert told == [
        ("the train set is empty", ""),
        ("an answer is empty", "val sample 1"),
        ("an answer is empty", "val sample 3"),
    ]


def test_absent_parts_are_named(generator, monkeypatch) -> None:
    monkeypatch.setitem(generators._PART_NAMES, "projector", ("bridge",))
    with pytest.raises(InputError, match="no projector part") as caught:
        tuned_on(generator("llava"), ["language"])
    assert "multi_modal_projector" in str(caught.value)


def test_parts_without_the_layers_named_are_told(generator) -> None:
    model = generator("llava")
    with pytest.raises(UsageError) as caught:
        tuned_on(model, ["vision", "language"], lora={"targets": ["qkv"]})
    assert [problem.what.split()[1] for problem in caught.value.problems] == ["vision", "language"]
    with tuned_on(model, ["language"], lora={"rank": 4, "targets": ["q_proj"]}) as tuned:
        assert tuned.cost.trained_parameters == 2 * 4 * (32 + 32)


def test_a_question_about_an_unreadable_image_ends_it_and_undoes_it(generator) -> None:
    model = generator("llava")
    before = tensors(model)

    def unreadable(row: int) -> Image.Image:
        raise InputError("damaged image", path=f"sample {row}")

    with pytest.raises(InputError, match="damaged image"):
        tuned_on(model, ["language"], Pairs(unreadable, QUESTIONS, ANSWERS))
    assert_equal(tensors(model), before)


# Products


@pytest.mark.parametrize(
    ("name", "parts", "kind"),
    [
        ("llava", ["projector"], "adapter"),
        ("qwen", ["vision", "projector"], "adapter"),
        ("gemma", ["vision", "projector", "language"], "adapter"),
        ("blip2", ["vision", "language"], "adapter"),
        ("blip2", ["projector", "language"], "checkpoint"),
    ],
)
def test_what_was_tuned_is_saved_and_answers_the_same(
    name: str, parts: list[str], kind: str, loaded, tmp_path: Path
) -> None:
    info, model = loaded(name).info, loaded(name).predictor
    with tuned_on(model, parts, batch_size=2) as tuned:
        answers, chosen = model.answer(requests()), model.choose(requests(), ANSWERS)
        base = resolve(parse_reference(info.ref)).path
        save_generator(tuned, tmp_path / "out", base, info.ref, info.revision, "a few questions")
    saved = f"dir:{tmp_path / 'out'}"
    again = load_model(info.ref, adapter=saved) if kind == "adapter" else load_model(saved)
    assert (tmp_path / "out" / "adapter_config.json").exists() == (kind == "adapter")
    assert again.predictor.answer(requests()) == answers
    np.testing.assert_allclose(again.predictor.choose(requests(), ANSWERS), chosen, atol=1e-4)
    assert np.abs(model.choose(requests(), ANSWERS) - chosen).max() > 1e-2
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Tuned on: a few questions" in card
    assert ("library_name: peft" in card) == (kind == "adapter")


def test_llava_as_its_authors_publish_it_is_tuned_and_saved(tmp_path: Path) -> None:
    info = (original := load_model(f"dir:{llava_factory.tiny_llava(tmp_path / 'base')}")).info
    with tuned_on(original.predictor, ["projector", "language"]) as tuned:
        chosen = original.predictor.choose(requests(), ANSWERS)
        save_generator(tuned, tmp_path / "out", tmp_path / "base", info.ref, info.revision)
    again = load_model(f"dir:{tmp_path / 'out'}").predictor
    np.testing.assert_allclose(again.choose(requests(), ANSWERS), chosen, atol=1e-4)


def test_nothing_is_saved_after_undo_nor_over_other_files(loaded, tmp_path: Path) -> None:
    info, model = loaded("llava").info, loaded("llava").predictor
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with tuned_on(model, ["projector"]) as tuned, pytest.raises(UsageError, match="other files"):
        save_generator(tuned, tmp_path / "used", tmp_path, info.ref, info.revision)
    with pytest.raises(UsageError, match="old weights"):
        save_generator(tuned, tmp_path / "new", tmp_path, info.ref, info.revision)


# The recipe


FULL = {
    "parts": ["language", "projector"],
    "lora_lr": [1e-4, 2e-4],
    "projector_lr": [1e-5, 2e-5],
    "epochs": 1,
    "batch_size": 16,
    "schedule": "cosine",
    "warmup": 0.03,
    "lora": {"rank": 128, "alpha": 256, "dropout": 0.05, "targets": "auto"},
}


def test_a_recipe_is_read_in_one_order() -> None:
    read = parse_generator_recipe(FULL)
    assert read.parts == ("projector", "language")
    assert read.by_lora == ("language",)
    assert read.rates == [{"lora": 1e-4, "projector": 1e-5}, {"lora": 2e-4, "projector": 2e-5}]
    assert read == parse_generator_recipe({**FULL, "parts": ["projector", "language"]})
    assert parse_generator_recipe({"parts": ["projector"], "projector_lr": 1, "epochs": 1, "batch_size": 1}).rates == [
        {"projector": 1.0}
    ]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"parts": []}, "parts"),
        ({"parts": ["projector", "projector"]}, "parts"),
        ({"parts": ["head"]}, "parts"),
        ({"parts": [["vision"]]}, "parts"),
        ({"parts": "vision"}, "parts"),
        ({"lora_lr": -1}, "lora_lr"),
        ({"lora_lr": [1e-4]}, "projector_lr"),
        ({"parts": ["projector"]}, "lora"),
        ({"parts": ["vision"]}, "projector_lr"),
        ({"warmup": 1}, "warmup"),
        ({"clip": 0}, "clip"),
        ({"schedule": "linear"}, "schedule"),
        ({"epochs": 0}, "epochs"),
        ({"head": "linear"}, "head"),
        ({"lora": {"rank": 0}}, "lora.rank"),
        ({"lora": 8}, "lora"),
    ],
)
def test_what_a_recipe_may_not_say(change: dict[str, Any], path: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_generator_recipe(FULL | change, "tasks.yaml: x@1")
    assert f"$.recipe.{path}" in [problem.path for problem in caught.value.problems]
    assert {problem.file for problem in caught.value.problems} == {"tasks.yaml: x@1"}


def test_what_a_recipe_lacks() -> None:
    with pytest.raises(InputError) as caught:
        parse_generator_recipe({})
    assert [problem.path for problem in caught.value.problems] == [
        f"$.recipe.{key}" for key in ("parts", "epochs", "batch_size")
    ]
    with pytest.raises(InputError) as caught:
        parse_generator_recipe({"parts": ["projector", "vision"], "epochs": 1, "batch_size": 1})
    assert {problem.path for problem in caught.value.problems} == {"$.recipe.lora_lr", "$.recipe.projector_lr"}


def test_every_question_is_seen_once_per_epoch(generator) -> None:
    seen: list[int] = []

    def watched(row: int) -> Image.Image:
        seen.append(row)
        return image(row)

    data = Pairs(watched, QUESTIONS, ANSWERS)
    given = recipe(["projector"], epochs=2, batch_size=3)
    with tune_generator(generator("llava"), given, data, pairs()):
        order = [list(map(int, np.concatenate(shuffled(4, 3, 0, epoch)))) for epoch in (1, 2)]
    assert [sorted(seen[:4]), sorted(seen[4:])] == [sorted(each) for each in order] == [[0, 1, 2, 3]] * 2
