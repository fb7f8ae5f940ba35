"""Generators in transformers' layout, against a plain loop over the same network with prompts written out by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, ViTConfig, ViTModel

import generator_factories as factories
from families import checkpoint
from vlmed.errors import InputError, VlmedError
from vlmed.models import generators
from vlmed.models.companion import ModelFiles
from vlmed.models.generators import HfGenerator, parts
from vlmed.models.load import load_model
from vlmed.models.protocols import Chooser, Generator, Request

# transformers' PaliGemma processor meets NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FAMILIES = list(factories.MAKERS)
SEE_ONLY = ["paligemma", "blip2", "blip2_t5", "instructblip"]
QUESTION = "What is left lung?"

# What the processor gets to read, and how the choices begin after it.
PROMPTS = {
    "llava": "USER: <image>\n{} ASSISTANT:",
    "qwen": "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{}<|im_end|>\n<|im_start|>assistant\n",
    "internvl": "<|im_start|>user\n<IMG_CONTEXT>\n{}<|im_end|>\n<|im_start|>assistant\n",
    "gemma": "<bos><start_of_turn>user\n<start_of_image>{}<end_of_turn>\n<start_of_turn>model\n",
    "paligemma": "<image>answer en {}",
    "blip2": "Question: {} Answer:",
    "blip2_t5": "Question: {} Answer:",
    "instructblip": "{}",
}
CHOICES = ["yes", "no", "left lung", "left", "no no", "lung yes no"]
SPACED = {"llava": "▁", "blip2": "Ġ", "blip2_t5": "Ġ", "instructblip": "Ġ"}
SPACE = {"qwen": "Ġ", "internvl": "Ġ", "gemma": "▁", "paligemma": "▁", **SPACED}


@pytest.fixture(scope="module")
def folders() -> Any:
    """The folder of a tiny checkpoint by name; read-only."""
    return checkpoint


@pytest.fixture(scope="module")
def loaded(folders: Any) -> Any:
    @cache
    def load(name: str) -> HfGenerator:
        generator = load_model(f"dir:{folders(name)}").predictor
        assert isinstance(generator, HfGenerator)
        return generator

    return load


@pytest.fixture(scope="module")
def plain(folders: Any) -> Any:
    """Network and processor as transformers loads them."""

    @cache
    def load(name: str) -> tuple[Any, Any]:
        folder = folders(name)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        return model.eval(), AutoProcessor.from_pretrained(folder)

    return load


@pytest.fixture
def change(folders: Any, tmp_path: Path) -> Any:
    """A copy of a checkpoint, without some of its files."""

    def copied(name: str, *without: str) -> Path:
        folder = Path(shutil.copytree(folders(name), tmp_path / "copy"))
        for file in without:
            (folder / file).unlink()
        return folder

    return copied


def noise(width: int, height: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def asked(count: int = 7) -> list[Request]:
    """Images of many sizes, prompts and answers of several lengths."""
    words = ["What is", "What is left", "Is no lung left? yes no", QUESTION]
    return [
        Request(noise(30 + 17 * number, 90 - 8 * number, number), words[number % 4], 4 + number % 2)
        for number in range(count)
    ]


def by_hand(plain: Any, name: str, request: Request) -> Any:
    _, processor = plain(name)
    text = PROMPTS[name].format(request.prompt)
    special = {"add_special_tokens": False} if name == "gemma" else {}
    inputs = processor(text=[text], images=[[request.image]], return_tensors="pt", **special)
    inputs.pop("labels", None)
    return inputs


@torch.inference_mode()
def logits(plain: Any, name: str, inputs: Any, tokens: Sequence[int]) -> torch.Tensor:
    """One forward pass over prompt and tokens: float32 (len(tokens) + 1, V), what is expected at each and after."""
    model, _ = plain(name)
    if name == "paligemma":
        return prefix_logits(model, inputs, tokens)
    if name == "blip2_t5":
        start = model.config.text_config.decoder_start_token_id
        return model(**inputs, decoder_input_ids=torch.tensor([[start, *tokens]])).logits[0]
    more = torch.tensor([list(tokens)], dtype=torch.long)
    longer = dict(inputs)
    for key in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
        if key in inputs:
            filler = {"input_ids": more, "attention_mask": torch.ones_like(more)}.get(key, torch.zeros_like(more))
            longer[key] = torch.cat([inputs[key], filler], dim=1)
    return model(**longer).logits[0, -len(tokens) - 1 :]


def prefix_logits(model: Any, inputs: Any, tokens: Sequence[int]) -> torch.Tensor:
    """The same for a prefix that attends both ways and must not see the answer: token by token through the cache."""
    output = model(**inputs, use_cache=True)
    rows = [output.logits[0, -1]]
    for token in tokens:
        output = model(input_ids=torch.tensor([[token]]), past_key_values=output.past_key_values, use_cache=True)
        rows.append(output.logits[0, -1])
    return torch.stack(rows)


def plain_answer(plain: Any, name: str, request: Request) -> str:
    model, processor = plain(name)
    ends = model.generation_config.eos_token_id
    tokens: list[int] = []
    inputs = by_hand(plain, name, request)
    while len(tokens) < request.max_tokens:
        tokens.append(int(logits(plain, name, inputs, tokens)[-1].argmax()))
        if tokens[-1] in (ends if isinstance(ends, list) else [ends]):
            break
    return processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()


# Loading


@pytest.mark.parametrize(
    ("name", "family", "architecture"),
    [
        ("llava", "llava", "LlavaForConditionalGeneration"),
        ("qwen", "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
        ("internvl", "internvl", "InternVLForConditionalGeneration"),
        ("gemma", "gemma3", "Gemma3ForConditionalGeneration"),
        ("paligemma", "paligemma", "PaliGemmaForConditionalGeneration"),
        ("blip2", "blip-2", "Blip2ForConditionalGeneration"),
        ("instructblip", "instructblip", "InstructBlipForConditionalGeneration"),
    ],
)
def test_every_family_loads(name: str, family: str, architecture: str, folders, plain) -> None:
    model = load_model(f"dir:{folders(name)}")
    info = model.info
    assert (info.family, info.architecture, info.kind) == (family, architecture, "generator")
    assert info.parameters == sum(parameter.numel() for parameter in plain(name)[0].parameters())
    assert isinstance(model.predictor, Generator)
    assert isinstance(model.predictor, Chooser)
    assert json.loads(json.dumps(info.to_json())) == info.to_json()


def test_a_generator_comes_from_the_hub_by_revision(folders, hub, tmp_path: Path) -> None:
    first = hub.add("org/tiny-llava", folders("llava"), tag="v1")
    hub.add("org/tiny-llava", factories.tiny_llava(tmp_path / "other", seed=1))
    model = load_model("org/tiny-llava@v1")
    assert model.info.revision == first
    assert model.predictor.answer(asked(2)) == load_model(f"dir:{folders('llava')}").predictor.answer(asked(2))


def test_a_second_tokenizer_comes_from_the_hub_too(folders, hub, loaded) -> None:
    hub.add("org/tiny", folders("instructblip"), more={"other/config.json": b"{}", "qformer_tokenizer/x/y.json": b"{}"})
    assert load_model("org/tiny").predictor.answer(asked(2)) == loaded("instructblip").answer(asked(2))
    below = {name for name in hub.downloaded() if "/" in name}
    assert "qformer_tokenizer/tokenizer.json" in below
    assert all(name.startswith("qformer_tokenizer/") and name.count("/") == 1 for name in below)
    hub.stop()
    assert load_model("org/tiny").predictor.answer(asked(2)) == loaded("instructblip").answer(asked(2))


def test_a_half_precision_checkpoint_computes_in_float32_unless_it_runs_on_cuda(folders, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(folders("llava"), folder)
    AutoModelForImageTextToText.from_pretrained(folder).bfloat16().save_pretrained(folder)
    generator = load_model(f"dir:{folder}").predictor
    assert {parameter.dtype for parameter in generator.model.parameters()} == {torch.float32}
    assert all(generator.answer(asked(1)))
    for device, dtype in (("cuda:1", torch.bfloat16), ("mps", torch.float32)):
        weights = generators.load_weights(ModelFiles(folder, device=device))
        assert {parameter.dtype for parameter in weights.parameters()} == {dtype}


def test_missing_weights_are_named(change) -> None:
    folder = change("llava")
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "projector" in name and name.endswith("weight"))
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks weights[\s\S]*multi_modal_projector"):
        load_model(f"dir:{folder}")


@pytest.mark.parametrize("name", ["qwen", "internvl", "gemma"])
def test_a_model_without_chat_template_and_known_form_is_refused(name: str, change) -> None:
    with pytest.raises(InputError, match=r"no chat template[\s\S]*paligemma"):
        load_model(f"dir:{change(name, 'chat_template.jinja')}")


def test_a_broken_chat_template_is_told(change) -> None:
    folder = change("qwen")
    (folder / "chat_template.jinja").write_text("{% for message in messages %}", encoding="utf-8")
    with pytest.raises(InputError, match="doesn't work with its preprocessing or tokenizer"):
        load_model(f"dir:{folder}")


def test_a_model_without_processor_is_refused(change) -> None:
    with pytest.raises(InputError, match="processor"):
        load_model(f"dir:{change('llava', 'processor_config.json')}")


@pytest.mark.parametrize("name", ["llava", "blip2"])
def test_a_model_without_tokenizer_is_refused(name: str, change) -> None:
    with pytest.raises(InputError, match=r"tokenizer|vocab"):
        load_model(f"dir:{change(name, 'tokenizer.json', 'tokenizer_config.json')}")


def test_a_second_tokenizer_must_be_there(folders, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders("instructblip"), tmp_path / "copy"))
    shutil.rmtree(folder / "qformer_tokenizer")
    with pytest.raises(InputError, match=r"second tokenizer[\s\S]*qformer_tokenizer"):
        load_model(f"dir:{folder}")


# Answers


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_those_of_a_plain_greedy_loop(name: str, loaded, plain) -> None:
    requests = asked()
    assert loaded(name).answer(requests) == [plain_answer(plain, name, request) for request in requests]


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_do_not_depend_on_their_batch(name: str, loaded) -> None:
    requests = asked(11)
    together = loaded(name).answer(requests)
    assert together == [loaded(name).answer([request])[0] for request in requests]
    assert together[::-1] == replace(loaded(name), batch_size=3).answer(requests[::-1])
    assert len(set(together)) > 4


def test_no_request_has_no_answer(loaded) -> None:
    assert loaded("llava").answer([]) == []
    assert loaded("llava").choose([], CHOICES).shape == (0, len(CHOICES))


def test_the_image_matters(loaded) -> None:
    requests = [Request(noise(40, 40, seed), QUESTION, 6) for seed in range(6)]
    for name in FAMILIES:
        assert len(set(loaded(name).answer(requests))) > 1, name


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in SEE_ONLY])
def test_requests_without_image_stand_among_the_others(name: str, loaded) -> None:
    blind = [Request(None, QUESTION, 5), Request(None, "What is", 4)]
    requests = [*asked(3), blind[0], *asked(2), blind[1]]
    answers = loaded(name).answer(requests)
    assert [answers[3], answers[6]] == [loaded(name).answer([request])[0] for request in blind]
    assert answers[:3] == loaded(name).answer(asked(3))
    scores = loaded(name).choose(requests, CHOICES)
    np.testing.assert_allclose(scores[[3, 6]], loaded(name).choose(blind, CHOICES), atol=1e-4)


@pytest.mark.parametrize("name", SEE_ONLY)
def test_a_model_that_needs_an_image_says_so(name: str, loaded) -> None:
    with pytest.raises(InputError, match="without an image"):
        loaded(name).answer([*asked(2), Request(None, QUESTION, 5)])


def test_an_answer_ends_where_the_model_ends_it(loaded, monkeypatch) -> None:
    generator = loaded("llava")
    requests = [replace(request, max_tokens=12) for request in asked(8)]
    written = []
    generate = generator.model.generate
    with monkeypatch.context() as spied:
        spied.setattr(generator.model, "generate", lambda **inputs: written.append(generate(**inputs)) or written[-1])
        longest = generator.answer(requests)
    # From now on, what half of the answers have in fourth place ends an answer.
    settings = generator.model.generation_config
    monkeypatch.setattr(settings, "eos_token_id", [settings.eos_token_id, *written[0][::2, -9].tolist()])
    shorter = generator.answer(requests)
    assert shorter == [generator.answer([request])[0] for request in requests]
    assert sum(len(text) < len(full) for text, full in zip(shorter, longest, strict=True)) >= 4


def test_answers_are_no_longer_than_allowed(loaded) -> None:
    short = loaded("llava").answer([replace(request, max_tokens=1) for request in asked()])
    long = loaded("llava").answer([replace(request, max_tokens=7) for request in asked()])
    assert all(len(text) <= len("What") for text in short)
    assert max(map(len, long)) > 4


def test_batches_begin_with_the_longest_and_hold_no_more_than_allowed(loaded, monkeypatch) -> None:
    generator = replace(loaded("qwen"), batch_size=3)
    shapes = []
    generate = generator.model.generate
    monkeypatch.setattr(
        generator.model, "generate", lambda **inputs: shapes.append(inputs["input_ids"].shape) or generate(**inputs)
    )
    generator.answer([Request(noise(28 + 56 * (number % 4), 28, number), "What is", 2) for number in range(8)])
    assert [rows for rows, _ in shapes] == [3, 3, 2]
    assert [width for _, width in shapes] == sorted((width for _, width in shapes), reverse=True)


def test_every_kind_of_eight_bit_image_can_be_shown(loaded) -> None:
    grey = noise(40, 40, 0).convert("L")
    kinds = [grey, grey.convert("RGB"), grey.convert("RGBA"), grey.convert("P")]
    for name in FAMILIES:
        assert len(set(loaded(name).answer([Request(image, QUESTION, 5) for image in kinds]))) == 1, name


def test_deep_images_are_refused(loaded) -> None:
    requests = [*asked(2), Request(Image.new("I;16", (30, 30)), QUESTION, 4)]
    for ask in (loaded("llava").answer, lambda requests: loaded("llava").choose(requests, CHOICES)):
        with pytest.raises(InputError, match="more than 8 bits"):
            ask(requests)


@pytest.mark.parametrize(("name", "mark"), [("llava", "<image>"), ("qwen", "<|image_pad|>"), ("blip2", "<image>")])
def test_a_prompt_with_the_image_token_is_refused(name: str, mark: str, loaded) -> None:
    with pytest.raises(InputError, match=r"image token[\s\S]*what is"):
        loaded(name).answer([Request(noise(30, 30, 0), f"what is {mark}", 4)])


def test_llava_without_template_is_asked_in_vicunas_form(folders, loaded, tmp_path: Path) -> None:
    folder = factories.tiny_llava(tmp_path / "llava", template=False)
    assert not (folder / "chat_template.jinja").exists()
    bare = load_model(f"dir:{folder}").predictor
    assert bare.answer(asked()) == loaded("llava").answer(asked())
    np.testing.assert_array_equal(bare.choose(asked(), CHOICES), loaded("llava").choose(asked(), CHOICES))


# Choices


def pieces(name: str, choice: str) -> list[str]:
    first, *others = choice.split()
    return [SPACED.get(name, "") + first, *(SPACE[name] + word for word in others)]


@pytest.mark.parametrize("name", FAMILIES)
def test_choices_score_as_one_by_one(name: str, loaded, plain) -> None:
    requests = asked(4)
    tokenizer = plain(name)[1].tokenizer
    expected = np.zeros((len(requests), len(CHOICES)))
    for row, request in enumerate(requests):
        inputs = by_hand(plain, name, request)
        for column, choice in enumerate(CHOICES):
            tokens = tokenizer.convert_tokens_to_ids(pieces(name, choice))
            assert tokenizer.unk_token_id not in tokens
            scores = logits(plain, name, inputs, tokens[:-1]).double().log_softmax(-1)
            expected[row, column] = sum(float(scores[step, token]) for step, token in enumerate(tokens))
    found = loaded(name).choose(requests, CHOICES)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_choices_do_not_depend_on_each_other_or_on_the_batch(loaded) -> None:
    requests = asked(9)
    together = loaded("qwen").choose(requests, CHOICES)
    alone = np.concatenate([loaded("qwen").choose(requests, [choice]) for choice in CHOICES], axis=1)
    np.testing.assert_allclose(together, alone, atol=1e-4)
    np.testing.assert_allclose(together[4:5], loaded("qwen").choose(requests[4:5], CHOICES), atol=1e-4)
    assert loaded("qwen").choose(requests, []).shape == (9, 0)


def test_choices_that_begin_alike_share_one_run_each_batch(loaded, monkeypatch) -> None:
    generator = loaded("llava")
    runs = []
    generate = generator.model.generate
    monkeypatch.setattr(generator.model, "generate", lambda **inputs: runs.append(1) or generate(**inputs))
    requests = [replace(request, max_tokens=number) for number, request in enumerate(asked(8), 1)]
    generator.choose(requests, ["yes", "no", "left lung yes", "left lung no", "left"])
    assert len(runs) == 1
    generator.choose(requests, ["no no", "yes no"])
    assert len(runs) == 3


def test_an_empty_choice_is_refused(loaded) -> None:
    with pytest.raises(InputError, match=r"choices\[1\]"):
        loaded("llava").choose(asked(1), ["yes", ""])


# Memory


def short_of_memory(generator: HfGenerator, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    generate = generator.model.generate

    def limited(**inputs: Any) -> Any:
        if len(inputs["input_ids"]) > rows:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return generate(**inputs)

    monkeypatch.setattr(generator.model, "generate", limited)


def test_a_batch_that_does_not_fit_is_halved(loaded, monkeypatch) -> None:
    requests = asked(11)
    answers, scores = loaded("llava").answer(requests), loaded("llava").choose(requests, CHOICES)
    generator = replace(loaded("llava"), batch_size=8)
    short_of_memory(generator, monkeypatch, rows=2)
    assert generator.answer(requests) == answers
    assert generator.batch_size <= 2
    np.testing.assert_allclose(generator.choose(requests, CHOICES), scores, atol=1e-4)


def test_one_request_that_does_not_fit_is_told(loaded, monkeypatch) -> None:
    generator = replace(loaded("llava"))
    short_of_memory(generator, monkeypatch, rows=0)
    with pytest.raises(VlmedError, match=r"one request alone[\s\S]*20\.00 GiB"):
        generator.answer(asked(3))


# The blank-image control


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_on_blank_images_only_size_and_question_count(name: str, folders, loaded) -> None:
    blind = load_model(f"control:blank/dir:{folders(name)}")
    requests = [*asked(5), Request(None, QUESTION, 5)]
    grey = [
        replace(request, image=request.image and Image.new("RGB", request.image.size, (128, 128, 128)))
        for request in requests
    ]
    assert (blind.info.kind, blind.info.family) == ("generator", "control")
    assert blind.predictor.answer(requests) == loaded(name).answer(grey)
    assert blind.predictor.answer(requests) != loaded(name).answer(requests)
    np.testing.assert_allclose(blind.predictor.choose(requests, CHOICES), loaded(name).choose(grey, CHOICES), atol=1e-4)


# Parts


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_belongs_to_one_part(name: str, loaded) -> None:
    found = loaded(name).parts()
    assert set(found) == {"vision", "projector", "language"}
    owners = {module: part for part, modules in found.items() for module in modules}
    everything = [parameter for parameter, _ in loaded(name).model.named_parameters()]
    within = [[module for module in owners if f"{parameter}.".startswith(f"{module}.")] for parameter in everything]
    assert all(within)
    assert {owners[max(modules, key=len)] for modules in within} == set(found)


@pytest.mark.parametrize(
    ("name", "projector"),
    [
        ("llava", ("model.multi_modal_projector",)),
        ("qwen", ("model.visual.merger",)),
        ("blip2", ("qformer", "language_projection", "query_tokens")),
    ],
)
def test_the_projector_is_what_lies_between(name: str, projector: tuple[str, ...], loaded) -> None:
    assert set(loaded(name).parts()["projector"]) == set(projector)


def test_parts_that_are_not_found_are_all_told() -> None:
    config = ViTConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=32)
    with pytest.raises(InputError, match="embeddings") as caught:
        parts(ViTModel(config))
    assert [problem.what.split(" part ")[0].split()[-1] for problem in caught.value.problems] == [
        "vision",
        "projector",
        "language",
    ]
