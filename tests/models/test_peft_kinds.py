"""Every kind of PEFT adapter: merged here it gives what PEFT gives unmerged, or it is refused by name."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

import factories
import families
from vlmed.errors import InputError, UsageError
from vlmed.models.adapter_base import adapter_chain
from vlmed.models.adapters import apply_adapter
from vlmed.models.inspect import inspect
from vlmed.models.load import load_model
from vlmed.models.reference import parse_reference
from vlmed.models.resolve import resolve

ATTENTION = {"target_modules": ["q_proj", "v_proj"]}
RANK_4 = {"r": 4, **ATTENTION}
# Options that fit a width of 32; a kind may stand here in several variants.
KINDS: dict[str, dict[str, Any]] = {
    "LORA": RANK_4,
    "LORA dora": {**RANK_4, "use_dora": True},
    "LORA rslora": {**RANK_4, "use_rslora": True},
    "LORA bias": {**RANK_4, "bias": "lora_only"},
    "LORA patterns": {**RANK_4, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 3}},
    "LORA saved modules": {**RANK_4, "modules_to_save": ["visual_projection", "final_layer_norm"]},
    "LORA pissa": {**RANK_4, "init_lora_weights": "pissa"},
    "LORA embedding": {"r": 4, "target_modules": ["token_embedding", "patch_embedding"]},
    "ADALORA": {**ATTENTION, "total_step": 10},
    "ADAMSS": {**ATTENTION, "r": 8, "num_subspaces": 2},
    "BEFT": ATTENTION,
    "BOFT": {**ATTENTION, "boft_block_size": 4},
    "C3A": {**ATTENTION, "block_size": 8},
    "DEFT": RANK_4,
    "DELORA": RANK_4,
    "FOURIERFT": {**ATTENTION, "n_frequency": 50},
    "FROD": ATTENTION,
    "GLORA": RANK_4,
    "GRALORA": ATTENTION,
    "HIRA": RANK_4,
    "HRA": RANK_4,
    "IA3": {"target_modules": ["q_proj", "fc1"], "feedforward_modules": ["fc1"]},
    "LN_TUNING": {"target_modules": ["layer_norm1"]},
    "LOHA": RANK_4,
    "LOHA convolution": {"r": 4, "target_modules": ["patch_embedding", "fc2"]},
    "LOKR": RANK_4,
    "MISS": RANK_4,
    "OFT": {**ATTENTION, "oft_block_size": 8},
    "OSF": ATTENTION,
    "PEANUT": ATTENTION,
    "PSOFT": RANK_4,
    "PVERA": RANK_4,
    "RANDLORA": RANK_4,
    "ROAD": {**ATTENTION, "group_size": 8},
    "SHIRA": {**ATTENTION, "r": 2},
    "SUPERTUNING": ATTENTION,
    "TINYLORA": ATTENTION,
    "TRAINABLE_TOKENS": {"target_modules": ["token_embedding"], "token_indices": [70, 75, 80]},
    "UNILORA": ATTENTION,
    "VBLORA": {**ATTENTION, "vector_length": 8, "num_vectors": 16},
    "VERA": RANK_4,
    "VERA own projection": {**RANK_4, "save_projection": False},
    "WAVEFT": {**ATTENTION, "n_frequency": 64},
}
PROMPTS = {"CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"}
REFUSED = PROMPTS | {"ADAPTION_PROMPT", "LILY", "POLY", "SHADOW", "XLORA"}

TEXTS = torch.tensor([[0, 75, 80, 1], [0, 70, 90, 1]])
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def train(model: Any, folder: Path, kind: str, options: dict[str, Any], scale: float = 0.2) -> Path:
    """An adapter of this kind in `folder`, moved off its start by noise."""
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(model, PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)](**options))
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.add_(scale * torch.randn_like(parameter))
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    return folder


@torch.inference_mode()
def embed(model: Any) -> torch.Tensor:
    model.eval()
    images = model.get_image_features(pixel_values=IMAGES).pooler_output
    return torch.cat([images, model.get_text_features(input_ids=TEXTS).pooler_output])


@pytest.fixture
def clip(checkpoints) -> Callable[[], Any]:
    made = factories.plain_model(checkpoints["clip"])
    return lambda: copy.deepcopy(made)


def test_every_kind_of_the_installed_peft_is_merged_or_refused() -> None:
    known = {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    tested = {name.partition(" ")[0] for name in KINDS}
    assert known <= tested | REFUSED
    assert not tested & REFUSED


@pytest.mark.parametrize("name", KINDS)
def test_merged_gives_what_peft_gives_unmerged(name: str, clip, checkpoints, tmp_path: Path) -> None:
    kind = name.partition(" ")[0]
    folder = train(clip(), tmp_path, kind, KINDS[name])
    loaded = load_model(f"dir:{checkpoints['clip']}", adapter=f"dir:{folder}")
    unmerged = clip()
    peft.PeftModel.from_pretrained(unmerged, str(folder))
    plain = embed(clip())
    assert (embed(unmerged) - plain).abs().max() > 1e-2
    torch.testing.assert_close(embed(loaded.predictor.model), embed(unmerged), rtol=1e-4, atol=1e-4)
    info = loaded.info.adapter
    assert (info.peft_type, info.changes_nothing) == (kind, False)
    assert not [type(part) for part in loaded.predictor.model.modules() if "peft" in type(part).__module__]


# Kinds that begin as the identity, and stay it until they are trained.
IDENTITY = ["LORA", "LORA dora", "LORA saved modules", "BOFT", "C3A", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "OFT"]
IDENTITY += ["PEANUT", "SHIRA", "TRAINABLE_TOKENS", "VERA"]


@pytest.mark.parametrize("name", IDENTITY)
def test_an_adapter_that_moves_no_weight_is_named(name: str, clip, checkpoints, tmp_path: Path) -> None:
    kind, options = name.partition(" ")[0], dict(KINDS[name])
    folder = train(clip(), tmp_path, kind, options | OWN_STARTS.get(kind, {}), scale=0)
    loaded = load_model(f"dir:{checkpoints['clip']}", adapter=f"dir:{folder}")
    assert loaded.info.adapter.changes_nothing
    assert any("changes nothing: no weight moved" in warning for warning in loaded.info.warnings)
    torch.testing.assert_close(embed(loaded.predictor.model), embed(clip()), rtol=1e-4, atol=1e-4)


# By default these start elsewhere.
OWN_STARTS: dict[str, dict[str, Any]] = {"C3A": {"init_weights": True}, "SHIRA": {"init_weights": True}}


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_a_kind_that_no_fixed_weights_can_do_is_refused(kind: str, checkpoints, tmp_path: Path) -> None:
    factories.lora(tmp_path, checkpoints["clip"], targets=["q_proj"])
    needed = {"CPT": {"task_type": "CAUSAL_LM"}, "XLORA": {"hidden_size": 8, "adapters": {}}}.get(kind, {})
    config = {"peft_type": kind, **({"num_virtual_tokens": 2} if kind in PROMPTS else {}), **needed}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    # X-LoRA names further adapters, which is refused before anything else.
    says = "beyond the adapter's own files" if kind == "XLORA" else "not merged into weights"
    with pytest.raises((UsageError, InputError), match=says) as caught:
        load_model(f"dir:{checkpoints['clip']}", adapter=f"dir:{tmp_path}")
    assert kind in str(caught.value)


# On open_clip's towers, and on one side of a model

TOWERS = [
    ("open_clip", "visual", "LORA", {"r": 4, "target_modules": ["attn", "c_fc"], "use_dora": False}),
    ("open_clip", "visual", "LORA", {"r": 4, "target_modules": ["c_fc", "c_proj"], "use_dora": True}),
    ("open_clip", "", "IA3", {"target_modules": ["c_fc"], "feedforward_modules": ["c_fc"]}),
    ("open_clip", "", "OFT", {"target_modules": ["c_fc", "c_proj"], "oft_block_size": 8}),
    ("open_clip", "visual", "VERA", {"r": 4, "target_modules": ["c_fc"]}),
    ("modified_resnet", "visual", "LORA", {"r": 4, "target_modules": ["conv2"]}),
    ("modified_resnet", "visual", "LOKR", {"r": 4, "target_modules": ["conv2", "conv3"]}),
    ("modified_resnet", "visual", "LORA", {"r": 4, "target_modules": ["q_proj", "k_proj", "v_proj", "c_proj"]}),
    ("modified_resnet", "visual", "IA3", {"target_modules": ["c_proj"], "feedforward_modules": []}),
    ("biomedclip", "visual", "LORA", {"r": 4, "target_modules": ["qkv", "proj"]}),
    ("biomedclip", "visual", "LOHA", {"r": 4, "target_modules": ["qkv"]}),
    ("biomedclip", "", "LORA", {"r": 4, "target_modules": ["qkv", "query", "value"]}),
    ("biomedclip", "text", "LORA", {"r": 4, "target_modules": ["query", "value"]}),
    ("siglip_gemma", "vision_model", "LORA", {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": "pissa"}),
    ("siglip_gemma", "text_model", "LOKR", {"r": 4, "target_modules": ["q_proj"]}),
    ("blip2_retrieval", "", "LORA", {"r": 4, "target_modules": ["qkv", "query", "value"]}),
    ("blip2_retrieval", "vision_model", "IA3", {"target_modules": ["qkv", "fc1"], "feedforward_modules": ["fc1"]}),
]


@pytest.fixture(scope="module")
def dual() -> Callable[[str], Path]:
    return families.checkpoint


@torch.inference_mode()
def outputs(encoder: Any) -> torch.Tensor:
    texts = encoder.encode_texts(["a chest radiograph", "lung"])
    return torch.cat([encoder.encode_images(IMAGES).flatten(), texts.flatten()])


@pytest.mark.parametrize(("base", "side", "kind", "options"), TOWERS)
def test_one_side_of_a_model_or_all_of_it(
    base: str, side: str, kind: str, options: dict[str, Any], dual, tmp_path: Path
) -> None:
    ref = f"dir:{dual(base)}"
    folder = train(load_model(ref).predictor.model.get_submodule(side), tmp_path, kind, options)
    merged = outputs(load_model(ref, adapter=f"dir:{folder}").predictor)
    encoder = load_model(ref).predictor
    plain = outputs(encoder)
    peft.PeftModel.from_pretrained(encoder.model.get_submodule(side), str(folder))
    unmerged = outputs(encoder)
    assert (unmerged - plain).abs().max() > 1e-3
    torch.testing.assert_close(merged, unmerged, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["LOHA", "IA3"])
def test_any_kind_on_a_layer_that_attention_bypasses_is_refused(kind: str, checkpoints, tmp_path: Path) -> None:
    options: dict[str, Any] = {"target_modules": ["out_proj"]}
    if kind == "IA3":
        options["feedforward_modules"] = []
    folder = train(factories.plain_model(checkpoints["open_clip"]), tmp_path, kind, options)
    with pytest.raises(InputError, match="no effect") as caught:
        load_model(f"dir:{checkpoints['open_clip']}", adapter=f"dir:{folder}")
    assert "attn.out_proj" in str(caught.value)


# Several adapters


def test_adapters_stack_in_order(clip, checkpoints, tmp_path: Path) -> None:
    first = train(clip(), tmp_path / "first", "LORA", RANK_4)
    below = clip()
    below = peft.PeftModel.from_pretrained(below, str(first)).merge_and_unload()
    # IA3 multiplies, so the order matters.
    second = train(below, tmp_path / "second", "IA3", KINDS["IA3"])
    expected = embed(peft.PeftModel.from_pretrained(below, str(second)).base_model.model)
    model, base = clip(), resolve(parse_reference(f"dir:{checkpoints['clip']}"))
    infos = [apply_adapter(model, resolve(parse_reference(f"dir:{each}")), base) for each in (first, second)]
    torch.testing.assert_close(embed(model), expected, rtol=1e-4, atol=1e-4)
    assert [info.peft_type for info in infos] == ["LORA", "IA3"]


def named(folder: Path, base: Path) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(base)}))
    return folder


def test_an_adapter_whose_base_is_an_adapter(clip, checkpoints, tmp_path: Path) -> None:
    low = named(train(clip(), tmp_path / "low", "LORA", RANK_4), checkpoints["clip"])
    top = named(train(clip(), tmp_path / "top", "LORA", RANK_4), low)
    chain = adapter_chain(resolve(parse_reference(f"dir:{top}")))
    assert [each.path for each in chain] == [checkpoints["clip"], low, top]
    named(low, top)
    with pytest.raises(UsageError, match="name each other"):
        adapter_chain(resolve(parse_reference(f"dir:{top}")))


def test_an_adapter_alone_brings_all_below_it(clip, checkpoints, hub, tmp_path: Path) -> None:
    hub.add("org/clip", checkpoints["clip"])
    low = named(train(clip(), tmp_path / "low", "LORA", RANK_4), Path("org/clip"))
    commit = hub.add("org/low", low)
    below = peft.PeftModel.from_pretrained(clip(), str(low)).merge_and_unload()
    top = named(train(below, tmp_path / "top", "IA3", KINDS["IA3"]), Path("org/low"))
    loaded = load_model(f"dir:{top}")
    expected = embed(peft.PeftModel.from_pretrained(below, str(top)).base_model.model)
    torch.testing.assert_close(embed(loaded.predictor.model), expected, rtol=1e-4, atol=1e-4)
    info = loaded.info
    assert (info.ref, info.adapter.peft_type, info.adapter.base_ref) == ("hf:org/clip", "IA3", "org/low")
    assert [(each.ref, each.revision) for each in info.adapters_below] == [("hf:org/low", commit)]
    assert info.revisions == (info.revision, commit, info.adapter.revision)
    assert json.loads(json.dumps(info.to_json())) == info.to_json()
    found = inspect(f"dir:{top}")
    assert [part.ref for part in (found.model, *found.adapters_below, found.adapter)] == [
        "hf:org/clip",
        "hf:org/low",
        f"dir:{top}",
    ]
    assert found.to_json()["adapters_below"][0]["problems"] == []


def test_no_link_of_a_chain_leads_from_the_hub_to_a_folder(clip, checkpoints, hub, tmp_path: Path) -> None:
    hub.add("org/low", named(train(clip(), tmp_path / "low", "LORA", RANK_4), checkpoints["clip"]))
    top = named(train(clip(), tmp_path / "top", "LORA", RANK_4), Path("org/low"))
    with pytest.raises(UsageError, match="from the Hub names a folder") as caught:
        load_model(f"dir:{top}")
    assert "hf:org/low" in str(caught.value)


# Generators


@pytest.fixture(scope="module")
def llava() -> Callable[[], Any]:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    text = {"model_type": "llama", "vocab_size": 64, **factories.TOWER}
    vision = {"model_type": "clip_vision_model", **factories.VISION}
    torch.manual_seed(0)
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=60, image_seq_length=16)
    made = LlavaForConditionalGeneration(config).eval()
    return lambda: copy.deepcopy(made)


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    tokens = torch.tensor([[1, *[60] * 16, 7, 8, 9]] * 2)
    return model.eval()(input_ids=tokens, pixel_values=IMAGES).logits


@pytest.mark.parametrize(
    ("task", "kind", "side", "options"),
    [
        ("CAUSAL_LM", "LORA", "", {"r": 4, "target_modules": "all-linear"}),
        (None, "LORA", "", {"r": 4, "target_modules": ["q_proj"], "use_dora": True, "modules_to_save": ["linear_1"]}),
        ("CAUSAL_LM", "LORA", "model.language_model", {"r": 4, "target_modules": ["q_proj", "down_proj"]}),
        ("SEQ_2_SEQ_LM", "LORA", "model.vision_tower", {"r": 4, "target_modules": ["q_proj", "fc1"]}),
        (
            "FEATURE_EXTRACTION",
            "IA3",
            "",
            {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
        ),
    ],
)
def test_a_generator_takes_adapters_that_write(
    task: str | None, kind: str, side: str, options: dict[str, Any], llava, checkpoints, tmp_path: Path
) -> None:
    plain, base = llava(), resolve(parse_reference(f"dir:{checkpoints['clip']}"))
    folder = train(llava().get_submodule(side), tmp_path, kind, options)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task_type": task}))
    merged, unmerged = llava(), llava()
    assert not apply_adapter(merged, resolve(parse_reference(f"dir:{folder}")), base).changes_nothing
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task_type": None}))
    peft.PeftModel.from_pretrained(unmerged.get_submodule(side), str(folder))
    assert (logits(unmerged) - logits(plain)).abs().max() > 1e-3
    torch.testing.assert_close(logits(merged), logits(unmerged), rtol=1e-4, atol=1e-4)


def test_a_generator_refuses_a_classifier_s_adapter(llava, checkpoints, tmp_path: Path) -> None:
    folder = train(llava(), tmp_path, "LORA", RANK_4)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task_type": "SEQ_CLS"}))
    base = resolve(parse_reference(f"dir:{checkpoints['clip']}"))
    with pytest.raises(UsageError, match="another task") as caught:
        apply_adapter(llava(), resolve(parse_reference(f"dir:{folder}")), base)
    assert "CAUSAL_LM" in str(caught.value)


def test_an_adapter_from_before_the_layers_were_renamed(llava, checkpoints, tmp_path: Path) -> None:
    """transformers 5 keeps LLaVA's sides one level deeper than the versions that most adapters were trained with."""
    from safetensors.torch import load_file, save_file

    folder = train(llava(), tmp_path, "LORA", RANK_4)
    merged, file = llava(), folder / "adapter_model.safetensors"
    base = resolve(parse_reference(f"dir:{checkpoints['clip']}"))
    apply_adapter(merged, resolve(parse_reference(f"dir:{folder}")), base)
    old = {
        key.replace(".model.model.language_model.", ".model.language_model.model.").replace(
            ".model.model.vision_tower.", ".model.vision_tower."
        ): weight
        for key, weight in load_file(file).items()
    }
    assert not old.keys() & load_file(file).keys()
    save_file(old, file)
    again = llava()
    apply_adapter(again, resolve(parse_reference(f"dir:{folder}")), base)
    torch.testing.assert_close(logits(again), logits(merged))
