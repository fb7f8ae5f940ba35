"""MedCLIP: the original's numbers from the published layout, and a clear word where files don't fit."""

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import medclip_factory as factory
import medclip_original
from families import checkpoint
from vlmed.errors import InputError, MissingError
from vlmed.models.load import load_model
from vlmed.models.medclip import MEAN, STD
from vlmed.models.protocols import TokenEncoder

VISIONS = ["swin", "resnet"]
VECTORS = json.loads(factory.VECTORS.read_text(encoding="utf-8"))
TEXTS = medclip_original.TEXTS
PARITY = 1e-5


@pytest.fixture(scope="module", params=VISIONS)
def vision(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    return {name: checkpoint(f"medclip_{name}") for name in VISIONS}


@pytest.fixture(scope="module")
def encoders(folders) -> dict[str, TokenEncoder]:
    return {name: load(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def pixels(encoders) -> torch.Tensor:
    return torch.stack([encoders["swin"].preprocess(image) for image in medclip_original.images()])


@pytest.fixture
def copy(folders, tmp_path: Path):
    def copied(name: str) -> Path:
        return Path(shutil.copytree(folders[name], tmp_path / name))

    return copied


def load(folder: Path) -> TokenEncoder:
    encoder = load_model(f"dir:{folder}").predictor
    assert isinstance(encoder, TokenEncoder)
    return encoder


def relative_error(found: torch.Tensor, expected: object) -> float:
    """Greatest difference over the greatest magnitude."""
    found, wanted = found.detach(), torch.as_tensor(expected).detach()
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max())


def change(folder: Path, **weights: torch.Tensor | None) -> Path:
    """Sets, or with None takes away, weights of a copied checkpoint; `__` stands for a dot."""
    file = folder / "pytorch_model.bin"
    changed = torch.load(file, weights_only=True) | {name.replace("__", "."): each for name, each in weights.items()}
    torch.save({name: each for name, each in changed.items() if each is not None}, file)
    return folder


# The original's numbers, stored


@torch.inference_mode()
def test_the_stored_numbers_of_the_original(vision: str, encoders, pixels) -> None:
    stored, encoder = VECTORS[vision], encoders[vision]
    ids, mask = (torch.tensor(VECTORS[key]) for key in ("input_ids", "attention_mask"))
    images = encoder.encode_images(pixels)
    padded = encoder.model.text_model(ids, mask)
    assert relative_error(images, stored["image_embeddings"]) < PARITY
    assert relative_error(padded, stored["text_embeddings"]) < PARITY
    assert relative_error(encoder.encode_texts(TEXTS), stored["alone"]) < PARITY
    cosine = torch.nn.functional.normalize(images) @ torch.nn.functional.normalize(padded).T
    assert relative_error(cosine * encoder.logit_scale, stored["logits"]) < PARITY


def test_the_preprocessing_of_the_original(pixels) -> None:
    stored = torch.tensor(VECTORS["pixels"])
    grid = medclip_original.GRID
    torch.testing.assert_close(pixels[:, 0, grid, grid], stored, rtol=1e-5, atol=1e-6)


def test_padding_changes_what_the_original_computes() -> None:
    """Else it would not matter that texts are never padded here."""
    stored = VECTORS["swin"]
    assert relative_error(torch.tensor(stored["text_embeddings"]), stored["alone"]) > 0.01


# The original's numbers, live


@torch.inference_mode()
def test_the_original_itself(vision: str, encoders, pixels, tmp_path: Path) -> None:
    pytest.importorskip(
        "medclip", reason="needs medclip 0.0.3 and transformers below 5, which it imports from", exc_type=ImportError
    )
    encoder = encoders[vision]
    ids, mask = (torch.tensor(VECTORS[key]) for key in ("input_ids", "attention_mask"))
    with medclip_original.offline(tmp_path):
        model = medclip_original.original(vision)
        expected = medclip_original.outputs(model, pixels, {"input_ids": ids, "attention_mask": mask})
    assert relative_error(encoder.encode_images(pixels), expected["image_embeddings"]) < PARITY
    assert relative_error(encoder.model.text_model(ids, mask), expected["text_embeddings"]) < PARITY


# Preprocessing, by hand


def grey(value: float) -> float:
    return (value / 255 - MEAN) / STD


def test_grey_is_padded_with_black_on_both_sides(encoders) -> None:
    pixels = encoders["swin"].preprocess(Image.new("L", (100, 51), 200))
    assert pixels.shape == (3, 224, 224)
    assert torch.equal(pixels[0], pixels[1])
    assert torch.equal(pixels[0], pixels[2])
    # 224 - 51 = 173 black rows, the larger half below.
    inside = torch.zeros(224, 224, dtype=torch.bool)
    inside[86:137, 62:162] = True
    torch.testing.assert_close(pixels[0][inside], torch.full((5100,), grey(200)))
    torch.testing.assert_close(pixels[0][~inside], torch.full((224 * 224 - 5100,), grey(0)))


@pytest.mark.parametrize(("colour", "luma"), [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29)])
def test_colour_becomes_its_luma(colour: tuple[int, int, int], luma: int, encoders) -> None:
    """ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B."""
    pixels = encoders["resnet"].preprocess(Image.new("RGB", (224, 224), colour))
    torch.testing.assert_close(pixels, torch.full((3, 224, 224), grey(luma)))


def test_a_large_image_is_padded_before_it_is_made_smaller(encoders) -> None:
    pixels = encoders["swin"].preprocess(Image.new("L", (448, 224), 100))[0]
    torch.testing.assert_close(pixels[60:164], torch.full((104, 224), grey(100)))
    torch.testing.assert_close(pixels[:50], torch.full((50, 224), grey(0)))
    torch.testing.assert_close(pixels[174:], torch.full((50, 224), grey(0)))


def test_deep_images_are_refused(encoders) -> None:
    with pytest.raises(InputError, match="more than 8 bits"):
        encoders["swin"].preprocess(Image.new("I;16", (224, 224)))


# What it offers


@torch.inference_mode()
def test_it_encodes_images_and_texts(vision: str, encoders, images) -> None:
    encoder = encoders[vision]
    embeddings = encoder.encode_images(torch.stack([encoder.preprocess(image) for image in images]))
    texts = encoder.encode_texts([*TEXTS, ""])
    assert embeddings.shape == (2, encoder.dim) == (2, factory.DIM)
    assert texts.shape == (4, factory.DIM)
    assert embeddings.isfinite().all()
    assert texts.isfinite().all()
    assert encoder.encode_texts([]).shape == (0, factory.DIM)


@torch.inference_mode()
def test_a_text_is_embedded_alike_in_any_company(vision: str, encoders) -> None:
    encoder = encoders[vision]
    texts = [" ".join(["lung"] * (number % 9)) + f" {TEXTS[number % 3]}" for number in range(20)]
    together = encoder.encode_texts(texts)
    alone = torch.cat([encoder.encode_texts([text]) for text in texts])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_only_77_tokens_are_read(encoders) -> None:
    full = " ".join(["lung"] * 75)
    encoder = encoders["swin"]
    assert torch.equal(encoder.encode_texts([full]), encoder.encode_texts([full + " opacity"]))
    assert not torch.equal(encoder.encode_texts([full]), encoder.encode_texts([full.removesuffix(" lung")]))


@torch.inference_mode()
def test_the_case_of_letters_follows_the_companion(copy, encoders) -> None:
    """The original's tokenizer lowers it, although the vocabulary is cased, unless it is told otherwise."""
    assert torch.equal(encoders["swin"].encode_texts(["LUNG"]), encoders["swin"].encode_texts(["lung"]))
    folder = copy("swin")
    (folder / "Bio_ClinicalBERT" / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased = load(folder)
    assert not torch.equal(cased.encode_texts(["LUNG"]), cased.encode_texts(["lung"]))


@torch.inference_mode()
@pytest.mark.parametrize(("name", "places", "width"), [("swin", 49, 64), ("resnet", 49, 2048)])
def test_tokens_before_pooling(name: str, places: int, width: int, encoders, pixels) -> None:
    encoder = encoders[name]
    tokens = encoder.encode_image_tokens(pixels)
    assert tokens.shape == (3, places, width)
    vision = encoder.model.vision_model
    project = vision.projection_head if name == "swin" else vision.model.fc
    torch.testing.assert_close(project(tokens.mean(1)), encoder.encode_images(pixels), rtol=1e-4, atol=1e-5)
    texts, mask = encoder.encode_text_tokens(TEXTS)
    assert texts.shape == (3, 15, factory.TEXT_CONFIG["hidden_size"])
    assert torch.equal(mask, torch.tensor(VECTORS["attention_mask"]).bool())
    alone, _ = encoder.encode_text_tokens(TEXTS[1:2])
    torch.testing.assert_close(texts[1, :4], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("logarithm", "scale"), [(2.5, 12.1824939607), (7.0, 100.00334), (-1.0, 1.0)])
def test_the_logit_scale_is_clamped(logarithm: float, scale: float, copy) -> None:
    folder = change(copy("resnet"), logit_scale=torch.tensor(logarithm))
    assert load(folder).logit_scale == pytest.approx(scale, rel=1e-5)


def test_gradients_reach_the_whole_image_tower(vision: str, encoders, pixels) -> None:
    encoder = encoders[vision]
    encoder.encode_images(pixels[:2]).sum().backward()
    without = [name for name, each in encoder.image_tower.named_parameters() if each.grad is None]
    assert not without
    assert all(each.grad is None for each in encoder.model.text_model.parameters())
    encoder.model.zero_grad()


@torch.inference_mode()
@pytest.mark.parametrize(("name", "layers"), [("swin", ["reduction", "projection_head"]), ("resnet", ["conv2", "fc"])])
def test_a_lora_changes_the_images_and_not_the_texts(name: str, layers: list[str], folders, encoders, pixels) -> None:
    from peft import LoraConfig, get_peft_model

    encoder = load(folders[name])
    wrapped = get_peft_model(encoder.image_tower, LoraConfig(r=2, target_modules=layers, init_lora_weights=False))
    before = encoders[name].encode_images(pixels)
    assert relative_error(encoder.encode_images(pixels), before) > 0.01
    assert torch.equal(encoder.encode_texts(TEXTS), encoders[name].encode_texts(TEXTS))
    with wrapped.disable_adapter():
        assert torch.equal(encoder.encode_images(pixels), before)


@pytest.mark.parametrize(
    ("name", "architecture", "companions"), [("swin", "MedCLIP SwinModel", 2), ("resnet", "MedCLIP ResNet", 1)]
)
def test_the_information(name: str, architecture: str, companions: int, folders) -> None:
    info = load_model(f"dir:{folders[name]}").info
    assert (info.family, info.architecture, info.kind) == ("medclip", architecture, "dual_encoder")
    shapes = VECTORS[name]["weights"]
    buffers = ("position_ids", "relative_position_index", "num_batches_tracked", "running_mean", "running_var")
    assert info.parameters == sum(math.prod(each) for key, each in shapes.items() if not key.endswith(buffers))
    assert len(info.companions) == companions
    assert info.companions[0].startswith("emilyalsentzer/Bio_ClinicalBERT@sha256:")


def test_half_precision_becomes_full(copy, encoders, pixels) -> None:
    folder = copy("resnet")
    file = folder / "pytorch_model.bin"
    torch.save({name: each.half() for name, each in torch.load(file, weights_only=True).items()}, file)
    encoder = load(folder)
    assert {each.dtype for each in encoder.model.parameters()} == {torch.float32}
    found = encoder.encode_images(pixels)
    assert relative_error(found, encoders["resnet"].encode_images(pixels)) < 0.05


def test_it_is_the_same_from_the_hub_and_its_cache(hub, tmp_path: Path, encoders) -> None:
    bare = factory.tiny_medclip(tmp_path / "archive", "swin", companions=False)
    commit = hub.add("org/medclip", bare)
    text = hub.add("emilyalsentzer/Bio_ClinicalBERT", factory.text_companion(tmp_path / "text"))
    swin = hub.add("microsoft/swin-tiny-patch4-window7-224", factory.swin_companion(tmp_path / "swin"))
    loaded = load_model(f"hf:org/medclip@{commit}")
    assert loaded.info.revision == commit
    assert loaded.info.companions == (
        f"emilyalsentzer/Bio_ClinicalBERT@{text}",
        f"microsoft/swin-tiny-patch4-window7-224@{swin}",
    )
    expected = encoders["swin"].encode_texts(TEXTS)
    assert torch.equal(loaded.predictor.encode_texts(TEXTS), expected)
    hub.stop()
    assert torch.equal(load_model(f"hf:org/medclip@{commit}").predictor.encode_texts(TEXTS), expected)


# What does not fit


def test_every_misfit_is_listed(copy, vision: str) -> None:
    folder = change(
        copy(vision),
        text_model__model__pooler__dense__bias=None,
        text_model__extra=torch.zeros(3),
        vision_model__model__surplus__weight=torch.zeros(2, 2),
        text_model__model__embeddings__LayerNorm__weight=torch.ones(9),
    )
    with pytest.raises(InputError) as caught:
        load(folder)
    assert [(each.what.split()[0:3], each.path) for each in caught.value.problems] == [
        (["the", "architecture", "has"], "text_model.extra"),
        (["the", "weights", "don't"], "text_model.model.embeddings.LayerNorm.weight"),
        (["the", "checkpoint", "lacks"], "text_model.model.pooler.dense.bias"),
        (["the", "architecture", "has"], "vision_model.model.surplus.weight"),
    ]
    assert "shape (16,)" in str(caught.value)
    assert "shape (9,)" in str(caught.value)
    assert str(folder / "pytorch_model.bin") in str(caught.value)


def test_a_layer_of_the_swin_is_named_as_in_the_file(copy) -> None:
    name = "vision_model.model.encoder.layers.0.blocks.1.attention.self.relative_position_bias_table"
    with pytest.raises(InputError) as caught:
        load(change(copy("swin"), **{name.replace(".", "__"): None}))
    assert [each.path for each in caught.value.problems] == [name]


@pytest.mark.parametrize("name", ["text_model.projection_head.weight", "logit_scale"])
def test_a_missing_weight_is_named(name: str, vision: str, copy) -> None:
    with pytest.raises(InputError, match=rf"{name}: the checkpoint lacks weights"):
        load(change(copy(vision), **{name.replace(".", "__"): None}))


@pytest.mark.parametrize("published", [True, False])
def test_computed_indices_may_be_there_or_not(published: bool, copy, encoders) -> None:
    folder = copy("swin")
    absent = {
        name.replace(".", "__"): None
        for name in VECTORS["swin"]["weights"]
        if name.endswith(("position_ids", "relative_position_index"))
    }
    assert len(absent) == 6
    encoder = load(folder if published else change(folder, **absent))
    assert torch.equal(encoder.encode_texts(TEXTS), encoders["swin"].encode_texts(TEXTS))


class Marked:
    """Leaves a mark where its pickle is read by code that runs what it finds."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_wants_to_run_code(zipped: bool, copy, tmp_path: Path) -> None:
    folder = copy("swin")
    mark = tmp_path / "ran"
    torch.save({"weight": Marked(mark)}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"wants to run code(.|\n)*posix.mkdir") as caught:
        load(folder)
    assert str(folder / "pytorch_model.bin") in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"encoder.weight": torch.zeros(2)}, "not MedCLIP's weights"),
        ({}, "not MedCLIP's weights"),
        ({"weight": torch.zeros(2), "epoch": 3}, "something else than tensors(.|\n)*epoch"),
        ([torch.zeros(2)], "no weights by name(.|\n)*list"),
    ],
)
def test_other_checkpoints(content: object, said: str, copy) -> None:
    folder = copy("resnet")
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=said):
        load(folder)


@pytest.mark.parametrize("kept", [0, 100, 100_000])
def test_a_cut_off_download(kept: int, copy) -> None:
    folder = copy("resnet")
    file = folder / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(InputError, match="the weights can't be") as caught:
        load(folder)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("folder", ["Bio_ClinicalBERT", "swin-tiny-patch4-window7-224"])
def test_a_companion_that_can_t_be_had(folder: str, copy, hub) -> None:
    hub.stop()
    path = copy("swin")
    shutil.rmtree(path / folder)
    with pytest.raises(MissingError, match=rf"lacks \w+/{folder}"):
        load(path)


def test_a_resnet_needs_no_swin(copy, hub) -> None:
    hub.stop()
    path = copy("resnet")
    shutil.rmtree(path / "swin-tiny-patch4-window7-224")
    assert load(path).dim == factory.DIM


@pytest.mark.parametrize(
    ("companion", "file", "said"),
    [
        ("Bio_ClinicalBERT", "vocab.txt", "lacks its tokenizer"),
        ("Bio_ClinicalBERT", "config.json", "configuration is missing(.|\n)*that of emilyalsentzer/Bio_ClinicalBERT"),
    ],
)
def test_half_a_companion(companion: str, file: str, said: str, copy) -> None:
    folder = copy("resnet")
    (folder / companion / file).unlink()
    with pytest.raises(InputError, match=said):
        load(folder)


@pytest.mark.parametrize(
    ("companion", "keys", "said"),
    [
        ("Bio_ClinicalBERT", {"model_type": "roberta"}, "configures another tower(.|\n)*'bert'"),
        ("Bio_ClinicalBERT", {"hidden_size": 32}, r"don't fit(.|\n)*shape \(32,\)(.|\n)*shape \(16,\)"),
        ("Bio_ClinicalBERT", {"num_hidden_layers": 5}, r"layer.4.output.dense.weight: the checkpoint lacks weights"),
        ("Bio_ClinicalBERT", {"num_hidden_layers": 3}, r"layer.3.output.dense.weight: the architecture has no place"),
        ("swin-tiny-patch4-window7-224", {"window_size": 5}, r"bias_table: the weights don't fit"),
        ("Bio_ClinicalBERT", {"vocab_size": 10**9, "hidden_size": 1024}, "far larger model"),
    ],
)
def test_a_companion_of_another_model(companion: str, keys: dict[str, object], said: str, copy) -> None:
    folder = copy("swin")
    file = folder / companion / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))
    with pytest.raises(InputError, match=said):
        load(folder)


def test_a_tokenizer_with_more_words_than_the_model(copy) -> None:
    folder = copy("resnet")
    with (folder / "Bio_ClinicalBERT" / "vocab.txt").open("a") as file:
        file.write("\n".join(f"word{number}" for number in range(9)))
    with pytest.raises(InputError, match=r"belongs to another model(.|\n)*at most 29 tokens"):
        load(folder)


def test_a_damaged_configuration(copy) -> None:
    folder = copy("swin")
    (folder / "Bio_ClinicalBERT" / "config.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        load(folder)
