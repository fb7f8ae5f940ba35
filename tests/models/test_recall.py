"""Encoders that are remembered: what is known before their weights are loaded, and what makes a memory worthless."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import dual_factories
import factories
import generator_factories
from vlmed.errors import InputError, MissingError, UsageError
from vlmed.hashing import digest
from vlmed.models.later import LaterImageEncoder
from vlmed.models.load import load_model
from vlmed.models.numerics import Numerics
from vlmed.models.protocols import DualEncoder, LoadedModel, TokenEncoder

WEIGHTS = "open_clip_model.safetensors"
FACTS = ("dim", "preprocessing", "device", "numerics", "logit_scale", "logit_bias", "n_vectors")
TEXTS = ["a chest radiograph", "pneumonia"]


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "memory"


@pytest.fixture
def model(checkpoints, tmp_path: Path) -> Path:
    """An open_clip checkpoint that may be changed."""
    return Path(shutil.copytree(checkpoints["open_clip"], tmp_path / "model"))


@pytest.fixture
def load(model: Path, memory: Path) -> Callable[..., LoadedModel]:
    """Loads the checkpoint by its memory; it was loaded once before."""
    load_model(f"dir:{model}", memory=memory)
    return lambda **options: load_model(f"dir:{model}", **{"memory": memory, **options})


def waits(model: LoadedModel) -> bool:
    """Whether the weights are not loaded yet."""
    return isinstance(model.predictor, LaterImageEncoder) and model.predictor._encoder is None


def facts(model: LoadedModel) -> dict[str, Any]:
    return {name: getattr(model.predictor, name) for name in FACTS if hasattr(model.predictor, name)}


def flip(file: Path) -> None:
    """Change the last byte, and let neither size nor time show it."""
    content, status = file.read_bytes(), file.stat()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("name", ["open_clip", "siglip", "vit", "timm"])
def test_a_remembered_encoder_says_and_gives_the_same(name: str, checkpoints, images, memory: Path) -> None:
    real, later = (load_model(f"dir:{checkpoints[name]}", memory=memory) for _ in range(2))
    assert not waits(real)
    assert later.info == real.info
    assert facts(later) == facts(real)
    assert waits(later)
    pixels = [[model.predictor.preprocess(image) for image in images] for model in (real, later)]
    assert all(torch.equal(*pair) for pair in zip(*pixels, strict=True))
    with torch.inference_mode():
        embedded = [model.predictor.encode_images(torch.stack(pixels[0])) for model in (real, later)]
        assert torch.equal(*embedded)
        assert isinstance(later.predictor, DualEncoder) == isinstance(real.predictor, DualEncoder)
        if isinstance(later.predictor, DualEncoder):
            assert torch.equal(*(model.predictor.encode_texts(TEXTS) for model in (real, later)))
            assert isinstance(later.predictor, TokenEncoder)
            assert later.predictor.encode_image_tokens(torch.stack(pixels[0])).ndim == 3
            assert later.predictor.encode_text_tokens(TEXTS)[0].ndim == 3
            assert later.predictor.image_tower.training is False
            assert sum(parameter.numel() for parameter in later.predictor.model.parameters()) == real.info.parameters


def test_many_threads_load_it_once(load: Callable[..., LoadedModel]) -> None:
    later = load()
    with ThreadPoolExecutor(8) as pool:
        towers = list(pool.map(lambda _: later.predictor.image_tower, range(8)))
    assert all(tower is towers[0] for tower in towers)


@pytest.mark.parametrize("control", ["blank", "swapped"])
def test_a_blindfolded_model_is_remembered_as_one(control: str, model: Path, memory: Path, images) -> None:
    load_model(f"dir:{model}", memory=memory)
    real, later = (load_model(f"control:{control}/dir:{model}", memory=memory) for _ in range(2))
    assert (waits(real), waits(later)) == (False, True)
    assert (later.info, later.swaps_images, facts(later)) == (real.info, real.swaps_images, facts(real))
    assert torch.equal(*(each.predictor.preprocess(images[0]) for each in (real, later)))


def test_without_a_folder_nothing_is_remembered(model: Path, load: Callable[..., LoadedModel]) -> None:
    assert not waits(load_model(f"dir:{model}"))


# What makes a memory worthless


@pytest.mark.parametrize(
    "options",
    [
        {"numerics": Numerics("bf16")},
        {"numerics": Numerics(channels_last=True)},
        {"device": "cpu:0"},
        {"trust_remote_code": True},
    ],
    ids=str,
)
def test_other_arguments(options: dict[str, Any], load: Callable[..., LoadedModel]) -> None:
    first, again = load(**options), load(**options)
    assert (waits(first), waits(again)) == (False, True)
    assert facts(again) == facts(first)


def test_another_version_of_a_library(load: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "99" if name == "timm" else version(name))
    assert not waits(load())
    monkeypatch.undo()
    assert waits(load())


def test_one_byte_of_the_weights(model: Path, load: Callable[..., LoadedModel]) -> None:
    before = load()
    flip(model / WEIGHTS)
    after = load()
    assert not waits(after)
    assert after.info.revision != before.info.revision


@pytest.mark.parametrize("name", ["tokenizer_config.json", "notes.bin"])
def test_one_more_file(name: str, model: Path, load: Callable[..., LoadedModel]) -> None:
    (model / name).write_text("{}")
    assert not waits(load())


def test_another_folder(model: Path, memory: Path, load: Callable[..., LoadedModel], tmp_path: Path) -> None:
    moved = shutil.copytree(model, tmp_path / "other")
    there = load_model(f"dir:{moved}", memory=memory)
    assert not waits(there)
    assert there.info.name == "other"


def test_an_adapter(model: Path, memory: Path, load: Callable[..., LoadedModel], tmp_path: Path) -> None:
    adapter = factories.lora(tmp_path / "adapter", model, targets=["c_fc"])
    first, again = (load(adapter=f"dir:{adapter}") for _ in range(2))
    assert (waits(first), waits(again)) == (False, True)
    assert again.info == first.info
    assert again.info.adapter is not None
    pixels = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        tuned = again.predictor.encode_images(pixels)
        assert torch.equal(tuned, first.predictor.encode_images(pixels))
        assert not torch.equal(tuned, load().predictor.encode_images(pixels))
    # It names the same base, so that it is the same model.
    alone = load_model(f"dir:{adapter}", memory=memory)
    assert waits(alone)
    assert alone.info == load_model(f"dir:{adapter}").info
    flip(adapter / "adapter_model.safetensors")
    changed = load(adapter=f"dir:{adapter}")
    assert not waits(changed)
    assert changed.info.adapter != again.info.adapter


def test_another_commit_and_a_changed_cache(hub, model: Path, memory: Path) -> None:
    from huggingface_hub import constants

    hub.add("org/tiny", model)
    first, again = (load_model("hf:org/tiny", memory=memory) for _ in range(2))
    assert (waits(first), waits(again)) == (False, True)
    assert again.info == first.info
    weights = next(Path(constants.HF_HUB_CACHE).rglob(WEIGHTS))
    content = weights.read_bytes()
    weights.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not waits(load_model("hf:org/tiny", memory=memory))
    flip(model / WEIGHTS)
    hub.add("org/tiny", model)
    moved = load_model("hf:org/tiny", memory=memory)
    assert not waits(moved)
    assert moved.info.revision != first.info.revision


def test_companions(memory: Path, tmp_path: Path, hub) -> None:
    folder = dual_factories.biomedclip(tmp_path / "model")
    beside = folder / dual_factories.BIOMEDBERT.rpartition("/")[2]
    ref = f"dir:{folder}"
    first, again = (load_model(ref, memory=memory) for _ in range(2))
    assert (waits(first), waits(again)) == (False, True)
    assert again.info.companions == first.info.companions != ()
    config = beside / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_dropout_prob": 0.0}))
    changed = load_model(ref, memory=memory)
    assert not waits(changed)
    assert changed.info.companions != first.info.companions
    shutil.rmtree(beside)
    with pytest.raises((MissingError, UsageError), match=dual_factories.BIOMEDBERT):
        load_model(ref, memory=memory)


# Damage


DAMAGE: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "cut": lambda text: text[: len(text) // 2],
    "list": lambda text: "[]",
    "null": lambda text: "null",
    "nothing told": lambda text: "{}",
    "another number": lambda text: text.replace('"logit_bias": 0.0', '"logit_bias": 1.0'),
    "no number": lambda text: text.replace('"logit_bias": 0.0', '"logit_bias": NaN'),
    "another kind": lambda text: text.replace('"dual_encoder"', '"generator"'),
    "key twice": lambda text: text.replace('"sha256"', '"told": {}, "sha256"'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_memory_is_made_again(damage: str, memory: Path, load: Callable[..., LoadedModel]) -> None:
    (file,) = memory.iterdir()
    text = file.read_text()
    file.write_text(DAMAGE[damage](text))
    assert file.read_text() != text
    assert not waits(load())
    assert file.read_text() == text
    assert waits(load())


def forged(memory: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Tell something else, under a true hash."""
    (file,) = memory.iterdir()
    told = json.loads(file.read_text())["told"]
    change(told)
    file.write_text(json.dumps({"told": told, "sha256": digest(told)}))
    return file


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told["facts"].update(dim="16"),
        lambda told: told["facts"].update(more=1),
        lambda told: told["facts"].pop("n_vectors"),
        lambda told: told["info"].update(kind="control"),
        lambda told: told["info"].update(more=1),
        lambda told: told["info"].update(companions=["org/x@1"]),
        lambda told: told.update(companions=[{"repository": "org/none"}]),
        lambda told: told.pop("companions"),
    ],
)
def test_a_forgery_of_another_form_is_ignored(change, memory: Path, load: Callable[..., LoadedModel]) -> None:
    forged(memory, change)
    assert not waits(load())
    assert waits(load())


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told["facts"].update(logit_scale=99.0),
        lambda told: told["info"].update(parameters=7),
        lambda told: told.update(swaps_images=True),
    ],
)
def test_a_forgery_is_found_when_the_weights_come(change, memory: Path, load: Callable[..., LoadedModel]) -> None:
    file = forged(memory, change)
    later = load()
    with pytest.raises(InputError, match="not what an earlier run remembered") as caught:
        later.predictor.preprocess(Image.new("RGB", (8, 8)))
    assert str(file) in str(caught.value)
    assert not file.exists()
    assert not waits(load())


def test_a_model_that_changes_before_its_weights_come(model: Path, load: Callable[..., LoadedModel]) -> None:
    later = load()
    (model / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes())
    with pytest.raises(InputError, match="files changed"):
        later.predictor.image_tower  # noqa: B018


def test_a_folder_that_can_t_be_written_costs_time_only(model: Path, memory: Path) -> None:
    memory.write_text("a file")
    assert not any(waits(load_model(f"dir:{model}", memory=memory)) for _ in range(2))


# What is never remembered


def test_a_model_with_code_of_its_own(checkpoints, memory: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoints["clip"], tmp_path / "own"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "own.OwnModel"}}))
    (folder / "own.py").write_text("from transformers import CLIPModel\nclass OwnModel(CLIPModel):\n    pass\n")
    assert not any(waits(load_model(f"dir:{folder}", trust_remote_code=True, memory=memory)) for _ in range(2))
    assert not memory.exists()


def test_generators_and_controls(memory: Path, tmp_path: Path) -> None:
    maker = next(iter(generator_factories.MAKERS.values()))
    for ref in (f"dir:{maker(tmp_path / 'generator')}", "control:majority"):
        assert not isinstance(load_model(ref, memory=memory).predictor, LaterImageEncoder)
    assert not memory.exists()
