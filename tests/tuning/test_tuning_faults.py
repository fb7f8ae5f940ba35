from typing import Any

import numpy as np
import pytest
import torch
from tuning_cases import CLASSES, Case, moved

from vlmed.errors import InputError, UsageError, VlmedError
from vlmed.tuning.batches import Labelled, shuffled
from vlmed.tuning.course import DivergedError
from vlmed.tuning.learner import make_learner
from vlmed.tuning.tune import tune


def test_nan_is_told_with_its_place(case) -> None:
    here: Case = case("vit", fresh=True)
    before = here.tensors()
    here.images[4] = float("nan")
    bad = here.data
    good = Labelled(lambda rows: torch.nan_to_num(here.images[rows]), here.labels)
    with pytest.raises(DivergedError) as caught:
        tune(here.encoder, here.recipe("full", lr=2e-3), bad, good, CLASSES)
    problem = caught.value.problems[0]
    step = next(number for number, rows in enumerate(shuffled(21, 8, 0, 1), 1) if 4 in rows)
    assert problem.path == f"epoch 1, step {step} of 3"
    assert problem.got == "nan at learning rate 0.002"
    assert "smaller learning rate" in problem.hint
    assert not moved(before, here.tensors())
    with pytest.raises(DivergedError, match="epoch 0, validation"):
        tune(here.encoder, here.recipe("full"), good, bad, CLASSES)


def test_a_learning_rate_that_diverges_is_noted(case) -> None:
    with case("resnet").tune("full", lr=[1e-3, 1e30]) as tuned:
        assert tuned.chosen["lr"] == 1e-3
        assert any("1e+30 diverged in epoch" in note for note in tuned.notes)


def limited(here: Case, most: int) -> None:
    """Let the tower refuse more than `most` images at once, as a full GPU does."""

    def refuse(_: object, args: tuple[torch.Tensor, ...]) -> None:
        if len(args[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    here.encoder.image_tower.register_forward_pre_hook(refuse)


@pytest.mark.parametrize(("name", "scope"), [("clip", "full"), ("vit", "partial"), ("open_clip", "lora")])
def test_out_of_memory_keeps_the_effective_batch(name: str, scope: str, case) -> None:
    # Steps of plain size, so that Adam doesn't blow rounding errors up.
    options = {"epochs": 2, "class_weights": "balanced", "lora": {"dropout": 0}} if scope == "lora" else {"epochs": 2}
    with case(name).tune(scope, **options) as tuned:
        whole = tuned.probabilities(case(name).pixels, 21)
    here: Case = case(name, fresh=True)
    limited(here, 3)
    with here.tune(scope, **options) as tuned:
        np.testing.assert_allclose(tuned.probabilities(here.pixels, 21), whole, atol=2e-3)
        assert tuned.log[-1]["images_at_once"] == 2
        assert any("computed 2 at a time" in note for note in tuned.notes)


@pytest.mark.parametrize(("name", "options"), [("clip", {}), ("vit", {}), ("open_clip", {"class_weights": "balanced"})])
def test_gradients_in_parts_are_the_whole_gradient(name: str, options: dict[str, Any], case) -> None:
    here: Case = case(name, fresh=True)
    learner = make_learner(here.encoder, here.recipe("full", **options), CLASSES)
    weighted = torch.tensor([0.5, 1.0, 3.0])
    targets = torch.from_numpy(here.labels)
    loss = learner.backward(here.images, targets, weighted)
    whole = {key: parameter.grad.clone() for key, parameter in learner.parameters().items()}
    limited(here, 4)
    parts = learner.backward(here.images, targets, weighted)
    assert learner.at_once == 4
    torch.testing.assert_close(parts, loss, rtol=1e-5, atol=1e-6)
    for key, parameter in learner.parameters().items():
        scale = float(whole[key].abs().max())
        torch.testing.assert_close(parameter.grad, whole[key], rtol=1e-3, atol=1e-5 * max(scale, 1), msg=key)


def test_a_single_image_too_large(case) -> None:
    here: Case = case("vit", fresh=True)
    learner = make_learner(here.encoder, here.recipe("lora"), CLASSES)
    limited(here, 0)
    with pytest.raises(VlmedError, match="single sample does not fit") as caught:
        learner.logits(here.pixels, 21)
    assert "Tried to allocate 20.00 GiB" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda train, val: (train, val[:0]), "val set is empty"),
        (lambda train, val: (train[:0], val), "train set is empty"),
        (lambda train, val: (train * 0, val), "one class only, so there is nothing to learn"),
        (lambda train, val: (train + 1, val), "a label is no class"),
        (lambda train, val: (train, val - 1), "a label is no class"),
    ],
)
def test_labels_that_nothing_can_be_learnt_from(change: Any, says: str, case) -> None:
    here: Case = case("vit")
    train, val = change(here.labels, here.labels)
    with pytest.raises(InputError, match=says):
        tune(here.encoder, here.recipe("full"), Labelled(here.pixels, train), Labelled(here.pixels, val), CLASSES)


@pytest.mark.parametrize("balance", ["none", "balanced"])
def test_absent_classes_are_noted(balance: str, case) -> None:
    here: Case = case("clip")
    rows = np.flatnonzero(here.labels != 1)
    train = Labelled(lambda batch: here.images[rows[batch]], here.labels[rows])
    only = np.flatnonzero(here.labels == 1)
    val = Labelled(lambda batch: here.images[only[batch]], here.labels[only])
    recipe = here.recipe("lora", epochs=1, class_weights=balance)
    with tune(here.encoder, recipe, train, val, CLASSES) as tuned:
        assert tuned.notes[:4] == [
            "train has no sample of class 'green'",
            "val has no sample of class 'red'",
            "val has no sample of class 'blue'",
            "val has one class only: its loss says little, and it chose the epoch",
        ]
        assert tuned.probabilities(here.pixels, 21).shape == (21, 3)


@pytest.mark.parametrize("shape", [(7, 3, 32, 32), (8, 1, 32, 32), (8, 3, 32)])
def test_images_of_the_wrong_shape(shape: tuple[int, ...], case) -> None:
    here: Case = case("vit")
    data = Labelled(lambda rows: torch.zeros(shape), here.labels)
    with pytest.raises(InputError, match="wrong shape") as caught:
        tune(here.encoder, here.recipe("full"), data, here.data, CLASSES)
    assert str(shape) in str(caught.value)


def test_an_image_that_cannot_be_read_ends_it_and_undoes_it(case) -> None:
    here: Case = case("clip")
    before = here.tensors()

    def pixels(rows: np.ndarray) -> torch.Tensor:
        raise InputError("damaged image", path="sample 3")

    with pytest.raises(InputError, match="damaged image"):
        tune(here.encoder, here.recipe("lora"), Labelled(pixels, here.labels), here.data, CLASSES)
    assert here.tensors().keys() == before.keys()


def test_prompts_need_a_text_encoder(case) -> None:
    with pytest.raises(UsageError, match="no text encoder"):
        case("vit").tune("full", head="prompts")


def test_a_class_without_prompts(case) -> None:
    here: Case = case("clip")
    with pytest.raises(UsageError, match="has no prompts"):
        tune(here.encoder, here.recipe("lora"), here.data, here.data, {**CLASSES, "green": []})


def test_lora_targets_that_do_not_exist(case) -> None:
    with pytest.raises(UsageError, match="doesn't fit the image tower") as caught:
        case("clip").tune("lora", lora={"targets": ["qkv"]})
    assert "q_proj" in str(caught.value)


def test_named_lora_targets(case) -> None:
    with case("clip").tune("lora", epochs=1, lora={"rank": 4, "targets": ["q_proj", "v_proj"]}) as tuned:
        assert tuned.cost.trained_parameters == 4 * 2 * 2 * (32 + 32)


def test_after_undo_nothing_is_predicted(case) -> None:
    here: Case = case("vit")
    tuned = here.tune("full", epochs=1)
    tuned.undo()
    tuned.undo()
    with pytest.raises(UsageError, match="old weights"):
        tuned.probabilities(here.pixels, 3)


def test_one_unit_after_another_starts_from_the_same_model(case) -> None:
    here: Case = case("open_clip")
    results = []
    for _ in range(2):
        for scope in ("lora", "full", "partial"):
            with here.tune(scope, epochs=1) as tuned:
                results.append(tuned.probabilities(here.pixels, 21))
    for first, second in zip(results[:3], results[3:], strict=True):
        np.testing.assert_array_equal(first, second)
