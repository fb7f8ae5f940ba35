import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import factories
from vlmed.errors import InputError, UsageError
from vlmed.models.load import load_model
from vlmed.models.protocols import DualEncoder, ImageEncoder, LoadedModel

TEXTS = ["a chest radiograph", "pneumonia"]


@pytest.fixture
def make(checkpoints, tmp_path: Path):
    """Makes a LoRA on a tiny checkpoint."""

    def made(base: str, targets: list[str] | str, **options: Any) -> Path:
        return factories.lora(
            tmp_path / f"lora{len(list(tmp_path.iterdir()))}", checkpoints[base], targets=targets, **options
        )

    return made


def edit(folder: Path, **keys: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def dual(model: LoadedModel) -> DualEncoder:
    assert isinstance(model.predictor, DualEncoder)
    return model.predictor


@torch.inference_mode()
def embeddings(model: LoadedModel, images: list[Any]) -> torch.Tensor:
    encoder = dual(model)
    pixels = torch.stack([encoder.preprocess(image) for image in images])
    return torch.cat([encoder.encode_images(pixels), encoder.encode_texts(TEXTS)])


# Merged here, unmerged by PEFT alone

CASES = [
    ("open_clip", ["c_fc", "c_proj"], False),
    ("open_clip", ["attn", "c_fc"], False),
    ("open_clip", ["attn", "c_proj"], True),
    ("open_clip", r"visual\..*\.c_fc", False),
    ("clip", ["q_proj", "v_proj", "visual_projection"], False),
    ("clip", ["q_proj", "fc1"], True),
]


@torch.inference_mode()
@pytest.mark.parametrize(("base", "targets", "image_tower"), CASES)
def test_merged_equals_unmerged(base: str, targets: Any, image_tower: bool, make, checkpoints, images) -> None:
    from peft import PeftModel

    adapter = make(base, targets, image_tower=image_tower)
    loaded = load_model(f"dir:{checkpoints[base]}", adapter=f"dir:{adapter}")
    merged = embeddings(loaded, images)
    reference = load_model(f"dir:{checkpoints[base]}")
    plain = embeddings(reference, images)

    library = factories.plain_model(checkpoints[base])
    name = "visual" if base == "open_clip" else "vision_model"
    target = getattr(library, name) if image_tower else library
    PeftModel.from_pretrained(target, str(adapter))  # puts its layers into `library`
    pixels = torch.stack([dual(reference).preprocess(image) for image in images])
    if base == "open_clip":
        import open_clip

        tokens = open_clip.get_tokenizer(f"local-dir:{checkpoints[base]}")(TEXTS)
        unmerged = torch.cat([library.encode_image(pixels), library.encode_text(tokens)])
    else:
        from transformers import AutoTokenizer

        tokens = AutoTokenizer.from_pretrained(checkpoints[base])(
            TEXTS, padding=True, truncation=True, max_length=factories.CONTEXT, return_tensors="pt"
        )
        image_side = library.get_image_features(pixel_values=pixels).pooler_output
        unmerged = torch.cat([image_side, library.get_text_features(**tokens).pooler_output])

    torch.testing.assert_close(merged, unmerged, rtol=1e-4, atol=1e-4)
    assert (merged[:2] - plain[:2]).abs().max() > 1e-2
    texts_change = not image_tower and isinstance(targets, list)
    assert torch.allclose(merged[2:], plain[2:], atol=1e-6) != texts_change


def test_an_adapter_alone_finds_its_base(make, checkpoints, images) -> None:
    adapter = make("clip", ["q_proj"])
    alone = load_model(f"dir:{adapter}")
    both = load_model(f"dir:{checkpoints['clip']}", adapter=f"dir:{adapter}")
    assert torch.equal(embeddings(alone, images), embeddings(both, images))
    assert alone.info.to_json() == both.info.to_json()
    info = alone.info.adapter
    assert info is not None
    assert (info.peft_type, info.base_ref, info.changes_nothing) == ("LORA", str(checkpoints["clip"]), False)
    # Two layers in each of two towers, each with A (4, 32) and B (32, 4).
    assert info.parameters == 4 * 2 * 4 * 32
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", info.revision)


def test_a_base_named_as_a_reference(make, checkpoints) -> None:
    adapter = make("clip", ["q_proj"], base_ref=f"dir:{checkpoints['clip']}")
    assert load_model(f"dir:{adapter}").info.name == "clip"


def test_open_clip_s_own_name_is_its_repository(hub, make, checkpoints, tmp_path: Path) -> None:
    repository = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    hub.add(repository, checkpoints["open_clip"])
    adapter = make("open_clip", ["c_fc"], base_ref=repository)
    assert load_model("open_clip:ViT-B-32/laion2b_s34b_b79k", adapter=f"dir:{adapter}").info.warnings == ()
    hub.add("org/other", factories.tiny_open_clip(tmp_path / "other", seed=1))
    other = make("open_clip", ["c_fc"], base_ref="org/other")
    with pytest.raises(UsageError, match="another revision"):
        load_model("open_clip:ViT-B-32/laion2b_s34b_b79k", adapter=f"dir:{other}")


def test_a_base_beside_the_adapter(make, checkpoints, tmp_path: Path) -> None:
    adapter = make("clip", ["q_proj"], base_ref="../base")
    shutil.copytree(checkpoints["clip"], tmp_path / "base")
    assert load_model(f"dir:{adapter}").info.name == "base"


def test_an_adapter_that_changes_nothing_is_named(make, checkpoints, images) -> None:
    model = load_model(f"dir:{make('open_clip', ['c_fc'], zero=True)}")
    assert model.info.adapter is not None
    assert model.info.adapter.changes_nothing
    assert any("changes nothing" in warning for warning in model.info.warnings)
    plain = load_model(f"dir:{checkpoints['open_clip']}")
    torch.testing.assert_close(embeddings(model, images), embeddings(plain, images))


def test_a_model_with_an_adapter_can_be_trained_on(make) -> None:
    tower = dual(load_model(f"dir:{make('clip', ['q_proj'])}")).image_tower
    assert all(parameter.requires_grad for parameter in tower.parameters())


def test_the_blank_control_takes_an_adapter(make, checkpoints) -> None:
    adapter = make("clip", ["q_proj"])
    assert load_model(f"control:blank/dir:{checkpoints['clip']}", adapter=f"dir:{adapter}").info.adapter


@pytest.mark.parametrize(
    ("base", "options"),
    [
        ("clip", {"target_modules": ["q_proj"]}),
        ("clip", {"target_modules": ["q_proj"], "modules_to_save": ["visual_projection"]}),
        ("open_clip", {"target_modules": ["c_fc"]}),
        ("vit", {"target_modules": ["query", "q_proj"]}),
    ],
)
@torch.inference_mode()
def test_an_adapter_trained_on_the_image_tower_comes_back(
    base: str, options: dict[str, Any], checkpoints, images, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    trained = load_model(f"dir:{checkpoints[base]}").predictor
    assert isinstance(trained, ImageEncoder)
    wrapped = get_peft_model(trained.image_tower, LoraConfig(r=2, **options))
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    wrapped.save_pretrained(tmp_path)

    loaded = load_model(f"dir:{checkpoints[base]}", adapter=f"dir:{tmp_path}").predictor
    assert isinstance(loaded, ImageEncoder)
    pixels = torch.stack([loaded.preprocess(image) for image in images])
    torch.testing.assert_close(loaded.encode_images(pixels), wrapped(pixels).float(), rtol=1e-4, atol=1e-4)
    if isinstance(loaded, DualEncoder):
        plain = dual(load_model(f"dir:{checkpoints[base]}"))
        assert not torch.allclose(loaded.encode_images(pixels), plain.encode_images(pixels), atol=1e-2)
        assert torch.equal(loaded.encode_texts(TEXTS), plain.encode_texts(TEXTS))


# Bases that don't match


def test_another_model_is_refused(hub, make, checkpoints) -> None:
    hub.add("org/other", checkpoints["clip"])
    adapter = make("clip", ["q_proj"], base_ref="org/clip")
    with pytest.raises(UsageError, match="another model") as caught:
        load_model("org/other", adapter=f"dir:{adapter}")
    assert "org/clip" in str(caught.value)
    assert "org/other" in str(caught.value)


def test_another_revision_is_refused(hub, make, checkpoints, tmp_path: Path) -> None:
    old = hub.add("org/clip", checkpoints["clip"], tag="v1")
    hub.add("org/clip", factories.tiny_clip(tmp_path / "retrained", seed=1))
    for revision in (old, "v1"):
        adapter = make("clip", ["q_proj"], base_ref="org/clip", base_revision=revision)
        with pytest.raises(UsageError, match="another revision") as caught:
            load_model("org/clip@main", adapter=f"dir:{adapter}")
        assert old in str(caught.value) or "v1" in str(caught.value)
        assert load_model(f"org/clip@{old}", adapter=f"dir:{adapter}").info.adapter


def test_a_folder_with_other_content_is_refused(make, checkpoints, tmp_path: Path) -> None:
    other = factories.tiny_clip(tmp_path / "other", seed=1)
    with pytest.raises(UsageError, match="another revision"):
        load_model(f"dir:{other}", adapter=f"dir:{make('clip', ['q_proj'])}")
    pinned = make("clip", ["q_proj"], base_ref="org/clip", base_revision=load_model(f"dir:{other}").info.revision)
    with pytest.raises(UsageError, match="another revision"):
        load_model(f"dir:{checkpoints['clip']}", adapter=f"dir:{pinned}")
    assert load_model(f"dir:{other}", adapter=f"dir:{pinned}").info.warnings == ()


@pytest.mark.parametrize(
    ("base_ref", "says"),
    [("", "doesn't name its base"), ("org/clip", "hf:org/clip"), ("/no/such/folder", "dir:/no/such/folder")],
)
def test_a_base_that_cannot_be_compared_is_a_warning(base_ref: str, says: str, make, checkpoints) -> None:
    adapter = make("clip", ["q_proj"], base_ref=base_ref)
    warnings = load_model(f"dir:{checkpoints['clip']}", adapter=f"dir:{adapter}").info.warnings
    assert len(warnings) == 1
    assert says in warnings[0]


def test_an_adapter_alone_without_a_base(make) -> None:
    with pytest.raises(UsageError, match="doesn't name its base") as caught:
        load_model(f"dir:{make('clip', ['q_proj'], base_ref='')}")
    assert "--model" in str(caught.value)


def test_an_adapter_alone_whose_base_does_not_exist(hub, make) -> None:
    with pytest.raises(UsageError, match="'org/gone' does not exist"):
        load_model(f"dir:{make('clip', ['q_proj'], base_ref='org/gone')}")


def test_an_adapter_on_an_adapter_is_refused(make) -> None:
    adapter = make("clip", ["q_proj"])
    with pytest.raises(UsageError, match="is an adapter itself"):
        load_model(f"dir:{adapter}", adapter=f"dir:{adapter}")


# Adapters that don't fit


def test_layers_that_the_model_lacks_are_all_listed(make) -> None:
    from safetensors.torch import load_file, save_file

    adapter = make("clip", ["q_proj"])
    weights = load_file(adapter / "adapter_model.safetensors")
    for number in (8, 9):
        weights[f"base_model.model.vision_model.encoder.layers.{number}.self_attn.q_proj.lora_A.weight"] = torch.zeros(
            4, 32
        )
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(InputError, match="no such layer") as caught:
        load_model(f"dir:{adapter}")
    assert len(caught.value.problems) == 2
    assert "layers.8.self_attn.q_proj" in str(caught.value)


def test_an_adapter_of_another_architecture(make, checkpoints) -> None:
    adapter = make("open_clip", ["c_fc"], base_ref="")
    with pytest.raises(InputError, match="no layer of the model is a target"):
        load_model(f"dir:{checkpoints['clip']}", adapter=f"dir:{adapter}")


def test_a_rank_that_is_not_the_configs(make) -> None:
    adapter = make("clip", ["q_proj"])
    edit(adapter, r=2)
    with pytest.raises(InputError, match="don't fit the layer") as caught:
        load_model(f"dir:{adapter}")
    assert len(caught.value.problems) == 8
    assert caught.value.problems[0].expected == "(2, 32)"
    assert caught.value.problems[0].got == "(4, 32)"


def test_an_incomplete_adapter(make) -> None:
    adapter = make("clip", ["q_proj"])
    edit(adapter, target_modules=["q_proj", "v_proj"])
    with pytest.raises(InputError, match="lacks weights") as caught:
        load_model(f"dir:{adapter}")
    assert "v_proj" in str(caught.value)


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
def test_an_adapter_for_another_task(task: str, make) -> None:
    adapter = make("clip", ["q_proj"])
    edit(adapter, task_type=task)
    with pytest.raises(UsageError, match="another task") as caught:
        load_model(f"dir:{adapter}")
    assert task in str(caught.value)


def test_a_kind_that_is_not_merged(make) -> None:
    adapter = make("clip", ["q_proj"])
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    config = {"peft_type": "PROMPT_TUNING", "base_model_name_or_path": base, "num_virtual_tokens": 2}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="not merged"):
        load_model(f"dir:{adapter}")


def test_a_kind_that_peft_does_not_know(make) -> None:
    adapter = make("clip", ["q_proj"])
    edit(adapter, peft_type="MAGIC")
    with pytest.raises(InputError, match="PEFT can't read") as caught:
        load_model(f"dir:{adapter}")
    assert "MAGIC" in str(caught.value)


def test_a_lora_that_attention_bypasses_is_refused(make) -> None:
    with pytest.raises(InputError, match="no effect") as caught:
        load_model(f"dir:{make('open_clip', ['out_proj', 'c_fc'])}")
    assert "attn.out_proj" in str(caught.value)


def test_damaged_adapter_weights(make) -> None:
    adapter = make("clip", ["q_proj"])
    (adapter / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="can't be"):
        load_model(f"dir:{adapter}")
