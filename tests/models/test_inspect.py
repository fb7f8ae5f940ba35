"""What is said of a reference before anything has run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import factories
from vlmed.errors import InputError, MissingError, UsageError
from vlmed.models.inspect import inspect
from vlmed.models.load import load_model

DUAL = ["open_clip", "open_clip_hf_tokenizer", "clip", "siglip"]
IMAGE_ONLY = ["vit", "vit_classifier", "resnet", "timm"]


@pytest.mark.parametrize("name", DUAL + IMAGE_ONLY)
def test_what_loading_would_say(name: str, checkpoints) -> None:
    found, loaded = inspect(f"dir:{checkpoints[name]}"), load_model(f"dir:{checkpoints[name]}")
    assert found.kind == loaded.info.kind
    assert found.model.revision == loaded.info.revision
    assert found.problems == []
    assert found.model.remote_code == ()
    assert found.adapter is None
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["model"]["ref"] == loaded.info.ref


def test_parameters_types_and_files(checkpoints) -> None:
    folder = checkpoints["clip"]
    weights = load_file(folder / "model.safetensors")
    model = inspect(f"dir:{folder}").model
    expected = sum(tensor.numel() for tensor in weights.values() if tensor.is_floating_point())
    assert model.parameters == expected == load_model(f"dir:{folder}").info.parameters
    assert model.dtypes["F32"] == expected
    assert model.files == {path.name: path.stat().st_size for path in folder.iterdir()}
    assert model.layout == "config"


def test_a_pickle_is_counted_without_being_run(checkpoints, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoints["clip"], tmp_path / "model"))
    weights = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    torch.save({"state_dict": weights, "steps": torch.zeros(3, dtype=torch.int64)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    model = inspect(f"dir:{folder}").model
    assert model.parameters == sum(tensor.numel() for tensor in weights.values())
    assert model.dtypes == {"float16": model.parameters, "int64": 3}


def test_shards_are_added_up(checkpoints, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = Path(shutil.copytree(checkpoints["clip"], tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    parts = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in parts.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    whole, sharded = inspect(f"dir:{checkpoints['clip']}").model, inspect(f"dir:{folder}").model
    assert sharded.parameters == whole.parameters
    assert sharded.problems == ()


def test_memory_and_time_say_what_they_rest_on(checkpoints) -> None:
    clip = inspect(f"dir:{checkpoints['clip']}")
    assert clip.estimate["weights_float32"] == 4 * clip.model.parameters
    assert clip.estimate["tokens_per_image"] == (factories.IMAGE_SIZE // 8) ** 2 + 1
    assert clip.estimate["tokens_from"] == "the configuration"
    assert clip.estimate["seconds_per_1000_images"] > 0
    assert "timed" in clip.estimate["rate_from"]
    assert "assumption" in inspect(f"dir:{checkpoints['timm']}").estimate["tokens_from"]


def test_an_adapter_alone_shows_its_base(checkpoints, tmp_path: Path) -> None:
    lora = factories.lora(tmp_path / "lora", checkpoints["clip"], targets=["q_proj"])
    alone = inspect(f"dir:{lora}")
    both = inspect(f"dir:{checkpoints['clip']}", f"dir:{lora}")
    assert alone.to_json() | {"estimate": 0} == both.to_json() | {"estimate": 0}
    assert alone.model.ref == f"dir:{checkpoints['clip']}"
    assert alone.adapter is not None
    info = load_model(f"dir:{lora}").info.adapter
    assert info is not None
    assert (alone.adapter.parameters, alone.adapter.revision) == (info.parameters, info.revision)
    facts = alone.adapter_facts
    assert (facts["peft_type"], facts["r"], facts["target_modules"]) == ("LORA", 4, ["q_proj"])
    assert facts["base"] == str(checkpoints["clip"])


def test_everything_wrong_is_found_and_nothing_runs(checkpoints, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoints["clip"], tmp_path / "model"))

    class Mark:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "mark"),)

    (folder / "model.safetensors").unlink()
    torch.save({"weights": Mark()}, folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "own.Model"}, "num_labels": 10**9}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'mark')!r})\n")
    (folder / "chat_template.jinja").write_text("{{ ''.__class__.__mro__ }}")
    found = inspect(f"dir:{folder}")
    assert not (tmp_path / "mark").exists()
    assert found.model.remote_code == ("config.json: $.auto_map",)
    assert [Path(problem.file).name for problem in found.problems] == [
        "config.json",
        "chat_template.jinja",
        "pytorch_model.bin",
    ]
    assert found.model.parameters is None
    assert found.estimate == {}


def test_a_model_of_the_hub_is_inspected_without_its_weights(hub, checkpoints) -> None:
    commit = hub.add("org/tiny", checkpoints["clip"], tag="v1")
    found = inspect("org/tiny@v1")
    assert found.model.revision == commit
    assert "model.safetensors" not in hub.downloaded()
    assert found.model.files["model.safetensors"] == (checkpoints["clip"] / "model.safetensors").stat().st_size
    assert found.model.parameters is None
    assert (found.kind, found.architecture) == ("dual_encoder", "CLIPModel")
    load_model("org/tiny@v1")
    assert inspect("org/tiny@v1").model.parameters
    hub.stop()
    offline = inspect("org/tiny@v1").model
    assert offline.parameters
    assert offline.revision == commit


def test_a_known_model_has_its_card(hub, checkpoints) -> None:
    hub.add("openai/clip-vit-base-patch32", checkpoints["clip"])
    assert inspect("openai/clip-vit-base-patch32").card == "clip_vit_b32_openai"
    assert inspect(f"dir:{checkpoints['clip']}").card == ""


@pytest.mark.parametrize("ref", ["control:random", "endpoint:http://localhost:1/v1#m"])
def test_what_has_no_files(ref: str) -> None:
    with pytest.raises(UsageError, match="no files to inspect"):
        inspect(ref)


def test_what_is_not_there(hub, checkpoints, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        inspect("org/nothing")
    hub.add("org/gated", checkpoints["clip"], gated=True)
    with pytest.raises(MissingError, match="gated"):
        inspect("org/gated")
    with pytest.raises(InputError, match="no model here"):
        inspect(f"dir:{tmp_path}")
