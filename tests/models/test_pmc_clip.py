"""PMC-CLIP: the original's numbers from both published layouts, and a clear word where files don't fit."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torchvision import transforms
from transformers import BertConfig

import pmc_clip_factory as factory
from families import checkpoint
from vlmed.errors import InputError, MissingError
from vlmed.models.load import load_model
from vlmed.models.pmc_clip import BERT, PmcClip
from vlmed.models.protocols import LoadedModel, TokenEncoder

PARITY = 1e-5
VECTORS = json.loads(factory.VECTORS.read_text(encoding="utf-8"))
LAYOUTS = ["checkpoint", "encoders"]
PIXELS = factory.pixels(factory.IMAGE_SIZE)


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    return {"checkpoint": checkpoint("pmc_clip"), "encoders": checkpoint("pmc_clip_encoders")}


@pytest.fixture(scope="module")
def models(folders) -> dict[str, LoadedModel]:
    return {name: load_model(f"dir:{folder}") for name, folder in folders.items()}


@pytest.fixture
def copy(folders, tmp_path: Path):
    def copied(name: str) -> Path:
        return Path(shutil.copytree(folders[name], tmp_path / name))

    return copied


def refused(folder: Path, error: type[Exception] = InputError) -> str:
    with pytest.raises(error) as caught:
        load_model(f"dir:{folder}")
    return str(caught.value)


def changed(file: Path, **weights: torch.Tensor | None) -> Path:
    """Put weights into a checkpoint, or take out those that are None; returns its folder."""
    content = torch.load(file, weights_only=True)
    state = content.get("state_dict", content)
    for name, tensor in weights.items():
        state.pop(name, None)
        if tensor is not None:
            state[name] = tensor
    torch.save(content, file)
    return file.parent


def relative(got: torch.Tensor, expected: Any) -> float:
    wanted = torch.as_tensor(expected)
    assert got.shape == wanted.shape
    return float((got - wanted).abs().max() / wanted.abs().max())


def outputs(model: LoadedModel) -> dict[str, torch.Tensor]:
    encoder = model.predictor
    with torch.inference_mode():
        image = encoder.encode_images(PIXELS)
        found = {"image": image, "text, normalised": unit(encoder.encode_texts(factory.TEXTS))}
        if encoder.model.fusion:
            fusion = encoder.model.fusion
            fused = fusion(encoder.encode_text_tokens(factory.TEXTS)[0], image)
            found["log-probabilities of the first words"] = fusion.log_probabilities(fused)[:, :5, :12]
    return found


def unit(embeddings: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(embeddings, dim=-1)


# The original's numbers


@pytest.mark.parametrize("name", LAYOUTS)
def test_parity_with_stored_outputs_of_the_original(name: str, models) -> None:
    found = outputs(models[name])
    assert len(found) == (3 if name == "checkpoint" else 2)
    for key, value in found.items():
        assert relative(value, VECTORS[key]) <= PARITY, key


def test_parity_with_the_original(models, folders) -> None:
    pytest.importorskip("pmc_clip", reason="the original, github.com/WeixiongLin/PMC-CLIP, is not installed")
    original = factory.original_outputs(folders["checkpoint"] / factory.COMPANION)
    for key, value in outputs(models["checkpoint"]).items():
        assert relative(value, original[key]) <= PARITY


def test_the_logit_scale_is_learned_or_the_authors_constant(models) -> None:
    assert models["checkpoint"].predictor.logit_scale == pytest.approx(VECTORS["logit scale"], rel=1e-6)
    assert models["encoders"].predictor.logit_scale == pytest.approx(math.exp(4.4292), rel=1e-6)


def test_published_sizes() -> None:
    """Those of OpenAI's RN50 with 768 instead of 1,024 outputs, and of BERT-base."""
    with torch.device("meta"):
        model = PmcClip({}, BertConfig())
    count = {name: sum(weight.numel() for weight in part.parameters()) for name, part in model.named_children()}
    assert count == {"visual": 38_316_896 - 256 * 2049, "text_encoder": 109_482_240}
    assert model.text_projection.shape == (768, 768)
    assert (model.visual.image_size, model.visual.attnpool.num_heads) == (224, 32)


# What it offers


def test_the_information(models) -> None:
    info = models["checkpoint"].info
    assert (info.family, info.kind) == ("pmc_clip", "dual_encoder")
    assert info.architecture == "ModifiedResNet and BertModel, with fusion"
    assert info.has_fusion
    assert [companion.partition("@")[0] for companion in info.companions] == [BERT]
    without_fusion = models["encoders"].info
    assert without_fusion.architecture == "ModifiedResNet and BertModel"
    assert not without_fusion.has_fusion
    assert info.parameters > without_fusion.parameters


@pytest.mark.parametrize("name", LAYOUTS)
def test_tokens_of_images_and_texts(name: str, models) -> None:
    encoder = models[name].predictor
    assert isinstance(encoder, TokenEncoder)
    with torch.inference_mode():
        places = encoder.encode_image_tokens(PIXELS)
        tokens, mask = encoder.encode_text_tokens(factory.TEXTS)
        texts = encoder.encode_texts(factory.TEXTS)
        pooled = encoder.model.visual.attnpool(places.transpose(1, 2).unflatten(2, (2, 2)))
        projected = tokens[:, 0] @ encoder.model.text_projection
    assert places.shape == (3, 4, 32 * factory.TOWER_WIDTH)
    assert tokens.shape == (3, factory.CONTEXT, factory.WIDTH)
    torch.testing.assert_close(pooled, encoder.encode_images(PIXELS))
    torch.testing.assert_close(projected, texts)
    # [CLS], one token a letter or sign, [SEP]; the last text is cut off.
    assert mask.sum(dim=1).tolist() == [13, 25, 77]
    assert mask[0, :13].all()


def test_a_text_alone_is_embedded_as_among_others(models) -> None:
    encoder = models["checkpoint"].predictor
    with torch.inference_mode():
        together = encoder.encode_texts(factory.TEXTS)
        alone = torch.cat([encoder.encode_texts([text]) for text in factory.TEXTS])
        upper = encoder.encode_texts([text.upper() for text in factory.TEXTS])
    torch.testing.assert_close(together, alone)
    assert torch.equal(together, upper)


def test_preprocessing_is_the_authors(models, images) -> None:
    authors = transforms.Compose(
        [
            transforms.Resize(factory.IMAGE_SIZE, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(factory.IMAGE_SIZE),
            transforms.ToTensor(),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )
    for image in images:
        assert torch.equal(models["checkpoint"].predictor.preprocess(image), authors(image.convert("RGB")))


def test_gradients_reach_both_towers_and_the_fusion(folders) -> None:
    encoder = load_model(f"dir:{folders['checkpoint']}").predictor
    image = encoder.encode_images(PIXELS)
    fused = encoder.model.fusion(encoder.encode_text_tokens(factory.TEXTS)[0], image)
    (encoder.model.fusion.log_probabilities(fused).sum() + encoder.encode_texts(factory.TEXTS).sum()).backward()
    without = [name for name, weight in encoder.model.named_parameters() if weight.grad is None]
    # BERT's own pooler was never used in training.
    assert without == ["logit_scale", "text_encoder.pooler.dense.weight", "text_encoder.pooler.dense.bias"]


def test_the_fusion_sees_the_image_but_not_its_length(models) -> None:
    encoder = models["checkpoint"].predictor
    with torch.inference_mode():
        image, text = encoder.encode_images(PIXELS), encoder.encode_text_tokens(factory.TEXTS)[0]
        fused, longer, other = (encoder.model.fusion(text, each) for each in (image, 3 * image, image.flip(0)))
    assert fused.shape == text.shape
    torch.testing.assert_close(fused, longer)
    assert not torch.allclose(fused[0], other[0])


def test_a_checkpoint_may_lack_prefix_word_head_or_fusion(models, tmp_path: Path) -> None:
    bare = load_model(f"dir:{factory.tiny_pmc_clip(tmp_path / 'bare', prefix='', words=False)}").predictor
    assert bare.model.fusion
    assert not hasattr(bare.model.fusion, "mlm_projection")
    plain = load_model(f"dir:{factory.tiny_pmc_clip(tmp_path / 'plain', fusion=False, words=False)}").predictor
    assert plain.model.fusion is None
    with torch.inference_mode():
        expected = models["checkpoint"].predictor.encode_images(PIXELS)
        assert torch.equal(bare.encode_images(PIXELS), expected)
        assert torch.equal(plain.encode_images(PIXELS), expected)


def test_half_precision_weights_become_float32(copy) -> None:
    file = copy("encoders") / "image_encoder(resnet50).pth"
    torch.save({name: tensor.half() for name, tensor in torch.load(file, weights_only=True).items()}, file)
    encoder = load_model(f"dir:{file.parent}").predictor
    assert {weight.dtype for weight in encoder.model.parameters()} == {torch.float32}


def test_a_lora_of_the_image_tower_loads_as_an_adapter(folders, tmp_path: Path) -> None:
    base = f"dir:{folders['checkpoint']}"
    encoder = load_model(base).predictor
    before = encoder.encode_images(PIXELS).detach()
    wrapped = get_peft_model(
        encoder.image_tower, LoraConfig(r=2, target_modules=["conv1", "q_proj", "v_proj", "c_proj"])
    )
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    wrapped.peft_config["default"].base_model_name_or_path = base
    wrapped.save_pretrained(tmp_path / "lora")
    unmerged = encoder.encode_images(PIXELS)
    merged = load_model(base, adapter=f"dir:{tmp_path / 'lora'}").predictor.encode_images(PIXELS)
    assert relative(unmerged, before) > 1e-2
    assert relative(merged, unmerged) <= 1e-4


# Files that don't fit


def test_every_weight_that_is_missing_left_over_or_misshapen_is_listed(copy) -> None:
    folder = changed(
        copy("checkpoint") / "checkpoint.pt",
        **{
            "module.visual.layer2.0.conv1.weight": None,
            "module.text_encoder.pooler.dense.bias": None,
            "module.img_special_token": None,
            "module.visual.layer9.0.conv1.weight": torch.zeros(2),
            "module.text_projection": torch.zeros(3, factory.WIDTH),
        },
    )
    said = refused(folder)
    assert said.count("lacks weights") == 3
    assert said.count("no place for these weights") == 1
    assert said.count("don't fit the architecture") == 1
    for name in ("visual.layer2.0.conv1.weight", "pooler.dense.bias", "img_special_token", "visual.layer9", "(3, 32)"):
        assert name in said


@pytest.mark.parametrize("file", ["image_encoder(resnet50).pth", "text_encoder.pth"])
def test_an_empty_file_of_weights_lists_all_that_it_should_hold(file: str, copy) -> None:
    folder = copy("encoders")
    torch.save({}, folder / file)
    said = refused(folder)
    assert said.count("lacks weights") > 150
    assert ("visual.attnpool.c_proj.bias" if "image" in file else "text_encoder.encoder.layer.11.") in said


def test_weights_of_a_word_head_without_fusion_have_no_place(tmp_path: Path) -> None:
    said = refused(factory.tiny_pmc_clip(tmp_path / "model", fusion=False, words=True))
    assert "mlm_projection" in said
    assert said.count("no place") == 1


def test_one_of_the_three_files_is_missing(copy) -> None:
    folder = copy("encoders")
    (folder / "text_encoder.pth").unlink()
    said = refused(folder)
    assert "no weights beside the configuration" in said
    assert "text_encoder.pth" in said


def test_a_projection_that_is_no_tensor(copy) -> None:
    folder = copy("encoders")
    torch.save({"weight": torch.zeros(32, 32)}, folder / "text_projection_layer.pth")
    said = refused(folder)
    assert "not one tensor" in said
    assert "text_projection_layer.pth" in said


def test_a_checkpoint_without_a_state_dict(copy) -> None:
    folder = copy("checkpoint")
    torch.save({"epoch": 3, "weights": {}}, folder / "checkpoint.pt")
    said = refused(folder)
    assert "'state_dict'" in said
    assert "epoch, weights" in said


@pytest.mark.parametrize("kept", [0, 1, 3000])
def test_a_cut_off_download(kept: int, copy) -> None:
    file = copy("checkpoint") / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:kept])
    assert "checkpoint.pt" in refused(file.parent)


class Marking:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return eval, (f"open({str(self.mark)!r}, 'w').close()",)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("checkpoint", "checkpoint.pt"),
        ("encoders", "image_encoder(resnet50).pth"),
        ("encoders", "text_encoder.pth"),
        ("encoders", "text_projection_layer.pth"),
    ],
)
def test_a_pickle_with_code_leaves_no_mark(name: str, file: str, copy, tmp_path: Path) -> None:
    folder, mark = copy(name), tmp_path / "mark"
    content = torch.load(folder / file, weights_only=True)
    torch.save(
        [Marking(mark)] if isinstance(content, torch.Tensor) else {**content, "more": Marking(mark)}, folder / file
    )
    said = refused(folder)
    assert not mark.exists()
    assert "wants to run code" in said
    assert "eval" in said
    torch.load(folder / file, weights_only=False)
    assert mark.exists()


# PubMedBERT, which lies elsewhere


def test_the_companion_comes_from_the_hub_at_a_commit(hub, copy, models) -> None:
    folder = copy("checkpoint")
    commit = hub.add(BERT, folder / factory.COMPANION)
    shutil.rmtree(folder / factory.COMPANION)
    loaded = load_model(f"dir:{folder}")
    assert loaded.info.companions == (f"{BERT}@{commit}",)
    with torch.inference_mode():
        expected = models["checkpoint"].predictor.encode_texts(factory.TEXTS)
        assert torch.equal(loaded.predictor.encode_texts(factory.TEXTS), expected)


def test_an_absent_companion_without_a_network(hub, copy) -> None:
    folder = copy("encoders")
    shutil.rmtree(folder / factory.COMPANION)
    hub.stop()
    said = refused(folder, MissingError)
    assert BERT in said
    assert "dir:PATH" in said


@pytest.mark.parametrize(("file", "says"), [("config.json", "lacks its configuration"), ("vocab.txt", "tokenizer")])
def test_a_companion_lacks_a_file(file: str, says: str, copy) -> None:
    folder = copy("checkpoint")
    (folder / factory.COMPANION / file).unlink()
    assert says in refused(folder)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("hidden_size", 64, "text_encoder.embeddings.LayerNorm.weight"),
        ("vocab_size", 200, "word_embeddings"),
        ("vocab_size", 10**12, "far larger model than the weights"),
        ("max_position_embeddings", 16, "position_embeddings"),
        ("num_attention_heads", 5, "multiple of the number of attention heads"),
    ],
)
def test_a_companion_of_another_shape(key: str, value: int, says: str, copy) -> None:
    folder = copy("checkpoint")
    config = folder / factory.COMPANION / "config.json"
    config.write_text(json.dumps(factory.BERT | {key: value}))
    assert says in refused(folder)


# From the Hub


@pytest.mark.parametrize("name", LAYOUTS)
def test_it_loads_from_a_data_set_repository(name: str, hub, folders, models) -> None:
    folder = folders[name]
    more = {"images.zip": b"a data set", "train.jsonl": b"{}"}
    commit = hub.add("datasets/axiong/pmc_oa", folder, tag="v1", more=more)
    hub.add(BERT, folder / factory.COMPANION)
    online = load_model("hf:datasets/axiong/pmc_oa@v1")
    assert (online.info.ref, online.info.revision) == ("hf:datasets/axiong/pmc_oa@v1", commit)
    weights = {file.name for file in folder.iterdir() if file.is_file()}
    assert hub.downloaded() == weights | {"config.json", "vocab.txt"}
    with torch.inference_mode():
        assert torch.equal(online.predictor.encode_images(PIXELS), models[name].predictor.encode_images(PIXELS))
    hub.stop()
    assert load_model("hf:datasets/axiong/pmc_oa@v1").info == online.info
