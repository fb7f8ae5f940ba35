import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn

from families import checkpoint
from hub_server import HubServer
from llava_factory import KINDS, TOWER, VISION, language_model, save_weights, tiny_llava, tiny_tower, vision_model
from vlmed.errors import InputError, VlmedError
from vlmed.models.generators import HfGenerator
from vlmed.models.load import load_model
from vlmed.models.protocols import Chooser, Generator, Request
from vlmed.models.published import read_weights

PARITY = 1e-5
IMAGE_AT = -200
PROMPTS = {
    "llava": "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: {} ASSISTANT:",
    "llava_mistral": "[INST] {} [/INST]",
}
INSIDE = "model.vision_tower.vision_tower.vision_model."


@pytest.fixture(scope="session")
def llavas() -> dict[str, Path]:
    return {"llava": checkpoint("llava_original"), "llava_mistral": checkpoint("llava_med_original")}


class Plain:
    """LLaVA as its authors compute it, from the same files, without any of our code or transformers' LLaVA."""

    def __init__(self, folder: Path, kind: str, select_layer: int = -2, skip: int = 1) -> None:
        weights = read_weights(folder / "model.safetensors")
        self.kind, self.select_layer, self.skip = kind, select_layer, skip
        self.tokenizer = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self.language = language_model(kind).eval()
        self.language.load_state_dict({name: weights[name] for name in self.language.state_dict()})
        self.vision = vision_model().eval()
        self.vision.load_state_dict({name: weights[INSIDE + name] for name in self.vision.state_dict()})
        self.projector = [
            (weights[f"model.mm_projector.{i}.weight"], weights[f"model.mm_projector.{i}.bias"]) for i in (0, 2)
        ]

    def ids(self, question: str, image: bool) -> list[int]:
        prompt = PROMPTS[self.kind].format(f"<image>\n{question}" if image else question)
        pieces = [self.tokenizer.encode(piece) for piece in prompt.split("<image>")]
        return [1, *pieces[0], *([IMAGE_AT, *pieces[1]] if image else [])]

    def pixels(self, image: Image.Image) -> Tensor:
        """A square in the mean colour around the image, resized with Pillow, normalised; all in plain steps."""
        mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
        rgb = np.asarray(image.convert("RGB"))
        high, wide, _ = rgb.shape
        side = max(high, wide)
        square = np.empty((side, side, 3), np.uint8)
        square[:] = [int(255 * value) for value in mean]
        top, left = (side - high) // 2, (side - wide) // 2
        square[top : top + high, left : left + wide] = rgb
        size = VISION["image_size"]
        small = Image.fromarray(square).resize((size, size), Image.Resampling.BICUBIC)
        return torch.tensor((np.asarray(small) / 255 - mean) / std, dtype=torch.float32).permute(2, 0, 1)

    def patches(self, image: Image.Image) -> Tensor:
        hidden = self.vision.pre_layrnorm(self.vision.embeddings(self.pixels(image)[None]))
        for layer in self.vision.encoder.layers[: self.select_layer + 1]:
            hidden = layer(hidden, attention_mask=None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        (first, first_bias), (second, second_bias) = self.projector
        hidden = nn.functional.gelu(hidden[0, self.skip :] @ first.T + first_bias)
        return hidden @ second.T + second_bias

    def embeddings(self, question: str, image: Image.Image | None) -> Tensor:
        table = self.language.get_input_embeddings().weight
        rows = [
            self.patches(image) if token == IMAGE_AT else table[token][None]
            for token in self.ids(question, image is not None)
        ]
        return torch.cat(rows)[None]

    def logits(self, question: str, image: Image.Image | None) -> Tensor:
        with torch.inference_mode():
            return self.language(inputs_embeds=self.embeddings(question, image)).logits[0]

    def answer(self, question: str, image: Image.Image | None, max_tokens: int) -> list[int]:
        written: list[int] = []
        table = self.language.get_input_embeddings().weight
        with torch.inference_mode():
            sequence = self.embeddings(question, image)
            while len(written) < max_tokens:
                token = int(self.language(inputs_embeds=sequence).logits[0, -1, :].argmax())
                if token == 2:
                    break
                written.append(token)
                sequence = torch.cat([sequence, table[token][None, None]], 1)
        return written


def generator(folder: Path) -> HfGenerator:
    model = load_model(f"dir:{folder}").predictor
    assert isinstance(model, HfGenerator)
    return model


def logits(model: HfGenerator, request: Request) -> Tensor:
    with torch.inference_mode():
        return model.model(**model._inputs([request])).logits[0]


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [0, 1, None])
def test_logits_equal_the_authors_computation(
    llavas: dict[str, Path], kind: str, number: int | None, images: list[Image.Image]
) -> None:
    image = None if number is None else images[number]
    ours = logits(generator(llavas[kind]), Request(image, "Is there a fracture?", 5))
    theirs = Plain(llavas[kind], kind).logits("Is there a fracture?", image)
    assert ours.shape == theirs.shape
    assert relative_error(ours, theirs) < PARITY


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_matters_to_the_logits(llavas: dict[str, Path], kind: str, images: list[Image.Image]) -> None:
    model = generator(llavas[kind])
    seen, other, unseen = (
        logits(model, Request(image, "Is there a fracture?", 5))[-1] for image in (images[0], images[1], None)
    )
    asked = logits(model, Request(images[0], "Left or right?", 5))[-1]
    assert min(relative_error(each, seen) for each in (other, unseen, asked)) > 1e-2


@pytest.mark.parametrize(("layer", "feature", "skip"), [(-1, "patch", 1), (-3, "patch", 1), (-2, "cls_patch", 0)])
def test_takes_the_layer_and_tokens_that_the_configuration_names(
    tmp_path: Path, layer: int, feature: str, skip: int, images: list[Image.Image]
) -> None:
    folder = tiny_llava(tmp_path / "it", mm_vision_select_layer=layer, mm_vision_select_feature=feature)
    plain = Plain(folder, "llava", layer, skip)
    if layer == -1:
        plain.select_layer = VISION["num_hidden_layers"] - 1  # the slice up to -1 + 1 would be empty
    ours = logits(generator(folder), Request(images[0], "What is it?", 5))
    assert relative_error(ours, plain.logits("What is it?", images[0])) < PARITY


@pytest.mark.parametrize("kind", KINDS)
def test_answers_equal_a_plain_greedy_loop(llavas: dict[str, Path], kind: str, images: list[Image.Image]) -> None:
    model = generator(llavas[kind])
    requests = [
        Request(images[0], "Is there a fracture?", 6),
        Request(images[1], "Left or right, and why do you think so?", 6),
        Request(None, "yes?", 6),
        Request(images[1], "{braces} 片?", 6),
    ]
    plain = Plain(llavas[kind], kind)
    # Random weights write broken bytes, which SentencePiece shows otherwise: so one tokenizer decodes both.
    tokens = [plain.answer(each.prompt, each.image, 6) for each in requests]
    expected = model.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    assert model.answer(requests) == [text.strip() for text in expected]
    assert len(set(map(tuple, tokens))) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_equal_sentencepieces(llavas: dict[str, Path], kind: str) -> None:
    model = generator(llavas[kind])
    image = model.processor._image_id
    for question in ("Is there a fracture?", " blanks  around ", "line\nbreak", "naïve 片 42"):
        row = model._inputs([Request(Image.new("RGB", (9, 9)), question, 5)])["input_ids"][0].tolist()
        assert row.count(image) == 16
        once = [token for index, token in enumerate(row) if token != image or row[index - 1] != image]
        assert [IMAGE_AT if token == image else token for token in once] == Plain(llavas[kind], kind).ids(
            question, True
        )


def test_the_image_token_shifts_nothing_and_cannot_be_answered(llavas: dict[str, Path]) -> None:
    model = generator(llavas["llava"])
    stored = read_weights(llavas["llava"] / "model.safetensors")["model.embed_tokens.weight"]
    assert model.model.get_input_embeddings().weight.shape[0] == stored.shape[0] + 1
    assert torch.equal(model.model.get_input_embeddings().weight[:-1], stored)
    assert model.model.lm_head.out_features == stored.shape[0]
    assert "<image>" not in model.processor.tokenizer.get_vocab()


@pytest.mark.parametrize(("ratio", "border"), [("pad", True), ("square", False), (None, False)])
def test_pads_to_a_square_only_where_the_configuration_says_so(tmp_path: Path, ratio: str | None, border: bool) -> None:
    model = generator(tiny_llava(tmp_path / "it", image_aspect_ratio=ratio))
    wide = Image.new("RGB", (64, 32), "white")
    pixels = model._inputs([Request(wide, "?", 5)])["pixel_values"][0]
    assert pixels.shape == (3, 32, 32)
    assert bool((pixels[:, 0] < pixels[:, 16]).all()) == border
    if border:
        torch.testing.assert_close(pixels, Plain(tmp_path / "it", "llava").pixels(wide))


@pytest.mark.parametrize("kind", KINDS)
def test_info_and_parts(llavas: dict[str, Path], kind: str) -> None:
    loaded = load_model(f"dir:{llavas[kind]}")
    info = loaded.info
    assert (info.family, info.architecture, info.kind) == ("llava", "LlavaForConditionalGeneration", "generator")
    assert info.companions == ()
    assert isinstance(loaded.predictor, Generator)
    assert isinstance(loaded.predictor, Chooser)
    assert set(loaded.predictor.parts()) == {"vision", "projector", "language"}
    assert loaded.predictor.model.generation_config.eos_token_id == 2


def test_chooses_the_likeliest_beginning(llavas: dict[str, Path], images: list[Image.Image]) -> None:
    request = Request(images[0], "Is there a fracture?", 5)
    ours = generator(llavas["llava"]).choose([request], ["yes", "no"])
    plain = Plain(llavas["llava"], "llava")
    before = plain.embeddings(request.prompt, request.image)
    table = plain.language.get_input_embeddings().weight
    for column, choice in enumerate(("yes", "no")):
        tokens = plain.tokenizer.encode(choice)
        with torch.inference_mode():
            whole = torch.cat([before, table[tokens][None]], 1)
            chances = plain.language(inputs_embeds=whole).logits[0].double().log_softmax(-1)
        expected = sum(chances[before.shape[1] - 1 + i, token] for i, token in enumerate(tokens))
        assert ours[0, column] == pytest.approx(float(expected), abs=1e-4)


# --- published layouts ---


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_holds_the_same_model(
    llavas: dict[str, Path], tmp_path: Path, kind: str, file: str, shards: int, images: list[Image.Image]
) -> None:
    folder = tiny_llava(tmp_path / "it", kind, weights=file, shards=shards)
    request = Request(images[0], "Is there a fracture?", 5)
    assert torch.equal(logits(generator(folder), request), logits(generator(llavas[kind]), request))


@pytest.mark.parametrize("kind", KINDS)
def test_a_tower_beside_the_checkpoint_is_taken(
    llavas: dict[str, Path], tmp_path: Path, kind: str, images: list[Image.Image]
) -> None:
    folder = tiny_llava(tmp_path / "it", kind, tower_inside=False)
    tiny_tower(folder / "clip-vit-large-patch14-336")
    request = Request(images[0], "Is there a fracture?", 5)
    assert torch.equal(logits(generator(folder), request), logits(generator(llavas[kind]), request))
    (companion,) = load_model(f"dir:{folder}").info.companions
    assert companion.startswith(f"{TOWER}@sha256:")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inside", [True, False])
def test_loads_from_the_hub_by_id_and_revision(
    hub: HubServer, llavas: dict[str, Path], tmp_path: Path, kind: str, inside: bool, images: list[Image.Image]
) -> None:
    folder = tiny_llava(tmp_path / "it", kind, tower_inside=inside, weights="pytorch_model.bin", shards=2)
    commit = hub.add("org/llava", folder, tag="v1.5")
    hub.add("org/llava", tiny_llava(tmp_path / "newer", kind, seed=7))
    tower = hub.add(TOWER, tiny_tower(tmp_path / "tower"))
    loaded = load_model("org/llava@v1.5")
    assert loaded.info.revision == commit
    assert loaded.info.companions == (() if inside else (f"{TOWER}@{tower}",))
    request = Request(images[0], "Is there a fracture?", 5)
    assert isinstance(loaded.predictor, HfGenerator)
    assert torch.equal(logits(loaded.predictor, request), logits(generator(llavas[kind]), request))
    assert load_model(f"org/llava@{commit}").info.revision == commit


def test_a_tower_under_the_path_of_whoever_trained_it_is_found(tmp_path: Path) -> None:
    folder = tiny_llava(tmp_path / "it", mm_vision_tower="/home/me/weights/clip-vit-large-patch14-336/")
    shutil.copy(folder / "tokenizer.model", tmp_path)
    assert isinstance(load_model(f"dir:{folder}").predictor, Generator)


# --- what does not fit ---


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_model(f"dir:{folder}")
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mm_projector_type", "linear"),
        ("mm_projector_type", "mlp3x_gelu"),
        ("mm_projector_type", "resampler"),
        ("mm_vision_select_feature", "cls"),
        ("mm_vision_select_layer", "last"),
        ("mm_patch_merge_type", "spatial_unpad"),
        ("mm_use_im_start_end", True),
        ("image_aspect_ratio", "anyres"),
        ("mm_vision_tower", "google/siglip-so400m-patch14-384"),
        ("mm_vision_tower", "../../etc"),
        ("mm_vision_tower", None),
        ("model_type", "llava_mpt"),
        ("model_type", ["llava"]),
    ],
)
def test_unsupported_settings_are_named(tmp_path: Path, key: str, value: Any) -> None:
    text = refused(tiny_llava(tmp_path / "it", **{key: value}))
    assert f"$.{key}" in text
    assert repr(value) in text


def test_all_unsupported_settings_are_listed_at_once(tmp_path: Path) -> None:
    text = refused(tiny_llava(tmp_path / "it", mm_projector_type="linear", image_aspect_ratio="anyres"))
    assert "'linear'" in text
    assert "'anyres'" in text
    assert "transformers' own layout" in text


def changed(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    weights = read_weights(folder / "model.safetensors")
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    change(weights)
    save_weights(folder, weights)
    return folder


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda held: held.pop("model.mm_projector.2.bias"), ["model.mm_projector.2.bias"]),
        (
            lambda held: [held.pop(name) for name in list(held) if "mm_projector" in name],
            [f"model.mm_projector.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")],
        ),
        (lambda held: held.update({"model.image_newline": torch.zeros(48)}), ["model.image_newline"]),
        (lambda held: held.pop("lm_head.weight"), ["lm_head.weight"]),
        (lambda held: held.pop(f"{INSIDE}pre_layrnorm.bias"), [f"{INSIDE}pre_layrnorm.bias"]),
        (
            lambda held: held.pop(f"{INSIDE}embeddings.patch_embedding.weight"),
            [f"{INSIDE}embeddings.patch_embedding.weight"],
        ),
        (lambda held: held.update({"model.mm_projector.0.weight": torch.zeros(48, 64)}), ["(48, 128)", "(48, 64)"]),
    ],
)
def test_missing_and_left_over_weights_are_listed(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], names: list[str]
) -> None:
    text = refused(changed(tiny_llava(tmp_path / "it"), change))
    assert all(name in text for name in names)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = tiny_llava(tmp_path / "it", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors" in refused(folder)


@pytest.mark.parametrize("weight_map", [[], None, {"lm_head.weight": "../elsewhere.safetensors"}])
def test_a_damaged_index_is_refused(tmp_path: Path, weight_map: object) -> None:
    folder = tiny_llava(tmp_path / "it", shards=2)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert "weight_map" in refused(folder) or "elsewhere" in refused(folder)


def test_a_missing_tower_without_a_network_is_told(hub: HubServer, tmp_path: Path) -> None:
    folder = tiny_llava(tmp_path / "it", tower_inside=False)
    hub.stop()
    with pytest.raises(VlmedError, match="clip-vit-large-patch14-336") as caught:
        load_model(f"dir:{folder}")
    assert caught.value.exit_code == 3


def test_a_tower_of_another_size_is_told(tmp_path: Path) -> None:
    folder = tiny_llava(tmp_path / "it", tower_inside=False)
    tiny_tower(folder / "clip-vit-large-patch14-336")
    narrow = {"vision_model.embeddings.patch_embedding.weight": torch.zeros(64, 3, 8, 8)}
    state = torch.load(folder / "clip-vit-large-patch14-336" / "pytorch_model.bin", weights_only=True)
    torch.save(state | narrow, folder / "clip-vit-large-patch14-336" / "pytorch_model.bin")
    assert "don't fit" in refused(folder)


def test_a_missing_tokenizer_is_told(tmp_path: Path) -> None:
    folder = tiny_llava(tmp_path / "it")
    (folder / "tokenizer.model").unlink()
    assert "tokenizer" in refused(folder)


def test_a_tokenizer_of_a_larger_model_is_told(tmp_path: Path) -> None:
    folder = changed(
        tiny_llava(tmp_path / "it", vocab_size=300),
        lambda held: held.update({n: held[n][:300] for n in ("lm_head.weight", "model.embed_tokens.weight")}),
    )
    assert "more tokens than the model" in refused(folder)


def test_a_question_with_the_image_token_is_refused(llavas: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="image token"):
        generator(llavas["llava"]).answer([Request(None, "Is <image> here?", 5)])
