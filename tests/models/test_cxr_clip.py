"""CXR-CLIP: the original's numbers from the published layout, and a clear word where files don't fit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torchvision import transforms
from transformers import BertConfig

import cxr_clip_factory as factory
from families import checkpoint
from vlmed.errors import InputError, MissingError
from vlmed.models.cxr_clip import BERT, CxrClip
from vlmed.models.load import load_model
from vlmed.models.protocols import LoadedModel, TokenEncoder

PARITY = 1e-5
PIXELS = factory.pixels(factory.IMAGE_SIZE)
STATISTICS = {"resnet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "swin": ((0.5,) * 3, (0.5,) * 3)}


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    return {tower: checkpoint(f"cxr_clip_{tower}") for tower in factory.TOWERS}


@pytest.fixture(scope="module")
def models(folders) -> dict[str, LoadedModel]:
    return {tower: load_model(f"dir:{folder}") for tower, folder in folders.items()}


@pytest.fixture
def copy(folders, tmp_path: Path):
    def copied(tower: str) -> Path:
        return Path(shutil.copytree(folders[tower], tmp_path / tower))

    return copied


def refused(folder: Path, error: type[Exception] = InputError) -> str:
    with pytest.raises(error) as caught:
        load_model(f"dir:{folder}")
    return str(caught.value)


def relative(got: torch.Tensor, expected: Any) -> float:
    wanted = torch.as_tensor(expected)
    assert got.shape == wanted.shape
    return float((got - wanted).abs().max() / wanted.abs().max())


def outputs(model: LoadedModel) -> dict[str, Any]:
    encoder = model.predictor
    with torch.inference_mode():
        image, text = encoder.encode_images(PIXELS), encoder.encode_texts(factory.TEXTS)
    return {"image": image, "text": text, "logit scale": torch.tensor(encoder.logit_scale)}


# The original's numbers


@pytest.mark.parametrize("tower", factory.TOWERS)
def test_parity_with_stored_outputs_of_the_original(tower: str, models) -> None:
    stored = json.loads((factory.VECTORS / f"cxr_clip_{tower}.json").read_text(encoding="utf-8"))
    found = outputs(models[tower])
    assert found.keys() == stored.keys()
    for key, value in found.items():
        assert relative(value, stored[key]) <= PARITY, key


@pytest.mark.parametrize("tower", factory.TOWERS)
def test_parity_with_the_original(tower: str, models, folders) -> None:
    pytest.importorskip("cxrclip", reason="the original, github.com/Soombit-ai/cxr-clip, is not installed")
    original = factory.original_outputs(tower, folders[tower] / factory.COMPANION)
    for key, value in outputs(models[tower]).items():
        assert relative(value, original[key]) <= PARITY, key


@pytest.mark.parametrize(
    ("weights", "count"),
    [
        ({}, 23_508_032),
        ({"image_encoder.image_encoder.layernorm.weight": torch.zeros(768)}, 27_519_354),
    ],
    ids=factory.TOWERS,
)
def test_published_sizes(weights: dict[str, torch.Tensor], count: int) -> None:
    """Those of ResNet-50 and Swin-T without their classifiers, and of BERT-base."""
    with torch.device("meta"):
        model = CxrClip(weights, BertConfig())
    assert sum(weight.numel() for weight in model.image_encoder.parameters()) == count
    assert sum(weight.numel() for weight in model.text_encoder.parameters()) == 109_482_240
    assert model.image_projection.weight.shape == (512, 768 if weights else 2048)


# What it offers


def test_the_information(models) -> None:
    for tower, architecture in (("resnet", "ResNet and BertModel"), ("swin", "SwinModel and BertModel")):
        info = models[tower].info
        assert (info.family, info.architecture, info.kind) == ("cxr_clip", architecture, "dual_encoder")
        assert [companion.partition("@")[0] for companion in info.companions] == [BERT]


@pytest.mark.parametrize("tower", factory.TOWERS)
def test_tokens_of_images_and_texts(tower: str, models) -> None:
    encoder = models[tower].predictor
    assert isinstance(encoder, TokenEncoder)
    with torch.inference_mode():
        places = encoder.encode_image_tokens(PIXELS)
        tokens, mask = encoder.encode_text_tokens(factory.TEXTS)
        # The original takes Swin's first patch where other towers have a class token.
        pooled = encoder.model.image_projection(places[:, 0] if tower == "swin" else places.mean(dim=1))
        last = encoder.model.text_projection(
            torch.stack([tokens[row, length - 1] for row, length in enumerate((23, 30, 48))])
        )
        torch.testing.assert_close(pooled, encoder.encode_images(PIXELS))
        torch.testing.assert_close(last, encoder.encode_texts(factory.TEXTS))
    assert places.shape == ((3, 14 * 14, 16) if tower == "swin" else (3, 7 * 7, 2048))
    assert tokens.shape == (3, 48, factory.BERT["hidden_size"])
    # [CLS], one token a letter or sign, [SEP]; the last text is cut off where the trainer's configuration says.
    assert mask.sum(dim=1).tolist() == [23, 30, 48]


def test_a_text_alone_is_embedded_as_among_others(models) -> None:
    encoder = models["resnet"].predictor
    with torch.inference_mode():
        together = encoder.encode_texts(factory.TEXTS)
        alone = torch.cat([encoder.encode_texts([text]) for text in factory.TEXTS])
        upper = encoder.encode_texts([text.upper() for text in factory.TEXTS])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    assert torch.equal(together, upper)


@pytest.mark.parametrize("tower", factory.TOWERS)
def test_preprocessing_is_the_authors(tower: str, models, images) -> None:
    authors = transforms.Compose(
        [
            transforms.Resize(224),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(*STATISTICS[tower]),
        ]
    )
    for image in images:
        assert torch.equal(models[tower].predictor.preprocess(image), authors(image.convert("RGB")))


@pytest.mark.parametrize("tower", factory.TOWERS)
def test_gradients_reach_the_image_tower_and_nothing_else(tower: str, folders) -> None:
    encoder = load_model(f"dir:{folders[tower]}").predictor
    encoder.encode_images(PIXELS).square().sum().backward()
    towers = dict(encoder.image_tower.named_parameters())
    assert not [name for name, weight in towers.items() if weight.grad is None]
    reached = [name for name, weight in encoder.model.named_parameters() if weight.grad is not None]
    assert sorted(reached) == sorted(towers)
    assert all(name.startswith("image_") for name in reached)


def test_without_a_configuration_the_published_one_holds(tmp_path: Path, models) -> None:
    loaded = load_model(f"dir:{factory.tiny_cxr_clip(tmp_path / 'model', 'swin', config={})}")
    with torch.inference_mode():
        mask = loaded.predictor.encode_text_tokens(["cardiomegaly " * 40])[1]
    assert mask.sum() == 256
    with torch.inference_mode():
        assert torch.equal(loaded.predictor.encode_images(PIXELS), models["swin"].predictor.encode_images(PIXELS))


@pytest.mark.parametrize(
    ("tower", "targets"), [("resnet", ["conv2", "image_projection"]), ("swin", r".*\.(query|value|q_proj|v_proj)")]
)
def test_a_lora_of_the_image_tower_loads_as_an_adapter(tower: str, targets: Any, folders, tmp_path: Path) -> None:
    base = f"dir:{folders[tower]}"
    encoder = load_model(base).predictor
    before = encoder.encode_images(PIXELS).detach()
    wrapped = get_peft_model(encoder.image_tower, LoraConfig(r=2, target_modules=targets))
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    wrapped.peft_config["default"].base_model_name_or_path = base
    wrapped.save_pretrained(tmp_path / "lora")
    unmerged = encoder.encode_images(PIXELS)
    merged = load_model(base, adapter=f"dir:{tmp_path / 'lora'}").predictor.encode_images(PIXELS)
    assert relative(unmerged, before) > 1e-2
    assert relative(merged, unmerged) <= 1e-4


# Lists of omegaconf's, and worse


@pytest.mark.parametrize("tower", factory.TOWERS)
def test_lists_of_omegaconf_are_read_without_it(tower: str, tmp_path: Path, models) -> None:
    folder = factory.tiny_cxr_clip(tmp_path / tower, tower, lists=True)
    named = torch.serialization.get_unsafe_globals_in_checkpoint(folder / factory.FILES[tower])
    assert {"omegaconf.listconfig.ListConfig", "collections.defaultdict", "typing.Any"} <= set(named)
    found, expected = outputs(load_model(f"dir:{folder}")), outputs(models[tower])
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_lists_that_omegaconf_wrote_are_read(tmp_path: Path) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    lists = omegaconf.OmegaConf.create(
        {"transform": {"scale": [0.8, 1.1], "names": ["a"]}, "size": "${transform.scale}"}
    )
    omegaconf.OmegaConf.resolve(lists)
    config = {"model": {"text_encoder": {"pooling": "eos"}}, "more": lists.transform.scale, "all": lists}
    folder = factory.tiny_cxr_clip(tmp_path / "model", "swin", config=config)
    assert load_model(f"dir:{folder}").info.family == "cxr_clip"


class Marking:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return eval, (f"open({str(self.mark)!r}, 'w').close()",)


@pytest.mark.parametrize("where", ["config", "optimizer", "model"])
@pytest.mark.parametrize("lists", [False, True])
def test_a_pickle_with_code_leaves_no_mark(where: str, lists: bool, tmp_path: Path) -> None:
    folder, mark = tmp_path / "model", tmp_path / "mark"
    file = factory.tiny_cxr_clip(folder, "swin") / factory.FILES["swin"]
    content = torch.load(file, weights_only=True)
    content[where]["more"] = Marking(mark)
    with factory.omegaconf() as list_config:
        content["lists"] = list_config([0.8]) if lists else []
        torch.save(content, file)
        said = refused(folder)
        assert not mark.exists()
        torch.load(file, weights_only=False)
    assert mark.exists()
    assert "wants to run code" in said
    assert "eval" in said


# Files that don't fit


@pytest.mark.parametrize("tower", factory.TOWERS)
def test_every_weight_that_is_missing_left_over_or_misshapen_is_listed(tower: str, tmp_path: Path) -> None:
    weights = factory.cxr_clip_weights(tower)
    inner = "image_encoder.resnet.layer2.0.conv2.weight"
    if tower == "swin":
        inner = "image_encoder.image_encoder.encoder.layers.0.blocks.1.attention.self.query.weight"
    for name in (inner, "text_encoder.text_encoder.pooler.dense.bias", "logit_scale"):
        del weights[name]
    weights |= {"image_encoder.classifier.weight": torch.zeros(2), "text_projection.projection.bias": torch.zeros(3)}
    said = refused(factory.tiny_cxr_clip(tmp_path / "model", tower, model=weights))
    assert said.count("lacks weights") == 3
    assert said.count("no place for these weights") == 1
    assert said.count("don't fit the architecture") == 1
    for name in (
        inner,
        "text_encoder.text_encoder.pooler.dense.bias",
        "logit_scale",
        "image_encoder.classifier.weight",
    ):
        assert name in said


def test_no_weights_at_all_lists_all_that_should_be_there(tmp_path: Path) -> None:
    said = refused(factory.tiny_cxr_clip(tmp_path / "model", "resnet", model={}))
    assert said.count("lacks weights") > 500
    assert "image_encoder.resnet.layer3.5.conv3.weight" in said
    assert "text_encoder.text_encoder.encoder.layer.11.output.dense.weight" in said


def test_a_checkpoint_of_a_fine_tuned_classifier(tmp_path: Path) -> None:
    kept = {name: tensor for name, tensor in factory.cxr_clip_weights("resnet").items() if name.startswith("image_enc")}
    head = {"classifier.classification_head.weight": torch.zeros(2, 2048)}
    said = refused(factory.tiny_cxr_clip(tmp_path / "model", "resnet", model=kept | head))
    assert "classifier.classification_head.weight" in said
    assert "image_projection.projection.weight" in said


def test_another_pooling_of_texts(tmp_path: Path) -> None:
    config = {"model": {"text_encoder": {"pooling": "mean"}}}
    said = refused(factory.tiny_cxr_clip(tmp_path / "model", "swin", config=config))
    assert "'eos'" in said
    assert "'mean'" in said


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], {"model": {"config": {"layers": 3}}}, {"model": [1]}])
def test_another_kind_of_checkpoint(content: Any, copy) -> None:
    folder = copy("swin")
    torch.save(content, folder / "swint_mcc.tar")
    assert "swint_mcc.tar" in refused(folder)


def test_a_real_tar_archive(copy) -> None:
    import tarfile

    folder = copy("swin")
    with tarfile.open(folder / "swint_mcc.tar", "w") as archive:
        archive.add(folder / factory.COMPANION / "vocab.txt", "vocab.txt")
    assert "swint_mcc.tar" in refused(folder)


@pytest.mark.parametrize("kept", [0, 3000])
def test_a_cut_off_download(kept: int, copy) -> None:
    file = copy("swin") / "swint_mcc.tar"
    file.write_bytes(file.read_bytes()[:kept])
    assert "swint_mcc.tar" in refused(file.parent)


# Bio_ClinicalBERT, which lies elsewhere


def test_the_companion_comes_from_the_hub_at_a_commit(hub, copy, models) -> None:
    folder = copy("swin")
    commit = hub.add(BERT, folder / factory.COMPANION)
    shutil.rmtree(folder / factory.COMPANION)
    loaded = load_model(f"dir:{folder}")
    assert loaded.info.companions == (f"{BERT}@{commit}",)
    assert torch.equal(outputs(loaded)["text"], outputs(models["swin"])["text"])


def test_an_absent_companion_without_a_network(hub, copy) -> None:
    folder = copy("swin")
    shutil.rmtree(folder / factory.COMPANION)
    hub.stop()
    said = refused(folder, MissingError)
    assert BERT in said
    assert "dir:PATH" in said


@pytest.mark.parametrize(("file", "says"), [("config.json", "lacks its configuration"), ("vocab.txt", "tokenizer")])
def test_a_companion_lacks_a_file(file: str, says: str, copy) -> None:
    folder = copy("swin")
    (folder / factory.COMPANION / file).unlink()
    assert says in refused(folder)


def test_a_copy_on_the_hub_loads_with_and_without_a_network(hub, folders, models) -> None:
    commit = hub.add("org/cxr-clip", folders["swin"], tag="v1")
    hub.add(BERT, folders["swin"] / factory.COMPANION)
    online = load_model("org/cxr-clip@v1")
    assert online.info.revision == commit
    assert torch.equal(outputs(online)["image"], outputs(models["swin"])["image"])
    hub.stop()
    assert load_model("org/cxr-clip@v1").info == online.info
