from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from tuning_cases import Case, assert_equal, load_case, moved, weights

import pmc_clip_factory
from vlmed.errors import InputError, UsageError, VlmedError
from vlmed.tuning import trial
from vlmed.tuning.bilinear import BilinearAttention
from vlmed.tuning.course import DivergedError
from vlmed.tuning.fusion import UNKNOWN, FusionObjective, QuestionSet, TunedFusion, make_fusion, tune_fusion
from vlmed.tuning.learner import Learner
from vlmed.tuning.recipe import FusionSettings, parse_recipe
from vlmed.tuning.tokens import held_images, held_words

ANSWERS = ("blue", "green", "no", "red", "yes")
COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def pmc_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pmc") / "model"
    folder.mkdir()
    return pmc_clip_factory.tiny_pmc_clip(folder)


@pytest.fixture
def models(case, pmc_clip) -> Callable[[str], Case]:
    return lambda name: load_case(pmc_clip, 21) if name == "pmc_clip" else case(name)


def asked(here: Case) -> QuestionSet:
    """Two questions in turn, which the image alone decides: its colour, and whether that is red."""
    answers = [COLOURS[label] if row % 2 else "yes" if label == 0 else "no" for row, label in enumerate(here.labels)]
    texts = ["which colour" if row % 2 else "is it red" for row in range(21)]
    labels = np.array([ANSWERS.index(answer) for answer in answers])
    return QuestionSet(here.pixels, [f"image {row}" for row in range(21)], texts, labels)


def train(here: Case, scope: str, data: QuestionSet | None = None, **options: Any) -> TunedFusion:
    place = {name: options.pop(name) for name in ("seed", "folder") if name in options}
    fusion = {"width": 16, "glimpses": 2, **options.pop("fusion", {})}
    if fusion.get("module") == "own":
        fusion = {"module": "own"}
    recipe = here.recipe(scope, **{"head": "fusion", "fusion": fusion, **options})
    data = data or asked(here)
    return tune_fusion(here.encoder, recipe, data, data, ANSWERS, **place)


# The network


def plain(network: BilinearAttention, image: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Logits (C,) for one question (T, W) without padding, element by element in float64."""

    def linear(layer: torch.nn.Linear, value: np.ndarray) -> np.ndarray:
        return value @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()

    def standard(tokens: np.ndarray) -> np.ndarray:
        return (tokens - tokens.mean(1, keepdims=True)) / np.sqrt(tokens.var(1, keepdims=True) + 1e-5)

    def relu(value: np.ndarray) -> np.ndarray:
        return np.maximum(value, 0)

    image, state = standard(image), linear(network.words, standard(words))
    places, names = relu(linear(network.image_key, image)), relu(linear(network.word_key, state))
    added = state
    for glimpse, vector in enumerate(network.glimpse.detach().double().numpy()):
        scores = np.array([[sum(vector * name * place) for place in places] for name in names])
        share = np.exp(scores) / np.exp(scores).sum()
        seen = relu(linear(network.image_value[glimpse], image))
        said = relu(linear(network.word_value[glimpse], added))
        product = sum(share[t, p] * said[t] * seen[p] for t in range(len(said)) for p in range(len(seen)))
        added = added + linear(network.joint[glimpse], product)
    return linear(network.classifier, relu(linear(network.hidden, added.mean(axis=0))))


@pytest.fixture
def network() -> BilinearAttention:
    torch.manual_seed(0)
    return BilinearAttention(5, 7, 4, FusionSettings(glimpses=3, width=6, dropout=0.5)).eval()


def test_the_network_is_the_published_sum_over_words_and_places(network) -> None:
    torch.manual_seed(1)
    image, words = torch.randn(2, 4, 5), torch.randn(2, 6, 7)
    mask = torch.arange(6) < torch.tensor([[6], [3]])
    got = network(image, words, mask).detach().numpy()
    for row, length in enumerate((6, 3)):
        expected = plain(network, image[row].double().numpy(), words[row, :length].double().numpy())
        np.testing.assert_allclose(got[row], expected, atol=1e-5)


def test_padding_does_not_matter(network) -> None:
    torch.manual_seed(1)
    image, words = torch.randn(2, 4, 5), torch.randn(2, 6, 7)
    mask = torch.arange(6) < torch.tensor([[6], [3]])
    expected = network(image, words, mask)
    garbage = torch.where(mask[..., None], words, 1e4 * torch.randn(2, 6, 7))
    torch.testing.assert_close(network(image, garbage, mask), expected)
    longer, masked = functional.pad(words, (0, 0, 0, 5), value=3.0), functional.pad(mask, (0, 5))
    torch.testing.assert_close(network(image, longer, masked), expected)
    share = network.attention(image, network.words(words), mask)
    assert share.shape == (2, 3, 6, 4)
    torch.testing.assert_close(share.sum(dim=(2, 3)), torch.ones(2, 3))
    assert not share[1, :, 3:].any()
    assert (share[1, :, :3] > 0).all()


def test_dropout_is_for_training(network) -> None:
    image, words, mask = torch.randn(1, 4, 5), torch.randn(1, 6, 7), torch.ones(1, 6, dtype=torch.bool)
    assert torch.equal(network(image, words, mask), network(image, words, mask))
    network.train()
    assert not torch.equal(network(image, words, mask), network(image, words, mask))


# What trains

OWN = {"module": "own"}


@pytest.mark.parametrize(
    ("name", "scope", "fusion"),
    [
        ("clip", "frozen", {}),
        ("clip", "partial", {}),
        ("clip", "full", {}),
        ("open_clip", "lora", {}),
        ("open_clip", "partial", {}),
        ("open_clip", "full", {}),
        ("siglip", "lora", {}),
        ("siglip", "full", {}),
        ("pmc_clip", "frozen", {}),
        ("pmc_clip", "frozen", OWN),
        ("pmc_clip", "partial", OWN),
        ("pmc_clip", "full", OWN),
    ],
)
def test_only_what_is_meant_to_train_changes(name: str, scope: str, fusion: dict[str, Any], models) -> None:
    here: Case = models(name)
    before = here.tensors()
    with train(here, scope, fusion=fusion) as tuned:
        after = {key.replace(".base_layer", ""): tensor for key, tensor in here.tensors().items()}
        changed = moved(before, after)
        assert changed <= tuned.learner.trained.keys()
        own = {key for key in changed if key.startswith("fusion.")}
        assert bool(own) == bool(fusion)
        assert bool(changed - own) == (scope in ("partial", "full"))
        assert any(key.startswith(("text", "transformer")) for key in changed) == (scope == "full")
        assert "fusion.mlm_projection" not in changed
        assert all(key.startswith("vlmed_head.") for key in tuned.objective.head.parameters())
        assert tuned.chosen["val_loss"] < tuned.log[0]["val_loss"]
    assert not moved(before, here.tensors())
    assert all(parameter.requires_grad for parameter in here.encoder.model.parameters())


def test_before_training_the_loss_is_the_networks_own(case) -> None:
    here: Case = case("clip")
    data = asked(here)
    with train(here, "frozen", epochs=1, seed=3) as tuned:
        loss = tuned.log[0]["val_loss"]
    torch.manual_seed(3)
    head = make_fusion(here.encoder, FusionSettings(width=16, glimpses=2), 5)
    with torch.no_grad():
        words, mask = here.encoder.encode_text_tokens(data.questions)
        logits = head.module.eval()(here.encoder.encode_image_tokens(here.images), words, mask)
    assert loss == pytest.approx(float(functional.cross_entropy(logits, torch.from_numpy(data.labels))), abs=1e-5)


@pytest.mark.parametrize("scope", ["frozen", "full"])
def test_it_learns_what_the_image_decides(scope: str, case, tmp_path) -> None:
    here: Case = case("open_clip")
    train_set = asked(here)
    rows = np.random.default_rng(5).permutation(21)
    noise = 0.3 * torch.randn(here.images.shape, generator=torch.Generator().manual_seed(7))
    new = replace(
        train_set,
        pixels=lambda batch: (here.images + noise)[rows[batch]],
        questions=[train_set.questions[row] for row in rows],
        labels=np.full(21, UNKNOWN),
    )
    options = {"epochs": 40, "lr": 3e-3} if scope == "frozen" else {"epochs": 15, "lr": 1e-3}
    with train(here, scope, folder=tmp_path, fusion={"width": 32}, **options) as tuned:
        right = np.array(tuned.predict(new)) == np.array(ANSWERS)[train_set.labels[rows]]
        assert tuned.chosen["val_loss"] < 0.3 * tuned.log[0]["val_loss"]
    # The question alone gets two of three is-it-red right and one of three colours.
    assert right.mean() > 0.85


# Answers and images that repeat or lack


def test_validation_answers_that_training_lacks_do_not_count(case) -> None:
    here: Case = case("clip")
    data = asked(here)
    known = np.arange(21) % 3 > 0
    val = replace(data, labels=np.where(known, data.labels, UNKNOWN))
    few = QuestionSet(
        lambda rows: here.images[np.flatnonzero(known)[rows]],
        np.array(data.images)[known].tolist(),
        np.array(data.questions)[known].tolist(),
        data.labels[known],
    )
    recipe = here.recipe("frozen", head="fusion", fusion={"width": 16}, epochs=1)
    losses = []
    for each in (val, few):
        with tune_fusion(here.encoder, recipe, data, each, ANSWERS) as tuned:
            losses.append(tuned.log[1]["val_loss"])
            assert (tuned.notes[0] == "7 of 21 val answers are no training answers and don't count there") == (
                each is val
            )
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: (replace(data, labels=data.labels * 0), data), "fewer than two answers"),
        (lambda data: (replace(data, labels=data.labels + 1), data), "train sample .*the training answer is none"),
        (lambda data: (data, replace(data, labels=np.full(21, UNKNOWN))), "no val answer is a training answer"),
    ],
)
def test_answers_that_nothing_can_be_learnt_from(change: Any, says: str, case) -> None:
    here: Case = case("clip")
    train_set, val = change(asked(here))
    with pytest.raises(InputError, match=says):
        tune_fusion(here.encoder, here.recipe("frozen", head="fusion"), train_set, val, ANSWERS)


def test_a_frozen_encoder_sees_each_image_once(case, tmp_path) -> None:
    here: Case = case("clip", fresh=True)
    learner = Learner.of(here.encoder, here.recipe("frozen", head="fusion"), None)
    names = [f"image {row % 5}" for row in range(21)]
    seen: list[int] = []
    here.encoder.image_tower.vision_model.register_forward_pre_hook(
        lambda _module, _args, given: seen.append(len(given["pixel_values"])), with_kwargs=True
    )

    def pixels(rows: np.ndarray) -> torch.Tensor:
        return here.images[rows % 5]

    rows = np.array([20, 3, 8, 0])
    held = [
        held_images(learner, here.encoder.encode_image_tokens, pixels, names, folder, lambda done: None)
        for folder in (None, tmp_path)
    ]
    assert sum(seen) == 10
    with torch.no_grad():
        expected = here.encoder.encode_image_tokens(here.images[rows % 5])
    for load in held:
        torch.testing.assert_close(load(rows), expected, rtol=1e-4, atol=1e-5)
    assert not list(tmp_path.iterdir())


def test_held_words_are_those_of_each_question_alone(case) -> None:
    encoder = case("clip").encoder
    questions = ["is it red", "which", "is it red", "a much longer one"]
    words = held_words(encoder.encode_text_tokens, questions, 2)
    tokens, mask = words(np.array([1, 3, 2]))
    for row, place in enumerate((1, 3, 2)):
        with torch.no_grad():
            alone, whole = encoder.encode_text_tokens([questions[place]])
        length = int(whole.sum())
        assert int(mask[row].sum()) == length
        torch.testing.assert_close(tokens[row, :length], alone[0, :length], rtol=1e-4, atol=1e-5)


def test_a_folder_that_holds_no_tokens(case, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VlmedError, match="tokens can't be kept"):
        train(case("clip"), "frozen", folder=tmp_path / "file")


# Models, memory, chance, interruption


def test_a_lora_that_no_token_passes_through(pmc_clip) -> None:
    here = load_case(pmc_clip, 21)
    before = here.tensors()
    with pytest.raises(UsageError, match="no layer that a LoRA could go on lies before"):
        train(here, "lora", lora={"targets": ["attnpool.c_proj"]})
    assert before.keys() == here.tensors().keys()


@pytest.mark.parametrize(("scope", "text"), [("frozen", "frozen"), ("lora", "frozen"), ("full", "trained")])
def test_gradients_in_parts_are_the_whole_gradient(scope: str, text: str, case) -> None:
    here: Case = case("clip", fresh=True)
    fusion = {"width": 16, "dropout": 0.0}
    recipe = here.recipe(scope, head="fusion", fusion=fusion, **({"lora": {"dropout": 0.0}} if scope == "lora" else {}))
    assert recipe.text == text
    data = asked(here)
    with tune_fusion(here.encoder, replace(recipe, epochs=1), data, data, ANSWERS) as tuned:
        objective: FusionObjective = tuned.objective
        rows = np.arange(21)
        (_, inputs), *_ = objective.stream([rows])
        objective.learner.set_training(True)
        objective.learner.at_once = 21
        loss = objective.backward(rows, inputs)
        whole = {key: parameter.grad.clone() for key, parameter in tuned.learner.parameters().items()}

        def refuse(_: object, args: tuple[torch.Tensor, ...]) -> None:
            if len(args[0]) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

        objective.head.module.register_forward_pre_hook(refuse)
        parts = objective.backward(rows, inputs)
        assert objective.learner.at_once == 3
        torch.testing.assert_close(parts, loss, rtol=1e-5, atol=1e-6)
        for key, parameter in tuned.learner.parameters().items():
            scale = max(float(whole[key].abs().max()), 1)
            torch.testing.assert_close(parameter.grad, whole[key], rtol=1e-3, atol=1e-5 * scale, msg=key)


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("name", "scope", "fusion"), [("clip", "frozen", {}), ("open_clip", "full", {}), ("pmc_clip", "frozen", OWN)]
)
def test_a_killed_training_goes_on_to_the_same_weights(
    name: str, scope: str, fusion: dict[str, Any], models, tmp_path, monkeypatch
) -> None:
    options = {"epochs": 3, "fusion": {"dropout": 0.5, **fusion}}
    with train(models(name), scope, **options) as tuned:
        whole, log, logits = weights(tuned), tuned.log, tuned.objective.logits(asked(models(name)))
    with train(models(name), scope, seed=1, **options) as tuned:
        assert moved(weights(tuned), whole)
    save = trial.Trial._save

    def save_and_die(self: trial.Trial) -> None:
        save(self)
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(trial.Trial, "_save", save_and_die)
        train(models(name), scope, folder=tmp_path, **options)
    here = load_case(models(name).folder, 21)
    with train(here, scope, folder=tmp_path, **options) as tuned:
        assert_equal(weights(tuned), whole)
        assert torch.equal(tuned.objective.logits(asked(here)), logits)
        assert [row["train_loss"] for row in tuned.log] == [row["train_loss"] for row in log]
    with pytest.raises(UsageError, match="old weights"):
        tuned.predict(asked(here))
    other = replace(asked(here), questions=["is it green"] * 21)
    with pytest.raises(UsageError, match="another training"):
        train(here, scope, other, folder=tmp_path, **options)


def test_nan_is_told(case) -> None:
    here: Case = case("clip")
    bad = replace(asked(here), pixels=lambda rows: here.images[rows] * float("nan"))
    with pytest.raises(DivergedError, match="epoch 0, validation"):
        train(here, "frozen", bad)


RECIPE = {"head": "fusion", "epochs": 2, "batch_size": 8, "lr": 1e-3}


@pytest.mark.parametrize(
    ("scope", "change", "path"),
    [
        ("frozen", {"head": "prompts"}, "$.recipe.head"),
        ("lora", {"head": "captions", "batch_size": 1}, "$.recipe.batch_size"),
        ("lora", {"head": "captions", "class_weights": "balanced"}, "$.recipe.class_weights"),
        ("full", {"head": "linear", "fusion": {}}, "$.recipe.fusion"),
        ("full", {"prompts": "vlmed"}, "$.recipe.prompts"),
        ("partial", {"text": "trained"}, "$.recipe.text"),
        ("frozen", {"fusion": {"module": "other"}}, "$.recipe.fusion.module"),
        ("frozen", {"fusion": {"glimpses": 0}}, "$.recipe.fusion.glimpses"),
        ("frozen", {"fusion": {"heads": 2}}, "$.recipe.fusion.heads"),
        ("frozen", {"fusion": 4}, "$.recipe.fusion"),
    ],
)
def test_recipes_that_contradict_themselves(scope: str, change: dict[str, Any], path: str) -> None:
    assert parse_recipe("full", RECIPE).text == "trained"
    with pytest.raises(InputError) as caught:
        parse_recipe(scope, RECIPE | change)
    assert [problem.path for problem in caught.value.problems] == [path]
