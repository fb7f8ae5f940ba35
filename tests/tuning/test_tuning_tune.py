import inspect
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from tuning_cases import CLASSES, Case, assert_equal, moved, weights

from vlmed.evaluate.features import embed_texts
from vlmed.evaluate.zero_shot import zero_shot
from vlmed.models.protocols import DualEncoder
from vlmed.tuning.batches import Labelled, shuffled
from vlmed.tuning.head import PromptHead
from vlmed.tuning.learner import make_learner
from vlmed.tuning.tune import tune

ALL = ["clip", "open_clip", "siglip", "vit", "resnet", "timm"]
DUAL = ["clip", "open_clip", "siglip"]
# Multiplied by the rank: (in + out) of every adapted layer of the tiny checkpoints.
TOWER = 2 * (4 * (32 + 32) + 2 * (32 + 48))  # attention of four square layers, MLP 32 -> 48 -> 32, two blocks
LORA = {
    "clip": TOWER,
    "siglip": TOWER,
    "vit": TOWER,
    # The fused projection is one layer 32 -> 96; the MLP 32 -> 128 -> 32, in timm 64 -> 192 -> 64.
    "open_clip": 2 * ((32 + 96) + (32 + 32) + 2 * (32 + 128)),
    "timm": 6 * ((64 + 192) + (64 + 64) + 2 * (64 + 192)),
}


def conv_lora(rank: int) -> int:
    # A has the kernel, B is 1 x 1: 8 -> 8 twice; 8 -> 16, 16 -> 16 and the shortcut 8 -> 16 without a kernel.
    return rank * ((8 * 9 + 8) * 2 + (8 * 9 + 16) + (16 * 9 + 16) + (8 + 16))


# What trains


@pytest.mark.parametrize("scope", ["lora", "partial", "full"])
@pytest.mark.parametrize("name", ALL)
def test_only_what_is_meant_to_train_changes(name: str, scope: str, case) -> None:
    here: Case = case(name)
    before, embeddings = here.tensors(), here.embeddings()
    with here.tune(scope) as tuned:
        after = here.tensors()
        # PEFT puts the frozen layer one level deeper.
        after = {key.replace(".base_layer", ""): tensor for key, tensor in after.items()}
        changed = moved(before, after)
        if scope == "lora":
            assert not changed
        elif scope == "partial":
            assert changed
            assert changed <= tuned.learner.trained.keys()
            assert not any(re.search(r"(layers|blocks|resblocks)\.0\.|embed|conv1|text|running|num_batches", key)
                           for key in changed if name != "resnet")  # fmt: skip
        else:
            assert changed == {key for key in tuned.learner.trained if key in changed}
            assert len(changed) > 0.9 * len(tuned.learner.trained)
        assert not torch.equal(here.embeddings(), embeddings)
        assert tuned.log[-1]["train_loss"] < tuned.log[1]["train_loss"]
        assert tuned.chosen["val_loss"] < tuned.log[0]["val_loss"]
    assert not moved(before, here.tensors())
    assert torch.equal(here.embeddings(), embeddings)
    assert all(parameter.requires_grad for parameter in here.encoder.image_tower.parameters())
    assert not any(module.training for module in here.encoder.image_tower.modules())


@pytest.mark.parametrize("rank", [2, 8])
@pytest.mark.parametrize("name", ALL)
def test_a_lora_trains_exactly_rank_times_in_plus_out(name: str, rank: int, case) -> None:
    with case(name).tune("lora", epochs=1, lora={"rank": rank}) as tuned:
        head = sum(parameter.numel() for parameter in tuned.learner.head.parameters().values())
        expected = conv_lora(rank) if name == "resnet" else rank * LORA[name]
        assert tuned.cost.trained_parameters == tuned.proof.trained_parameters == expected + head


@pytest.mark.parametrize("name", ALL)
def test_a_lora_with_b_zero_leaves_predictions_bit_identical(name: str, case) -> None:
    here: Case = case(name)
    before = here.embeddings()
    learner = make_learner(here.encoder, here.recipe("lora"), CLASSES)
    assert learner.trained
    assert not any(parameter.any() for key, parameter in learner.trained.items() if ".lora_B." in key)
    assert torch.equal(here.embeddings(), before)
    learner.release()
    assert torch.equal(here.embeddings(), before)


@pytest.mark.parametrize("name", ALL)
def test_every_lora_layer_gets_a_gradient(name: str, case) -> None:
    here: Case = case(name, fresh=True)
    learner = make_learner(here.encoder, here.recipe("lora"), CLASSES)
    learner.backward(here.images, torch.from_numpy(here.labels), torch.ones(3))
    for key, parameter in learner.trained.items():
        assert parameter.grad is not None, key
        # B = 0 keeps the gradient of A at zero until B has moved.
        assert bool(parameter.grad.any()) == (".lora_B." in key), key


@pytest.mark.parametrize("name", DUAL)
def test_the_text_tower_moves_in_full_alone(name: str, case) -> None:
    here: Case = case(name)
    encoder = here.encoder
    assert isinstance(encoder, DualEncoder)

    def texts() -> torch.Tensor:
        with torch.no_grad():
            return encoder.encode_texts(["a red image"])

    before = texts()
    for scope, options in (("lora", {}), ("partial", {}), ("full", {"text": "frozen"}), ("full", {"head": "linear"})):
        with here.tune(scope, epochs=1, **options):
            assert torch.equal(texts(), before)
    with here.tune("full", epochs=1):
        assert not torch.equal(texts(), before)
    assert torch.equal(texts(), before)


def test_batch_norms_keep_their_statistics(case) -> None:
    here: Case = case("resnet", fresh=True)
    seen: set[bool] = set()
    norms = [module for module in here.encoder.image_tower.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    norms[0].register_forward_pre_hook(lambda module, _: seen.add(module.training))
    with here.tune("full", epochs=1):
        assert seen == {False}


def test_dropout_works_in_training_and_rests_in_evaluation(case) -> None:
    here: Case = case("vit")
    with here.tune("lora", epochs=1, lora={"dropout": 0.5}) as tuned:
        learner = tuned.learner
        learner.set_training(True)
        assert not torch.equal(here.embeddings(), here.embeddings())
        learner.set_training(False)
        assert torch.equal(here.embeddings(), here.embeddings())


# What is computed


@pytest.mark.parametrize("name", DUAL)
def test_before_training_it_predicts_as_zero_shot(name: str, case) -> None:
    here: Case = case(name)
    ensemble = {name: [texts[0], texts[-1]] for name, texts in CLASSES.items()}
    texts = embed_texts(here.encoder, [text for prompts in ensemble.values() for text in prompts])
    expected, _ = zero_shot(here.encoder, here.embeddings().numpy(), texts, len(ensemble))
    loss = -np.log(expected[np.arange(len(here.labels)), here.labels]).mean()
    for scope in ("lora", "full"):
        recipe = here.recipe(scope, epochs=1)
        with tune(here.encoder, recipe, here.data, here.data, ensemble) as tuned:
            assert tuned.log[0]["val_loss"] == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("name", ["clip", "vit"])
def test_probabilities_are_one_softmax_over_all_classes(name: str, case) -> None:
    here: Case = case(name)
    with here.tune("full", epochs=1) as tuned:
        got = tuned.probabilities(here.pixels, 21)
        with torch.no_grad():
            logits = tuned.learner.head.logits(here.embeddings(), tuned.learner.head.vectors()).double()
        expected = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=1, keepdims=True)
        assert got.shape == (21, 3)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, expected, atol=1e-5)
        np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-12)
        assert tuned.probabilities(here.pixels, 0).shape == (0, 3)


def test_of_several_vectors_per_image_the_most_similar_one_counts() -> None:
    class TwoVectors:
        logit_scale = 2.0

        def encode_texts(self, texts: list[str]) -> torch.Tensor:
            return torch.eye(2)[: len(texts)]

    head = PromptHead(TwoVectors(), {"a": ["x"], "b": ["y"]}, trained=False)  # type: ignore[arg-type]
    # One vector looks at a, the other halfway: the best similarity to a is 1, to b sqrt(1/2).
    features = torch.tensor([[3.0, 0.0, 1.0, 1.0]])
    expected = torch.tensor([[2.0, 2.0 * 0.5**0.5]])
    torch.testing.assert_close(head.logits(features, head.vectors()), expected)


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_a_bare_loop_comes_to_the_same_weights(optimiser: str, case) -> None:
    here: Case = case("clip", fresh=True)
    labels = np.where(here.labels == 2, 0, here.labels)
    labels[:2] = 2
    here = replace(here, labels=labels)
    options = {"optimiser": optimiser, "class_weights": "balanced", "weight_decay": 0.1, "head_weight_decay": 0.01}
    with here.tune("full", head="linear", head_init="zeros", epochs=3, **options) as tuned:
        best = tuned.chosen["epoch"]
        got = weights(tuned)

    tower = here.encoder.image_tower
    head = torch.nn.Linear(here.encoder.dim, 3)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    kind = torch.optim.AdamW if optimiser == "adamw" else torch.optim.Adam
    loop = kind(
        [{"params": tower.parameters(), "weight_decay": 0.1}, {"params": head.parameters(), "weight_decay": 0.01}],
        lr=3e-3,
    )
    targets = torch.from_numpy(labels)
    balanced = len(labels) / (3 * torch.bincount(targets))
    tower.train()
    for epoch in range(1, best + 1):
        for rows in shuffled(len(labels), 8, 0, epoch):
            loop.zero_grad()
            functional.cross_entropy(head(tower(here.images[rows])), targets[rows], balanced).backward()
            loop.step()
    assert best == 3
    expected = {name: p for name, p in here.encoder.model.named_parameters() if name in got}
    expected |= {"vlmed_head.weight": head.weight, "vlmed_head.bias": head.bias}
    assert expected.keys() == got.keys()
    for name, tensor in expected.items():
        # Adam turns the rounding error of a gradient that is zero in theory, a key's bias, into steps of its own.
        if "k_proj.bias" not in name:
            torch.testing.assert_close(got[name], tensor.detach(), rtol=1e-4, atol=1e-5, msg=name)


def test_every_sample_is_seen_once_per_epoch(case) -> None:
    here: Case = case("vit")
    seen: list[list[int]] = []

    def pixels(rows: np.ndarray) -> torch.Tensor:
        seen.append(rows.tolist())
        return here.images[rows]

    with tune(here.encoder, here.recipe("partial"), Labelled(pixels, here.labels), here.data, CLASSES) as tuned:
        assert tuned.cost.samples_seen == 2 * 21
        assert tuned.cost.steps == 2 * 3
        assert tuned.cost.training == 2 * 21 * tuned.cost.trained_parameters
    assert sorted(map(len, seen)) == [5, 5, 8, 8, 8, 8]
    assert sorted(row for rows in seen for row in rows) == sorted([*range(21)] * 2)


def test_floating_point_operations_of_a_step_are_known(case) -> None:
    here: Case = case("vit")
    per_image = []
    for batch in (4, 8):
        with here.tune("full", epochs=1, batch_size=batch) as tuned:
            per_image.append(tuned.cost.flops / tuned.cost.steps / batch)
    assert per_image[0] == pytest.approx(per_image[1])
    tokens, width = 17, 32
    matrices = 2 * (4 * width * width + 2 * width * 48)
    attention = 2 * 2 * tokens * tokens * width
    patches = 16 * 3 * 8 * 8 * width
    forward = 2 * (tokens * matrices + attention + patches + width * width + width * 3)
    # Backward costs twice as much, but for the images' own gradient; attention computes its scores once more.
    assert 2.7 * forward < per_image[0] < 3.3 * forward


# Choosing by validation


def test_the_best_epoch_s_weights_come_back_and_patience_ends_it(case) -> None:
    here: Case = case("vit")
    # Validation labels that contradict the training: the more it learns, the worse.
    val = Labelled(here.pixels, (here.labels + 1) % 3)
    recipe = here.recipe("full", epochs=9, patience=2, lr=1e-3)
    with tune(here.encoder, recipe, here.data, val, CLASSES) as tuned:
        assert [row["epoch"] for row in tuned.log] == [0, 1, 2, 3]
        assert tuned.chosen["epoch"] == 1
        predicted = tuned.probabilities(here.pixels, 21)[np.arange(21), val.labels]
        assert -np.log(predicted).mean() == pytest.approx(tuned.log[1]["val_loss"])
        assert any("never lowered" in note for note in tuned.notes)


def test_the_learning_rate_with_the_least_validation_loss_wins(case) -> None:
    rates = [1e-7, 3e-3]
    here: Case = case("vit")
    with here.tune("full", lr=rates) as tuned:
        assert tuned.chosen["lr"] == 3e-3
        assert tuned.chosen["val_losses"].keys() == {"1e-07", "0.003"}
        both = weights(tuned)
        assert tuned.cost.samples_seen == 2 * 2 * 21
    with case("vit").tune("full", lr=3e-3) as tuned:
        assert_equal(weights(tuned), both)


def test_no_argument_takes_test_samples() -> None:
    assert not [name for name in inspect.signature(tune).parameters if "test" in name]
