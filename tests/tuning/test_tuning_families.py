"""Every family of models is tuned, in one way each; over the families come all heads, scopes and parts."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tuning_cases import CLASSES, Case, load_case, moved

from families import DUAL, GENERATORS, IMAGE, checkpoint
from vlmed.models.load import load_model
from vlmed.tuning.batches import Labelled
from vlmed.tuning.contrastive import Captioned, tune_on_captions
from vlmed.tuning.fusion import QuestionSet, tune_fusion
from vlmed.tuning.generative import tune_generator
from vlmed.tuning.generator_batches import Pairs
from vlmed.tuning.generator_recipe import parse_generator_recipe
from vlmed.tuning.tune import Tuned, tune

pytestmark = [
    # transformers' PaliGemma processor meets NumPy 2.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
SCOPES = ("lora", "partial", "full")
WAYS = [*product(("prompts", "linear", "captions", "fusion"), SCOPES), ("fusion", "frozen")]
PARTS = (["projector"], ["vision"], ["language"], ["projector", "language"], ["vision", "projector", "language"])
COUNT = 6


def tuned(here: Case, head: str, scope: str) -> Tuned[Any]:
    recipe = here.recipe(
        scope, head=head, epochs=1, batch_size=3, **({"fusion": {"width": 8}} if head == "fusion" else {})
    )
    names, labels = list(CLASSES), here.labels % 3
    if head in ("prompts", "linear"):
        data = Labelled(here.pixels, labels)
        return tune(here.encoder, recipe, data, data, CLASSES)
    if head == "captions":
        captions = Captioned(here.pixels, [f"{names[label]} {row}" for row, label in enumerate(labels)])
        return tune_on_captions(here.encoder, recipe, captions, captions)
    asked = QuestionSet(here.pixels, list(map(str, range(COUNT))), ["which colour"] * COUNT, labels)
    return tune_fusion(here.encoder, recipe, asked, asked, names)


def goes_and_comes_back(name: str, head: str, scope: str) -> None:
    here = load_case(checkpoint(name), COUNT)
    before = here.tensors()
    with tuned(here, head, scope) as done:
        after = {key.replace(".base_layer", ""): tensor for key, tensor in here.tensors().items()}
        assert moved(before, after) <= done.learner.trained.keys()
        assert bool(moved(before, after)) == (scope in ("partial", "full"))
        assert done.proof.to_json()["parameters_changed"] > 0
        assert np.isfinite(done.chosen["val_loss"])
    assert not moved(before, here.tensors())


@pytest.mark.parametrize(("number", "name"), list(enumerate(DUAL)))
def test_a_dual_encoder(number: int, name: str) -> None:
    goes_and_comes_back(name, *WAYS[number % len(WAYS)])


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", IMAGE)
def test_an_image_encoder(name: str, scope: str) -> None:
    goes_and_comes_back(name, "linear", scope)


@pytest.mark.parametrize(("number", "name"), list(enumerate(GENERATORS)))
def test_a_generator(number: int, name: str) -> None:
    model: Any = load_model(f"dir:{checkpoint(name)}").predictor
    before = {key: tensor.clone() for key, tensor in model.model.state_dict().items()}
    parts = PARTS[number % len(PARTS)]
    rates = {"lora_lr": 1e-2} if set(parts) - {"projector"} else {}
    rates |= {"projector_lr": 1e-2} if "projector" in parts else {}
    lora = {"lora": {"rank": 2}} if set(parts) - {"projector"} else {}
    recipe = parse_generator_recipe({"parts": parts, "epochs": 1, "batch_size": 1, **rates, **lora})
    noise = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    data = Pairs(lambda row: Image.fromarray(noise[row]), ["What is left lung?"] * 2, ["yes", "no"])
    with tune_generator(model, recipe, data, data) as done:
        assert {change.group for change in done.by_part} == set(parts)
        assert all(change.parameters_changed for change in done.by_part)
    after = model.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], tensor) for key, tensor in after.items())
