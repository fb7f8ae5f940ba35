import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tuning_cases import CLASSES, Case, load_case

import factories
from vlmed.errors import InputError, MissingError, UsageError
from vlmed.models.load import load_model
from vlmed.models.protocols import DualEncoder
from vlmed.tuning.save import HEAD_WEIGHTS, head_probabilities, load_head, save_adapter, save_checkpoint
from vlmed.tuning.tune import tune

OTHERS = {
    "open_clip_hf_tokenizer": lambda folder: factories.tiny_open_clip(folder, hf_tokenizer=True),
    "vit_classifier": lambda folder: factories.tiny_vit(folder, classifier=True),
}
NAMES = tuple(CLASSES)


def save(here: Case, scope: str, folder: Path, **options: object) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Tune and save; gives the tuned embeddings of images and of a text, and the predictions."""
    base, revision = f"dir:{here.folder}", here.model.info.revision
    with here.tune(scope, epochs=1, **options) as tuned:
        if scope == "lora":
            save_adapter(tuned, folder, base, revision)
        else:
            save_checkpoint(tuned, folder, here.folder, base, revision, about="tiny images")
        return here.embeddings(), text(here.encoder), tuned.probabilities(here.pixels, len(here.labels))


@torch.no_grad()
def text(encoder: object) -> torch.Tensor:
    return encoder.encode_texts(["a red image"]) if isinstance(encoder, DualEncoder) else torch.zeros(1)


@pytest.mark.parametrize("scope", ["lora", "partial", "full"])
@pytest.mark.parametrize("name", ["clip", "open_clip", "siglip", "vit", "resnet", "timm", *OTHERS])
def test_what_is_saved_is_what_was_tuned(name: str, scope: str, case, tmp_path: Path) -> None:
    here = load_case(OTHERS[name](tmp_path / "base"), 21) if name in OTHERS else case(name)
    plain = here.embeddings()
    images, texts, _ = save(here, scope, tmp_path / "saved")
    base, saved = f"dir:{here.folder}", f"dir:{tmp_path / 'saved'}"
    again = load_model(base, adapter=saved) if scope == "lora" else load_model(saved)
    with torch.no_grad():
        torch.testing.assert_close(again.predictor.encode_images(here.images), images, rtol=0, atol=1e-4)
    torch.testing.assert_close(text(again.predictor), texts, rtol=0, atol=1e-4)
    assert (images - plain).abs().max() > 1e-2
    assert again.info.warnings == ()
    assert (again.info.family, again.info.architecture) == (here.model.info.family, here.model.info.architecture)
    assert again.predictor.preprocessing == here.encoder.preprocessing
    if scope == "lora":
        alone = load_model(saved).info
        assert (alone.revision, alone.adapter) == (again.info.revision, again.info.adapter)


@pytest.mark.parametrize(("name", "scope"), [("vit", "lora"), ("clip", "partial"), ("timm", "full")])
def test_a_linear_head_predicts_as_the_tuned_unit(name: str, scope: str, case, tmp_path: Path) -> None:
    here: Case = case(name)
    folder = tmp_path / "saved"
    _, _, probabilities = save(here, scope, folder, head="linear")
    again = load_model(f"dir:{folder}")
    head = load_head(folder, NAMES)
    with torch.no_grad():
        got = head_probabilities(head, again.predictor.encode_images(here.images))
    np.testing.assert_allclose(got.numpy(), probabilities, atol=1e-4)


def test_the_adapter_s_revision_covers_its_head(case, tmp_path: Path) -> None:
    save(case("vit"), "lora", tmp_path / "one")
    with case("vit").tune("lora", epochs=1) as tuned:
        with torch.no_grad():
            tuned.learner.head.bias.add_(1)
        save_adapter(tuned, tmp_path / "two", f"dir:{case('vit').folder}", case("vit").model.info.revision)
    one, two = (load_model(f"dir:{tmp_path / name}").info.adapter for name in ("one", "two"))
    assert one is not None
    assert two is not None
    assert one.revision != two.revision


def test_an_adapter_names_its_base(case, tmp_path: Path) -> None:
    with case("clip").tune("lora", epochs=1) as tuned:
        save_adapter(tuned, tmp_path / "hub", "hf:openai/clip@main", "a" * 40)
        save_adapter(tuned, tmp_path / "other", "open_clip:org/clip", "b" * 40)
    configs = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("hub", "other")]
    named = [(config["base_model_name_or_path"], config["revision"]) for config in configs]
    assert named == [("openai/clip", "a" * 40), ("open_clip:org/clip", "b" * 40)]
    cards = [(tmp_path / name / "README.md").read_text() for name in ("hub", "other")]
    assert "base_model: openai/clip\n" in cards[0]
    assert "base_model:" not in cards[1]


def test_another_base_is_refused(case, tmp_path: Path) -> None:
    save(case("clip"), "lora", tmp_path / "saved")
    other = factories.tiny_clip(tmp_path / "other", seed=1)
    with pytest.raises(UsageError, match="another revision"):
        load_model(f"dir:{other}", adapter=f"dir:{tmp_path / 'saved'}")


def test_the_card_says_what_is_known(case, tmp_path: Path) -> None:
    here: Case = case("vit")
    save(here, "full", tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    for part in ("tiny images", "red, green, blue", "epoch 1 of at most 1", here.model.info.revision, HEAD_WEIGHTS):
        assert part in card
    assert re.search(r"Trained: [\d,]+ of [\d,]+ parameters", card)
    assert "not a medical device" in card


SAVE = """
import sys
from pathlib import Path
from tuning_cases import load_case
from vlmed.tuning.save import save_adapter
base, folder = map(Path, sys.argv[1:])
with load_case(base, 6).tune("lora", epochs=1) as tuned:
    save_adapter(tuned, folder, "open_clip:org/model", "a" * 40)
"""


def test_another_process_writes_the_same_config(case, folders, tmp_path: Path) -> None:
    """Names are hashed otherwise in every process, and what PEFT holds as a set comes in another order."""
    here, script = Path(__file__).parent, [sys.executable, "-c", SAVE, folders("clip"), tmp_path / "there"]
    path = os.pathsep.join((str(here), str(here.parent)))
    subprocess.run(script, env=os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": path}, check=True)
    with case("clip").tune("lora", epochs=1) as tuned:
        save_adapter(tuned, tmp_path / "here", "open_clip:org/model", "a" * 40)
    one, two = ((tmp_path / name / "adapter_config.json").read_text() for name in ("here", "there"))
    targets = json.loads(one)["target_modules"]
    assert targets == sorted(targets)
    assert len(targets) > 4
    assert one == two


# Refused


def test_wrong_product(case, tmp_path: Path) -> None:
    here: Case = case("vit")
    with here.tune("full", epochs=1) as tuned, pytest.raises(UsageError, match="only a LoRA is an adapter"):
        save_adapter(tuned, tmp_path / "saved", "dir:x", "")
    with here.tune("lora", epochs=1) as tuned, pytest.raises(UsageError, match="saved as an adapter"):
        save_checkpoint(tuned, tmp_path / "saved", here.folder, "dir:x", "")
    assert not list(tmp_path.iterdir())


def test_after_undo_nothing_is_saved(case, tmp_path: Path) -> None:
    tuned = case("vit").tune("lora", epochs=1)
    tuned.undo()
    with pytest.raises(UsageError, match="old weights"):
        save_adapter(tuned, tmp_path / "saved", "dir:x", "")


def test_a_folder_in_use(case, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with case("vit").tune("lora", epochs=1) as tuned, pytest.raises(UsageError, match="holds other files"):
        save_adapter(tuned, tmp_path, "dir:x", "")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_layout_that_is_not_written(case, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "pytorch_model.bin").write_bytes(b"")
    with case("vit").tune("full", epochs=1) as tuned, pytest.raises(UsageError, match="can't be written") as caught:
        save_checkpoint(tuned, tmp_path / "saved", tmp_path / "base", "dir:x", "")
    assert "medclip" in str(caught.value)
    assert not (tmp_path / "saved").exists()


def test_heads_that_do_not_fit(case, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    save(case("vit"), "lora", folder)
    with pytest.raises(UsageError, match="other classes") as caught:
        load_head(folder, ("red", "blue", "green"))
    assert caught.value.problems[0].path == "$.classes"
    with pytest.raises(MissingError):
        load_head(tmp_path, NAMES)
    (folder / HEAD_WEIGHTS).write_bytes((folder / HEAD_WEIGHTS).read_bytes() + b" ")
    with pytest.raises(InputError, match="absent or not those"):
        load_head(folder, NAMES)
    (folder / HEAD_WEIGHTS).unlink()
    with pytest.raises(InputError, match="absent or not those"):
        load_head(folder, NAMES)


def test_the_best_epoch_is_what_is_saved(case, tmp_path: Path) -> None:
    """Validation labels contradict the training, so the first epoch is the best and the last one is worse."""
    here: Case = case("clip")
    val = type(here.data)(here.pixels, (here.labels + 1) % 3)
    with tune(here.encoder, here.recipe("lora", epochs=3), here.data, val, CLASSES) as tuned:
        assert tuned.chosen["epoch"] == 1
        save_adapter(tuned, tmp_path / "saved", f"dir:{here.folder}", here.model.info.revision)
    with here.tune("lora", epochs=1) as tuned:
        first = here.embeddings()
    again = load_model(f"dir:{tmp_path / 'saved'}")
    with torch.no_grad():
        torch.testing.assert_close(again.predictor.encode_images(here.images), first, rtol=0, atol=1e-4)
