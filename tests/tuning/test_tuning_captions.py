import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from tuning_cases import CLASSES, Case, assert_equal, load_case, moved, weights

import families
from vlmed.errors import InputError, UsageError
from vlmed.models.load import load_model
from vlmed.tuning import trial
from vlmed.tuning.anatomy import shares_text
from vlmed.tuning.batches import shuffled
from vlmed.tuning.contrastive import (
    Captioned,
    CaptionObjective,
    NoHead,
    contrastive_loss,
    embeddings,
    tune_on_captions,
)
from vlmed.tuning.head import PromptHead, similarity
from vlmed.tuning.learner import Learner
from vlmed.tuning.save import card, save_adapter
from vlmed.tuning.tune import Tuned

DUAL = ["clip", "open_clip", "siglip"]
COLOURS = np.array(["a red image", "a green image", "a blue image"])


def captioned(here: Case) -> Captioned:
    """Captions that name the image's colour; every caption stands at several images."""
    return Captioned(here.pixels, COLOURS[here.labels].tolist())


def distinct(here: Case) -> Captioned:
    return Captioned(here.pixels, [f"{text} {row}" for row, text in enumerate(COLOURS[here.labels])])


def train(here: Case, scope: str, data: Captioned | None = None, **options: Any) -> Tuned[CaptionObjective]:
    place = {name: options.pop(name) for name in ("seed", "folder") if name in options}
    recipe = here.recipe(scope, **{"head": "captions", **options})
    data = data or captioned(here)
    return tune_on_captions(here.encoder, recipe, data, data, **place)


# The loss


def worked(pairs: list[list[float]]) -> float:
    """Mean of -log of the first of each list's softmax."""
    return sum(math.log(sum(map(math.exp, row))) - row[0] for row in pairs) / len(pairs)


IMAGES = torch.eye(3) * torch.tensor([[1.0], [3.0], [0.5]])
TEXTS = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0, 2]])


def test_three_pairs_by_hand() -> None:
    # Cosines: image 1 to the texts 1, 0.6, 0; image 2 to them 0, 0.8, 0; image 3 to them 0, 0, 1. Scale 2.
    images = worked([[2, 1.2, 0], [1.6, 0, 0], [2, 0, 0]])
    texts = worked([[2, 0, 0], [1.6, 1.2, 0], [2, 0, 0]])
    loss = contrastive_loss(IMAGES, TEXTS, torch.tensor([0, 1, 2]), 2.0)
    assert float(loss) == pytest.approx((images + texts) / 2, abs=1e-6)


def test_pairs_with_one_caption_are_no_rivals() -> None:
    images = worked([[2, 0], [1.6, 0], [2, 0, 0]])
    texts = worked([[2, 0], [1.6, 0], [2, 0, 0]])
    loss = contrastive_loss(IMAGES, TEXTS, torch.tensor([7, 7, 2]), 2.0)
    assert float(loss) == pytest.approx((images + texts) / 2, abs=1e-6)
    assert float(contrastive_loss(IMAGES, TEXTS, torch.tensor([7, 7, 7]), 2.0)) == 0


def test_a_batch_without_twins_has_open_clip_s_loss() -> None:
    from open_clip.loss import ClipLoss

    torch.manual_seed(0)
    images, texts = torch.randn(2, 16, 24, dtype=torch.float64).requires_grad_()
    expected = ClipLoss()(
        torch.nn.functional.normalize(images, dim=-1), torch.nn.functional.normalize(texts, dim=-1), 14.3
    )
    loss = contrastive_loss(images, texts, torch.arange(16), 14.3)
    torch.testing.assert_close(loss, expected)
    theirs, ours = (torch.autograd.grad(each, (images, texts), retain_graph=True) for each in (expected, loss))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", DUAL)
def test_the_validation_loss_is_open_clip_s_over_fixed_batches(name: str, case) -> None:
    from open_clip.loss import ClipLoss

    here: Case = case(name)
    data = distinct(here)
    with torch.no_grad():
        image = torch.nn.functional.normalize(here.embeddings(), dim=-1)
        text = torch.nn.functional.normalize(here.encoder.encode_texts(data.captions), dim=-1)
        scale = here.encoder.logit_scale
        losses = [float(ClipLoss()(image[rows], text[rows], scale)) * len(rows) for rows in shuffled(21, 8, 0, 0)]
    for seed in (0, 1):
        with train(here, "lora", data, seed=seed, epochs=1) as tuned:
            assert tuned.log[0]["val_loss"] == pytest.approx(sum(losses) / 21, rel=1e-4)


# What trains


@pytest.mark.parametrize("scope", ["lora", "partial", "full"])
@pytest.mark.parametrize("name", DUAL)
def test_only_what_is_meant_to_train_changes(name: str, scope: str, case) -> None:
    here: Case = case(name)
    before, embedded = here.tensors(), here.embeddings()

    def texts() -> torch.Tensor:
        with torch.no_grad():
            return here.encoder.encode_texts(["a red image"])

    text = texts()
    with train(here, scope, epochs=3) as tuned:
        after = {key.replace(".base_layer", ""): tensor for key, tensor in here.tensors().items()}
        changed = moved(before, after)
        assert changed <= (set() if scope == "lora" else tuned.learner.trained.keys())
        assert bool(changed) == (scope != "lora")
        assert "logit_scale" not in changed
        assert torch.equal(texts(), text) == (scope != "full")
        assert not torch.equal(here.embeddings(), embedded)
        assert tuned.chosen["val_loss"] < tuned.log[0]["val_loss"]
    assert not moved(before, here.tensors())
    assert torch.equal(here.embeddings(), embedded)
    assert torch.equal(texts(), text)


def test_images_learn_to_find_their_captions(case) -> None:
    here: Case = case("clip")

    def found(images: np.ndarray, texts: np.ndarray) -> float:
        images, texts = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (images, texts))
        return float((np.array(captions)[(images @ texts.T).argmax(axis=1)] == captions).mean())

    captions = captioned(here).captions
    with torch.no_grad():
        before = found(here.embeddings().numpy(), here.encoder.encode_texts(captions).numpy())
    with train(here, "full", epochs=8) as tuned:
        images, texts = embeddings(tuned, here.pixels, captions)
        assert images.dtype == texts.dtype == np.float32
        assert found(images, texts) == 1 > before
        with torch.no_grad():
            np.testing.assert_allclose(images, here.embeddings(), atol=1e-5)
        assert tuned.notes[0] == "18 of 21 train captions stand there before; twins are no rivals"
        text = card(tuned, "org/model", "0" * 40, "phantom", "transformers")
        assert "images and captions were drawn together" in text
        assert "Classes" not in text
    with pytest.raises(UsageError, match="old weights"):
        embeddings(tuned, here.pixels, captions)


# Memory, chance, interruption


@pytest.mark.parametrize(("name", "scope"), [("clip", "full"), ("open_clip", "lora"), ("siglip", "partial")])
def test_parts_of_a_batch_have_all_its_rivals(name: str, scope: str, case) -> None:
    here: Case = case(name, fresh=True)
    recipe = here.recipe(scope, head="captions", **({"lora": {"dropout": 0.0}} if scope == "lora" else {}))
    objective = CaptionObjective(Learner.of(here.encoder, recipe, NoHead()), here.encoder, captioned(here), None)
    objective.learner.set_training(True)
    rows, inputs = np.arange(21), here.images
    objective.learner.at_once = 21
    loss = objective.backward(rows, inputs)
    whole = {key: parameter.grad.clone() for key, parameter in objective.learner.parameters().items()}

    def refuse(_: object, args: tuple[torch.Tensor, ...]) -> None:
        if len(args[0]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    here.encoder.image_tower.register_forward_pre_hook(refuse)
    parts = objective.backward(rows, inputs)
    assert objective.learner.at_once == 3
    torch.testing.assert_close(parts, loss, rtol=1e-5, atol=1e-6)
    for key, parameter in objective.learner.parameters().items():
        scale = max(float(whole[key].abs().max()), 1)
        torch.testing.assert_close(parameter.grad, whole[key], rtol=1e-3, atol=1e-5 * scale, msg=key)


def test_dropout_is_the_same_in_both_passes(case) -> None:
    here: Case = case("clip", fresh=True)
    recipe = here.recipe("lora", head="captions", lora={"dropout": 0.5})
    objective = CaptionObjective(Learner.of(here.encoder, recipe, NoHead()), here.encoder, captioned(here), None)
    drawn: list[torch.Tensor] = []
    layer = next(module for module in here.encoder.image_tower.modules() if isinstance(module, torch.nn.Dropout))
    layer.register_forward_hook(lambda _module, _args, output: drawn.append(output == 0))
    objective.learner.set_training(True)
    objective.learner.at_once = 11
    objective.backward(np.arange(21), here.images)
    first, second, *again = drawn
    assert len(again) == 2
    assert {len(first), len(second)} == {11, 10}
    for mask in again:
        assert torch.equal(mask, first if len(mask) == len(first) else second)


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("name", "scope"), [("clip", "full"), ("open_clip", "full"), ("open_clip", "lora")])
def test_a_killed_training_goes_on_to_the_same_weights(name: str, scope: str, case, tmp_path, monkeypatch) -> None:
    options = {"epochs": 3, **({"lora": {"dropout": 0.5}} if scope == "lora" else {})}
    with train(case(name), scope, **options) as tuned:
        whole, log = weights(tuned), tuned.log
    with train(case(name), scope, seed=1, **options) as tuned:
        assert moved(weights(tuned), whole)
    # A LoRA that came and went leaves parameters in another order than a fresh model has.
    train(case(name), "lora", epochs=1).undo()
    save = trial.Trial._save

    def save_and_die(self: trial.Trial) -> None:
        save(self)
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(trial.Trial, "_save", save_and_die)
        train(case(name), scope, folder=tmp_path, **options)
    here: Case = case(name, fresh=True)
    with train(here, scope, folder=tmp_path, **options) as tuned:
        assert_equal(weights(tuned), whole)
        assert [row["train_loss"] for row in tuned.log] == [row["train_loss"] for row in log]
    with pytest.raises(UsageError, match="another training"):
        train(here, scope, distinct(here), folder=tmp_path, **options)


# What can't be tuned


def test_captions_that_nothing_can_be_told_from(case) -> None:
    here: Case = case("clip")
    same = Captioned(here.pixels, ["an image"] * 21)
    recipe = here.recipe("lora", head="captions")
    with pytest.raises(InputError, match="the train set has fewer than two distinct captions") as caught:
        tune_on_captions(here.encoder, recipe, same, Captioned(here.pixels, []))
    assert len(caught.value.problems) == 2


# Several vectors for an image


def test_of_several_vectors_the_most_similar_counts() -> None:
    torch.manual_seed(0)
    images, texts = torch.randn(5, 3 * 8, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64)
    cosines = [
        [max(float(torch.cosine_similarity(part, text, dim=0)) for part in image.split(8)) for text in texts]
        for image in images
    ]
    np.testing.assert_allclose(similarity(images, texts), cosines, atol=1e-12)


@pytest.fixture(scope="module")
def blip2() -> Case:
    return load_case(families.checkpoint("blip2_retrieval"), 21)


@pytest.mark.parametrize("scope", ["lora", "partial", "full"])
def test_blip_2_is_tuned_on_captions_by_its_own_similarity(scope: str, blip2: Case) -> None:
    before, data = blip2.tensors(), distinct(blip2)
    with torch.no_grad():
        texts = blip2.encoder.encode_texts(data.captions)
        logits = similarity(blip2.embeddings(), texts)
        losses = []
        for rows in shuffled(21, 8, 0, 0):
            part, own = logits[rows][:, rows], torch.arange(len(rows))
            both = functional.cross_entropy(part, own) + functional.cross_entropy(part.T, own)
            losses.append(float(both) / 2 * len(rows))
    with train(blip2, scope, data, epochs=4, lr=1e-2) as tuned:
        assert tuned.log[0]["val_loss"] == pytest.approx(sum(losses) / 21, rel=1e-4)
        assert tuned.chosen["val_loss"] < tuned.log[0]["val_loss"]
        images, texts = embeddings(tuned, blip2.pixels, data.captions)
        assert images.shape[1] == blip2.encoder.n_vectors * texts.shape[1]
    assert not moved(before, blip2.tensors())


@pytest.mark.parametrize("head", ["prompts", "captions"])
def test_what_blip_2_tuned_is_what_its_adapter_does(head: str, blip2: Case, tmp_path: Path) -> None:
    """Its text side runs through layers of the image side, so a LoRA on that moves the texts too."""
    with torch.no_grad():
        before = blip2.encoder.encode_texts(CLASSES["red"])
    tuning = train(blip2, "lora", distinct(blip2)) if head == "captions" else blip2.tune("lora")
    with tuning as tuned:
        save_adapter(tuned, tmp_path / "saved", f"dir:{blip2.folder}", blip2.model.info.revision)
        loss = tuned.objective.val_loss()
        assert loss == pytest.approx(tuned.chosen["val_loss"], abs=1e-6)
        with torch.no_grad():
            texts, images = blip2.encoder.encode_texts(CLASSES["red"]), blip2.embeddings()
        probabilities = tuned.probabilities(blip2.pixels, 21) if head == "prompts" else None
    assert (texts - before).abs().max() > 1e-4
    again = load_model(f"dir:{blip2.folder}", adapter=f"dir:{tmp_path / 'saved'}").predictor
    with torch.no_grad():
        torch.testing.assert_close(again.encode_texts(CLASSES["red"]), texts, rtol=0, atol=1e-4)
        torch.testing.assert_close(again.encode_images(blip2.images), images, rtol=0, atol=1e-4)
        if probabilities is not None:
            anew = PromptHead(again, CLASSES, False)
            logits = anew.logits(again.encode_images(blip2.images), anew.vectors())
            np.testing.assert_allclose(logits.softmax(dim=1), probabilities, atol=1e-4)


@pytest.mark.parametrize("name", [*DUAL, "blip2_retrieval"])
def test_only_blip_2_shares_layers_between_its_sides(name: str, case, blip2: Case) -> None:
    here = blip2 if name == "blip2_retrieval" else case(name)
    assert shares_text(here.encoder) == (name == "blip2_retrieval")
