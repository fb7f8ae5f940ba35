"""Every family of dual encoders in transformers and open_clip against its own library."""

import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from PIL import Image

import dual_factories
import factories
import families
from vlmed.errors import InputError, UsageError
from vlmed.models.load import load_model
from vlmed.models.protocols import DualEncoder, TokenEncoder

HF, OPEN_CLIP = list(dual_factories.HF), list(dual_factories.OPEN_CLIP)
LONG = "an opacity in the left lower lobe of the lung, " * 9
TEXTS = ["a chest radiograph", "pneumonia!", LONG]


@pytest.fixture(scope="module")
def checkpoint():
    """The tiny checkpoint of a name, made when it is first asked for. Read-only."""
    return families.checkpoint


@functools.cache
@torch.inference_mode(False)
def load(folder: Path) -> Any:
    """The encoder, loaded once: tests only read it."""
    encoder = load_model(f"dir:{folder}").predictor
    assert isinstance(encoder, DualEncoder)
    assert isinstance(encoder, TokenEncoder)
    return encoder


def batch(encoder: Any, images: list[Image.Image]) -> torch.Tensor:
    return torch.stack([encoder.preprocess(image) for image in images])


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def similarities(encoder: Any, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Cosines (B, N), the largest over an image's vectors where it has several."""
    vectors = unit(images.reshape(len(images), encoder.n_vectors, -1))
    return (vectors @ unit(texts).T).amax(dim=1)


# transformers


def library(folder: Path) -> Any:
    """The model, by the class that its configuration names."""
    [name] = json.loads((folder / "config.json").read_text())["architectures"]
    return getattr(transformers, name).from_pretrained(folder).eval()


def tokenize(folder: Path, texts: list[str], context: int) -> Any:
    """As the model's own documentation calls its tokenizer."""
    siglip = folder.name.startswith("siglip")
    padding = "max_length" if siglip else True
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        texts, padding=padding, max_length=context, truncation=True, return_tensors="pt"
    )
    if siglip:
        tokens.pop("attention_mask", None)
    if folder.name in ("blip", "blip_retrieval", "blip2_retrieval"):
        tokens.pop("token_type_ids", None)
    return tokens


# Positions of the text side; RoBERTa's begin at 2.
CONTEXTS = dict.fromkeys(HF, factories.CONTEXT)
CONTEXTS |= dict.fromkeys(
    ["align", "blip", "blip_retrieval", "blip2_retrieval", "chinese_clip", "flava"], dual_factories.BERT_CONTEXT
)
CONTEXTS |= dict.fromkeys(["altclip", "vision-text-dual-encoder"], dual_factories.BERT_CONTEXT - 2)


@torch.inference_mode()
@pytest.mark.parametrize("name", HF)
def test_transformers_gives_its_own_numbers(name: str, checkpoint, images) -> None:
    folder = checkpoint(name)
    encoder, model = load(folder), library(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = processor(images=[image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch(encoder, images), pixels)
    tokens = tokenize(folder, TEXTS, CONTEXTS[name])
    assert tokens["input_ids"].shape[1] == CONTEXTS[name]
    ours, texts = encoder.encode_images(pixels), encoder.encode_texts(TEXTS)
    cosines = similarities(encoder, ours, texts)
    if name == "blip_retrieval":
        expected = model(pixel_values=pixels, use_itm_head=False, **tokens).itm_score
    elif name == "flava":
        # Its contrastive loss is over the first token of each side (FlavaForPreTraining.forward).
        image_side = model.image_projection(model.image_model(pixels).last_hidden_state[:, 0])
        text_side = model.text_projection(model.text_model(**tokens).last_hidden_state[:, 0])
        expected = unit(image_side) @ unit(text_side).T * model.logit_scale.exp()
    else:
        output = model(pixel_values=pixels, **tokens)
        expected = output.logits_per_image
        close(unit(ours.reshape(len(ours), encoder.n_vectors, -1)).squeeze(1), unit(output.image_embeds))
        close(unit(texts), unit(output.text_embeds))
    close(encoder.logit_scale * cosines + encoder.logit_bias, expected)
    assert (cosines[0] - cosines[1]).abs().max() > 1e-5
    assert (cosines[:, 0] - cosines[:, 1]).abs().max() > 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("name", HF)
def test_transformers_gives_its_own_tokens(name: str, checkpoint, images) -> None:
    folder = checkpoint(name)
    encoder, model = load(folder), library(folder)
    pixels = batch(encoder, images)
    places = encoder.encode_image_tokens(pixels)
    vision = model.image_model if name == "flava" else model.vision_model
    hidden = vision(pixels).last_hidden_state
    close(places, hidden if hidden.ndim == 3 else torch.stack([image.flatten(1).T for image in hidden]))

    words, mask = encoder.encode_text_tokens(TEXTS)
    tokens = tokenize(folder, TEXTS, CONTEXTS[name])
    assert words.shape[:2] == mask.shape == tokens["input_ids"].shape
    assert mask.dtype == torch.bool
    own = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, max_length=CONTEXTS[name], truncation=True)
    assert mask.sum(dim=1).tolist() == [len(ids) for ids in own["input_ids"]]
    if name == "blip2_retrieval":
        embedded = model.embeddings(input_ids=tokens["input_ids"])
        text = model.qformer(query_embeds=embedded, query_length=0, attention_mask=tokens["attention_mask"])
    else:
        text = (model.text_encoder if name == "blip_retrieval" else model.text_model)(**tokens)
    close(words[mask], text.last_hidden_state[mask])


@pytest.mark.parametrize("name", [*HF, *OPEN_CLIP])
def test_the_image_tower_learns_without_the_text_side(name: str, checkpoint, images) -> None:
    encoder = load(checkpoint(name))
    encoder.model.zero_grad()
    encoder.encode_images(batch(encoder, images)).square().sum().backward()
    tower = dict(encoder.image_tower.named_parameters())
    assert all("text" not in key and "logit" not in key and "multimodal" not in key for key in tower)
    assert sum(parameter.grad is not None for parameter in tower.values()) > len(tower) / 2
    outside = {id(parameter) for parameter in encoder.model.parameters()} - {id(part) for part in tower.values()}
    assert all(parameter.grad is None for parameter in encoder.model.parameters() if id(parameter) in outside)
    assert outside


@torch.inference_mode()
@pytest.mark.parametrize("name", [*HF, *OPEN_CLIP])
def test_every_family_comes_from_the_hub_by_commit(name: str, hub, checkpoint, images) -> None:
    folder = checkpoint(name)
    if name == "biomedclip":
        hub.add(dual_factories.BIOMEDBERT, folder / "BiomedNLP-BiomedBERT-base-uncased-abstract")
    commit = hub.add("org/dual", folder)
    loaded = load_model(f"org/dual@{commit}")
    here = load(folder)
    assert (loaded.info.revision, loaded.info.kind) == (commit, "dual_encoder")
    assert isinstance(loaded.predictor, DualEncoder)
    pixels = batch(here, images)
    close(loaded.predictor.encode_images(pixels), here.encode_images(pixels))
    close(loaded.predictor.encode_texts(TEXTS), here.encode_texts(TEXTS))
    assert loaded.predictor.encode_texts([]).shape == (0, here.dim // here.n_vectors)


@torch.inference_mode()
@pytest.mark.parametrize("name", [*HF, *OPEN_CLIP])
def test_a_text_alone_is_the_same_as_among_others(name: str, checkpoint) -> None:
    encoder = load(checkpoint(name))
    together = encoder.encode_texts(TEXTS)
    close(together, torch.cat([encoder.encode_texts([text]) for text in TEXTS]))
    close(together[2:], encoder.encode_texts([LONG + " and more"]))


def test_blip_2_says_how_many_vectors_an_image_has(checkpoint) -> None:
    encoder = load(checkpoint("blip2_retrieval"))
    assert encoder.n_vectors == dual_factories.QUERIES
    assert encoder.dim == dual_factories.QUERIES * factories.EMBEDDING
    assert load(checkpoint("clip")).n_vectors == 1


def test_every_dual_encoder_of_the_installed_transformers_is_known() -> None:
    """A new family shows up here; then it gets a tiny checkpoint above, or a reason."""
    home = Path(transformers.__file__).parent / "models"
    both = {
        path.parent.name
        for path in home.glob("*/modeling_*.py")
        if all(f"def get_{side}_features(" in path.read_text(encoding="utf-8") for side in ("image", "text"))
    }
    tested = {re.sub(r"_retrieval$|_gemma$|_sentencepiece$", "", name).replace("-", "_") for name in HF}
    # blip_2: its `Blip2Model` writes text, and its retrieval class is tested; siglip2: NaFlex, refused below.
    assert both - {"blip_2", "siglip2"} <= tested
    assert tested - {"blip2"} <= both


# What takes something else than a still image and a text


def tiny(kind: str, **configs: Any) -> Any:
    config = getattr(transformers, f"{kind}Config")(**configs)
    return getattr(transformers, f"{kind}Model")(config)


TOWER = factories.TOWER
OTHERS = {
    "naflex": ("Siglip2", {"text_config": TOWER, "vision_config": {**TOWER, "num_patches": 16}}),
    "x_clip": (
        "XCLIP",
        {
            "text_config": TOWER,
            "vision_config": {**factories.VISION, "mit_hidden_size": 32, "mit_num_attention_heads": 2},
            "projection_dim": 32,
            "prompt_layers": 1,
            "prompt_num_attention_heads": 2,
        },
    ),
    "generative_blip_2": (
        "Blip2",
        {
            "vision_config": factories.VISION,
            "qformer_config": {**TOWER, "encoder_hidden_size": 32},
            "text_config": {"model_type": "opt", "hidden_size": 16, "ffn_dim": 16, "num_attention_heads": 2},
        },
    ),
}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("naflex", "google/siglip2-base-patch16-224"),
        ("x_clip", "neither a dual encoder nor an image backbone"),
        ("generative_blip_2", "no logit scale"),
    ],
)
def test_other_inputs_are_refused(name: str, says: str, checkpoint, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("clip"), tmp_path / name))
    kind, configs = OTHERS[name]
    tiny(kind, **configs).save_pretrained(folder)
    with pytest.raises(UsageError, match=says):
        load_model(f"dir:{folder}")


def test_a_retrieval_checkpoint_without_its_heads(checkpoint, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(checkpoint("blip2_retrieval"), tmp_path / "blip2"))
    weights = load_file(folder / "model.safetensors")
    del weights["vision_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="lacks weights") as caught:
        load_model(f"dir:{folder}")
    assert "vision_projection.weight" in str(caught.value)


# open_clip


@torch.inference_mode()
@pytest.mark.parametrize("name", OPEN_CLIP)
def test_open_clip_gives_its_own_numbers(name: str, checkpoint, images, monkeypatch) -> None:
    folder = checkpoint(name)
    encoder = load(folder)
    model, preprocess, tokenizer = own_open_clip(folder, monkeypatch)
    pixels = torch.stack([preprocess(image) for image in images])
    assert torch.equal(batch(encoder, images), pixels)
    close(encoder.encode_images(pixels), model.encode_image(pixels, normalize=False))
    close(encoder.encode_texts(TEXTS), model.encode_text(tokenizer(TEXTS), normalize=False))
    assert encoder.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert encoder.logit_bias == (-10.0 if name == "open_clip_siglip" else 0.0)


def own_open_clip(folder: Path, monkeypatch) -> tuple[Any, Any, Any]:
    """The model, its transform and its tokenizer by open_clip alone; for BiomedCLIP as its name were a folder's."""
    configuration = transformers.AutoConfig
    asked = configuration.from_pretrained

    def from_folder(name: str, *args: Any, **options: Any) -> Any:
        return asked(folder / name.rpartition("/")[2] if name == dual_factories.BIOMEDBERT else name, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(open_clip.hf_model.AutoConfig, "from_pretrained", from_folder)
        model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")


@torch.inference_mode()
@pytest.mark.parametrize("name", OPEN_CLIP)
def test_open_clip_gives_its_own_tokens(name: str, checkpoint, images, monkeypatch) -> None:
    folder = checkpoint(name)
    encoder = load(folder)
    model, _, tokenizer = own_open_clip(folder, monkeypatch)
    pixels, seen = batch(encoder, images), {}
    tower = model.visual
    last = tower.trunk.blocks[-1] if hasattr(tower, "trunk") else getattr(tower, "layer4", None)
    last = tower.transformer.resblocks[-1] if last is None else last
    last.register_forward_hook(lambda _module, _inputs, output: seen.update(image=output))
    tower(pixels)
    expected = seen["image"]
    # A feature map, or tokens of which the first is for the class.
    expected = expected.flatten(2).transpose(1, 2) if expected.ndim == 4 else expected[:, 1:]
    close(encoder.encode_image_tokens(pixels), expected)

    words, mask = encoder.encode_text_tokens(TEXTS)
    tokens = tokenizer(TEXTS)
    assert words.shape[:2] == mask.shape == tokens.shape
    if name == "biomedclip":
        close(words, model.text.transformer(tokens, attention_mask=(tokens != 0).long()).last_hidden_state)
    else:
        text = model.text if hasattr(model, "text") else model
        text.transformer.resblocks[-1].register_forward_hook(lambda _m, _i, output: seen.update(text=output))
        model.encode_text(tokens)
        close(words, seen["text"][:, : tokens.shape[1]])


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_the_mask_ends_with_the_text(name: str, checkpoint) -> None:
    # open_clip's own tokenizer pads with 0, which is `!` too; others pad with the end of the text.
    _, mask = load(checkpoint(name)).encode_text_tokens(["a!", "a! b", LONG])
    assert mask[0].sum() < mask[1].sum() <= mask[2].sum() <= mask.shape[1]
    assert bool((mask.int().diff(dim=1) <= 0).all())
    assert mask[0].sum() == {"open_clip": 4, "coca": 4, "modified_resnet": 4}.get(name, mask[0].sum())


@torch.inference_mode()
def test_transformers_and_open_clip_agree_on_clip(images, tmp_path: Path) -> None:
    """The same weights in both published layouts, with the real vocabulary: the same embeddings."""
    hf, oc = dual_factories.clip_twice(tmp_path)
    first, second = load(hf), load(oc)
    pixels = batch(first, images)
    texts = [*TEXTS, "Café — 3 mm!!", "  spaces\n and LETTERS "]
    torch.testing.assert_close(first.encode_images(pixels), second.encode_images(pixels), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first.encode_texts(texts), second.encode_texts(texts), rtol=1e-5, atol=1e-5)
    assert first.logit_scale == pytest.approx(second.logit_scale)
    # transformers' hidden states hold the class token too.
    torch.testing.assert_close(
        first.encode_image_tokens(pixels)[:, 1:], second.encode_image_tokens(pixels), rtol=1e-5, atol=1e-5
    )


# BiomedCLIP's text side lives in another repository


@torch.inference_mode()
@pytest.mark.parametrize("own_tokenizer", [True, False])
def test_biomedclip_takes_its_text_tower_from_a_pinned_commit(
    own_tokenizer: bool, hub, checkpoint, tmp_path: Path
) -> None:
    folder = dual_factories.biomedclip(tmp_path / "biomedclip", beside=False)
    if not own_tokenizer:
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            (folder / name).unlink()
    bert = dual_factories.biomedbert(tmp_path / "bert")
    (bert / "model.safetensors").write_bytes(b"weights that nobody needs")
    commit = hub.add(dual_factories.BIOMEDBERT, bert)
    loaded = load_model(f"dir:{folder}")
    assert loaded.info.companions == (f"{dual_factories.BIOMEDBERT}@{commit}",)
    asked = {request.rpartition("/")[2] for request in hub.requests if "/resolve/" in request}
    assert asked == {"config.json"} if own_tokenizer else {"config.json", "vocab.txt"} <= asked
    assert "model.safetensors" not in asked
    reference = load(checkpoint("biomedclip"))
    close(loaded.predictor.encode_texts(TEXTS), reference.encode_texts(TEXTS))
    hub.stop()
    again = load_model(f"dir:{folder}")
    assert again.info.companions == loaded.info.companions
    close(again.predictor.encode_texts(TEXTS), reference.encode_texts(TEXTS))


def test_biomedclip_whose_text_repository_is_gone(hub, tmp_path: Path) -> None:
    folder = dual_factories.biomedclip(tmp_path / "biomedclip", beside=False)
    with pytest.raises(UsageError, match="BiomedBERT"):
        load_model(f"dir:{folder}")


def test_biomedclip_whose_text_configuration_is_of_another_size(hub, tmp_path: Path) -> None:
    folder = dual_factories.biomedclip(tmp_path / "biomedclip")
    path = folder / "BiomedNLP-BiomedBERT-base-uncased-abstract" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 7}))
    with pytest.raises(InputError, match="size mismatch"):
        load_model(f"dir:{folder}")
