import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import factories
from vlmed.errors import InputError, UsageError
from vlmed.models.load import load_model
from vlmed.models.protocols import DualEncoder, ImageEncoder

DUAL = ["open_clip", "open_clip_hf_tokenizer", "clip", "siglip"]
IMAGE_ONLY = ["vit", "vit_classifier", "resnet", "timm"]
TEXTS = ["a chest radiograph", "pneumonia", "a text that is certainly longer than the context of a tiny model"]


def load(folder: Path) -> ImageEncoder:
    encoder = load_model(f"dir:{folder}").predictor
    assert isinstance(encoder, ImageEncoder)
    return encoder


def load_dual(folder: Path) -> DualEncoder:
    encoder = load(folder)
    assert isinstance(encoder, DualEncoder)
    return encoder


def batch(encoder: ImageEncoder, images: list[Image.Image]) -> torch.Tensor:
    return torch.stack([encoder.preprocess(image) for image in images])


@pytest.fixture
def change(checkpoints, tmp_path: Path):
    """Copies a checkpoint and merges keys into one of its JSON files."""

    def copied(name: str, file: str = "", **keys: object) -> Path:
        folder = Path(shutil.copytree(checkpoints[name], tmp_path / name))
        if file:
            config = json.loads((folder / file).read_text())
            (folder / file).write_text(json.dumps(config | keys))
        return folder

    return copied


# Every family


@pytest.mark.parametrize("name", DUAL + IMAGE_ONLY)
def test_every_family_encodes_images(name: str, checkpoints, images) -> None:
    encoder = load(checkpoints[name])
    pixels = batch(encoder, images)
    assert pixels.dtype == torch.float32
    assert pixels.shape[:2] == (2, 3)
    with torch.inference_mode():
        embeddings = encoder.encode_images(pixels)
    assert embeddings.dtype == torch.float32
    assert embeddings.shape == (2, encoder.dim)
    assert embeddings.isfinite().all()
    assert not torch.equal(embeddings[0], embeddings[1])
    assert (isinstance(encoder, DualEncoder)) == (name in DUAL)


@pytest.mark.parametrize("name", DUAL)
def test_every_dual_encoder_encodes_texts(name: str, checkpoints) -> None:
    encoder = load_dual(checkpoints[name])
    with torch.inference_mode():
        embeddings = encoder.encode_texts(TEXTS)
        assert embeddings.shape == (3, encoder.dim)
        assert embeddings.dtype == torch.float32
        alone = torch.cat([encoder.encode_texts([text]) for text in TEXTS])
        assert encoder.encode_texts([]).shape == (0, encoder.dim)
    torch.testing.assert_close(embeddings, alone, rtol=1e-5, atol=1e-6)


def test_many_texts_keep_their_order(checkpoints) -> None:
    encoder = load_dual(checkpoints["clip"])
    texts = [f"finding {number}" for number in range(600)]
    with torch.inference_mode():
        together = encoder.encode_texts(texts)
        torch.testing.assert_close(together[599], encoder.encode_texts(texts[599:])[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "family", "architecture", "kind"),
    [
        ("open_clip", "open_clip", "CLIP VisionTransformer", "dual_encoder"),
        ("clip", "clip", "CLIPModel", "dual_encoder"),
        ("siglip", "siglip", "SiglipModel", "dual_encoder"),
        ("vit", "vit", "ViTModel", "image_encoder"),
        ("resnet", "resnet", "ResNetModel", "image_encoder"),
        ("timm", "timm", "test_vit", "image_encoder"),
    ],
)
def test_the_information_says_what_the_model_is(
    name: str, family: str, architecture: str, kind: str, checkpoints
) -> None:
    info = load_model(f"dir:{checkpoints[name]}").info
    assert (info.family, info.architecture, info.kind, info.name) == (family, architecture, kind, name)
    assert info.ref == f"dir:{checkpoints[name]}"
    assert info.parameters > 0
    assert json.loads(json.dumps(info.to_json())) == info.to_json()


def test_parameters_are_counted_without_what_is_not_used(checkpoints) -> None:
    expected = sum(parameter.numel() for parameter in factories.plain_model(checkpoints["clip"]).parameters())
    assert load_model(f"dir:{checkpoints['clip']}").info.parameters == expected


@pytest.mark.parametrize("name", DUAL + IMAGE_ONLY)
def test_gradients_reach_the_image_tower(name: str, checkpoints, images) -> None:
    encoder = load(checkpoints[name])
    assert not encoder.image_tower.training
    encoder.encode_images(batch(encoder, images)).sum().backward()
    without = [name for name, parameter in encoder.image_tower.named_parameters() if parameter.grad is None]
    assert not without


@pytest.mark.parametrize(("name", "target"), [("clip", ["visual_projection", "q_proj"]), ("open_clip", ["c_fc"])])
def test_a_lora_on_the_image_tower_changes_what_is_encoded(name: str, target: list[str], checkpoints, images) -> None:
    from peft import LoraConfig, get_peft_model

    encoder = load(checkpoints[name])
    pixels = batch(encoder, images)
    before = encoder.encode_images(pixels).detach()
    wrapped = get_peft_model(encoder.image_tower, LoraConfig(r=2, target_modules=target))
    assert "text" not in " ".join(key for key, _ in wrapped.named_parameters())
    optimizer = torch.optim.SGD([parameter for parameter in wrapped.parameters() if parameter.requires_grad], lr=1.0)
    encoder.encode_images(pixels).square().sum().backward()
    optimizer.step()
    after = encoder.encode_images(pixels)
    assert not torch.allclose(before, after)
    with wrapped.disable_adapter():
        torch.testing.assert_close(encoder.encode_images(pixels), before)


# The same numbers as the library alone


def test_siglip_pads_every_text_to_the_full_context(checkpoints) -> None:
    from transformers import AutoModel, AutoTokenizer

    encoder = load_dual(checkpoints["siglip"])
    model = AutoModel.from_pretrained(checkpoints["siglip"]).eval()
    tokens = torch.zeros(1, factories.CONTEXT, dtype=torch.long)
    short = AutoTokenizer.from_pretrained(checkpoints["siglip"])("lung", return_tensors="pt").input_ids
    tokens[:, : short.shape[1]] = short
    expected = model.get_text_features(input_ids=tokens).pooler_output
    torch.testing.assert_close(encoder.encode_texts(["lung"]), expected)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_a_transformers_backbone_gives_its_pooled_output(name: str, checkpoints, images) -> None:
    from transformers import AutoImageProcessor, AutoModel

    pixels = AutoImageProcessor.from_pretrained(checkpoints[name])(
        images=[image.convert("RGB") for image in images], return_tensors="pt"
    )["pixel_values"]
    output = AutoModel.from_pretrained(checkpoints[name]).eval()(pixels)
    encoder = load(checkpoints[name])
    assert torch.equal(encoder.encode_images(pixels), output.pooler_output.flatten(1))


@torch.inference_mode()
def test_an_untrained_pooler_is_left_out(checkpoints, images) -> None:
    from transformers import AutoModelForImageClassification

    encoder = load(checkpoints["vit_classifier"])
    pixels = batch(encoder, images)
    model = AutoModelForImageClassification.from_pretrained(checkpoints["vit_classifier"]).eval()
    torch.testing.assert_close(model.classifier(encoder.encode_images(pixels)), model(pixels).logits)


@torch.inference_mode()
def test_timm_gives_its_own_numbers(checkpoints, images) -> None:
    import timm

    model = timm.create_model(f"local-dir:{checkpoints['timm']}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    pixels = torch.stack([transform(image.convert("RGB")) for image in images])
    encoder = load(checkpoints["timm"])
    assert torch.equal(batch(encoder, images), pixels)
    assert torch.equal(model.get_classifier()(encoder.encode_images(pixels)), model(pixels))


# Preprocessing


@pytest.mark.parametrize("name", ["open_clip", "clip", "timm"])
def test_grey_images_become_rgb(name: str, checkpoints, images) -> None:
    encoder = load(checkpoints[name])
    grey = images[1]
    assert grey.mode == "L"
    assert torch.equal(encoder.preprocess(grey), encoder.preprocess(Image.merge("RGB", [grey] * 3)))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_images_are_refused(mode: str, checkpoints) -> None:
    with pytest.raises(InputError, match="more than 8 bits"):
        load(checkpoints["clip"]).preprocess(Image.new(mode, (8, 8)))


def test_preprocessing_names_what_changes_pixels(checkpoints, change) -> None:
    keys = {load(checkpoints[name]).preprocessing for name in ("open_clip", "clip", "siglip", "timm")}
    assert len(keys) == 4
    other = change("clip", "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3])
    assert load(other).preprocessing not in keys


# Bad input


def test_weights_that_do_not_fit_the_configuration(change) -> None:
    folder = change("clip", "config.json", projection_dim=7)
    with pytest.raises(InputError, match="can't be loaded"):
        load(folder)


def test_open_clip_weights_that_do_not_fit(change) -> None:
    folder = change("open_clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["embed_dim"] = 7
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="size mismatch"):
        load(folder)


def test_missing_weights_are_not_filled_with_random_ones(change) -> None:
    from safetensors.torch import load_file, save_file

    folder = change("clip")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks weights") as caught:
        load(folder)
    assert "visual_projection.weight" in str(caught.value)


def test_truncated_weights(change) -> None:
    for name, file in (("clip", "model.safetensors"), ("open_clip", "open_clip_model.safetensors")):
        folder = change(name)
        (folder / file).write_bytes((folder / file).read_bytes()[:1000])
        with pytest.raises(InputError, match="can't be loaded"):
            load(folder)


class Mark:
    """A pickle that leaves a file behind where it is allowed to run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("name", "safe", "pickled"),
    [
        ("clip", "model.safetensors", "pytorch_model.bin"),
        ("open_clip", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
        ("timm", "model.safetensors", "pytorch_model.bin"),
    ],
)
def test_a_pickle_with_code_does_not_run(name: str, safe: str, pickled: str, change, tmp_path: Path) -> None:
    folder = change(name)
    (folder / safe).unlink()
    torch.save({"weights": Mark(tmp_path / "ran")}, folder / pickled)
    with pytest.raises(InputError, match="can't be loaded"):
        load(folder)
    (folder / pickled).write_bytes(pickle.dumps(Mark(tmp_path / "ran")))
    with pytest.raises(InputError, match="can't be loaded"):
        load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "safe", "pickled"),
    [
        ("clip", "model.safetensors", "pytorch_model.bin"),
        ("open_clip", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
        ("timm", "model.safetensors", "pytorch_model.bin"),
    ],
)
def test_a_pickle_of_tensors_alone_loads(name: str, safe: str, pickled: str, change, checkpoints, images) -> None:
    from safetensors.torch import load_file

    folder = change(name)
    torch.save(load_file(folder / safe), folder / pickled)
    (folder / safe).unlink()
    encoder, original = load(folder), load(checkpoints[name])
    pixels = batch(encoder, images)
    assert torch.equal(encoder.encode_images(pixels), original.encode_images(pixels))


CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
from transformers import CLIPConfig as OwnConfig, CLIPModel


class OwnModel(CLIPModel):
    pass
"""


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_remote_code_is_refused(file: str, change) -> None:
    folder = change("clip", file, auto_map={"AutoModel": "own.OwnModel"})
    (folder / "own.py").write_text(CODE)
    with pytest.raises(UsageError, match="Python code") as caught:
        load(folder)
    assert file in str(caught.value)
    assert "--trust-remote-code" in str(caught.value)
    assert not list(folder.rglob("ran"))


def test_remote_code_runs_for_those_who_ask_for_it(change) -> None:
    folder = change("clip", "config.json", auto_map={"AutoModel": "own.OwnModel"})
    (folder / "own.py").write_text(CODE)
    assert load_model(f"dir:{folder}", trust_remote_code=True).info.remote_code
    assert not load_model(f"dir:{change('siglip')}", trust_remote_code=True).info.remote_code


def test_configurations_that_say_nothing(change, tmp_path: Path) -> None:
    folder = change("clip")
    for text, says in (("{", "not JSON"), ("[]", "not a JSON object"), ('{"a": 1}', "names no architecture")):
        (folder / "config.json").write_text(text)
        with pytest.raises(InputError, match=says):
            load(folder)


def test_an_architecture_nobody_knows(change) -> None:
    for name, key in (("clip", "model_type"), ("timm", "architecture")):
        with pytest.raises(InputError, match="can't be loaded"):
            load(change(name, "config.json", **{key: "no_such_model"}))


def test_a_text_model_has_no_images_to_encode(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    tower = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=32, **tower)).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="neither a dual encoder nor an image backbone"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["clip", "siglip"])
@pytest.mark.parametrize("keep", ["tokenizer_config.json", "nothing"])
def test_a_model_without_its_tokenizer(name: str, keep: str, change) -> None:
    folder = change(name)
    for file in {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"} - {keep}:
        (folder / file).unlink(missing_ok=True)
    with pytest.raises(InputError, match="tokenizer"):
        load(folder)


def test_an_open_clip_model_whose_tokenizer_is_nowhere(hub, change, tmp_path: Path) -> None:
    folder = change("open_clip_hf_tokenizer")
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (folder / file).unlink()
    with pytest.raises(UsageError, match="'org/tokenizer' does not exist"):
        load(folder)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    hub.add("org/tokenizer", tmp_path / "empty")
    with pytest.raises(InputError, match="tokenizer"):
        load(folder)


def test_a_preprocessing_for_another_size(change) -> None:
    size = {"height": 20, "width": 20}
    with pytest.raises(InputError, match="preprocessing"):
        load(change("siglip", "preprocessor_config.json", size=size))


@pytest.mark.parametrize("device", ["cuda:99", "tpu"])
def test_a_device_that_is_not_there(device: str, checkpoints) -> None:
    with pytest.raises(UsageError, match=f"no device '{device}'"):
        load_model(f"dir:{checkpoints['clip']}", device=device)
    with pytest.raises(UsageError, match=f"no device '{device}'"):
        load_model("control:majority", device=device)
