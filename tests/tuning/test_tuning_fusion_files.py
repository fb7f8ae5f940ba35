import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tuning_cases import Case, load_case

import factories
import families
from vlmed.errors import InputError, MissingError, UsageError
from vlmed.models.load import load_model
from vlmed.tuning.fusion import QuestionSet, TunedFusion, tune_fusion
from vlmed.tuning.fusion_files import FUSION_CONFIG, FUSION_WEIGHTS, load_fusion
from vlmed.tuning.save import save_adapter, save_checkpoint, save_fusion

ANSWERS = ("blue", "green", "no", "red", "yes")
TEXTS = ["which colour" if row % 2 else "is the colour red" for row in range(21)]
OWN = {"module": "own"}


@pytest.fixture(scope="module")
def pmc_clip() -> Case:
    return load_case(families.checkpoint("pmc_clip"), 21)


@pytest.fixture
def models(case, pmc_clip) -> Callable[[str], Case]:
    return lambda name: pmc_clip if name == "pmc_clip" else case(name)


def train(here: Case, scope: str, fusion: dict[str, Any]) -> TunedFusion:
    data = QuestionSet(here.pixels, [f"image {row}" for row in range(21)], TEXTS, np.arange(21) % 5)
    recipe = here.recipe(scope, head="fusion", fusion=fusion or {"width": 16, "glimpses": 2})
    return tune_fusion(here.encoder, recipe, data, data, ANSWERS)


def save(here: Case, scope: str, folder: Path, fusion: dict[str, Any]) -> tuple[torch.Tensor, list[str]]:
    """Tune and save; gives the tuned logits and answers."""
    data = QuestionSet(here.pixels, [f"image {row}" for row in range(21)], TEXTS, np.arange(21) % 5)
    base, revision = f"dir:{here.folder}", here.model.info.revision
    with train(here, scope, fusion) as tuned:
        if scope == "frozen":
            save_fusion(tuned, folder, base, revision, about="coloured images")
        elif scope == "lora":
            save_adapter(tuned, folder, base, revision)
        else:
            save_checkpoint(tuned, folder, here.folder, base, revision)
        return tuned.objective.logits(data), tuned.predict(data)


@pytest.mark.parametrize(
    ("name", "scope", "fusion"),
    [
        ("clip", "frozen", {}),
        ("open_clip", "lora", {}),
        ("clip", "partial", {}),
        ("siglip", "full", {}),
        ("pmc_clip", "lora", {}),
        ("pmc_clip", "frozen", OWN),
    ],
)
def test_a_saved_fusion_answers_as_the_tuned_one(name: str, scope: str, fusion: Any, models, tmp_path: Path) -> None:
    here: Case = models(name)
    expected, answers = save(here, scope, tmp_path / "saved", fusion)
    base, saved = f"dir:{here.folder}", f"dir:{tmp_path / 'saved'}"
    model = load_model(base, adapter=saved) if scope == "lora" else load_model(base if scope == "frozen" else saved)
    weights = {key: tensor.clone() for key, tensor in model.predictor.model.state_dict().items()}
    again = load_fusion(tmp_path / "saved", model)
    logits = again.logits(here.images, TEXTS)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    assert [ANSWERS[place] for place in logits.argmax(dim=1)] == answers
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.predictor.model.state_dict().items())
    shown = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    alone = again.logits(model.predictor.preprocess(shown)[None], TEXTS[:1])
    assert again.answer([shown], TEXTS[:1]) == [ANSWERS[int(alone.argmax())]]


def test_the_card_names_the_fusion(case, tmp_path: Path) -> None:
    save(case("clip"), "frozen", tmp_path / "saved", {})
    card = (tmp_path / "saved" / "README.md").read_text()
    for part in ("library_name: vlmed", "coloured images", FUSION_WEIGHTS, "load_fusion", "tuned with vlmed: frozen"):
        assert part in card
    config = json.loads((tmp_path / "saved" / FUSION_CONFIG).read_text())
    assert (config["answers"], config["encoders"]) == (list(ANSWERS), "frozen")
    assert config["base_revision"] == case("clip").model.info.revision


def test_a_fusion_alone_is_not_all_that_trained(case, tmp_path: Path) -> None:
    with train(case("clip"), "lora", {}) as tuned, pytest.raises(UsageError, match="doesn't hold what trained"):
        save_fusion(tuned, tmp_path / "saved", "dir:x", "")
    assert not list(tmp_path.iterdir())


def test_another_model_is_refused(case, tmp_path: Path) -> None:
    here: Case = case("clip")
    save(here, "frozen", tmp_path / "frozen", {})
    save(here, "lora", tmp_path / "lora", {})
    save(here, "partial", tmp_path / "partial", {})
    base = here.model
    adapted = load_model(f"dir:{here.folder}", adapter=f"dir:{tmp_path / 'lora'}")
    other = load_model(f"dir:{factories.tiny_clip(tmp_path / 'other', seed=1)}")
    images_only = case("vit").model
    wrong = {"frozen": (adapted, other, images_only), "lora": (base, other), "partial": (base, adapted)}
    for name, models in wrong.items():
        for model in models:
            with pytest.raises(UsageError, match="trained on another model") as caught:
                load_fusion(tmp_path / name, model)
            assert base.info.revision in caught.value.problems[0].expected


def test_damaged_files(case, tmp_path: Path) -> None:
    here: Case = case("clip")
    with pytest.raises(MissingError, match="no fusion was saved here"):
        load_fusion(tmp_path, here.model)
    folder = tmp_path / "saved"
    save(here, "frozen", folder, {})
    config = json.loads((folder / FUSION_CONFIG).read_text())
    for change in ({"answers": [*ANSWERS, "more"]}, {"fusion": config["fusion"] | {"width": 8}}):
        (folder / FUSION_CONFIG).write_text(json.dumps(config | change))
        with pytest.raises(InputError, match="don't fit the model"):
            load_fusion(folder, here.model)
    (folder / FUSION_CONFIG).write_text(json.dumps({"answers": []}))
    with pytest.raises(InputError, match="lacks keys"):
        load_fusion(folder, here.model)
    (folder / FUSION_CONFIG).write_text(json.dumps(config))
    (folder / FUSION_WEIGHTS).write_bytes((folder / FUSION_WEIGHTS).read_bytes()[:-1])
    with pytest.raises(InputError, match="absent or not those"):
        load_fusion(folder, here.model)
