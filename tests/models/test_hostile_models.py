"""Hostile checkpoints, each a real file that would leave a mark if anything in it ran. See docs/security-model.md."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import factories
from vlmed.errors import InputError, UsageError, VlmedError
from vlmed.models.confined import Allowance, confined
from vlmed.models.load import load_model
from vlmed.models.published import read_weights
from vlmed.models.safetensors_header import read_header
from vlmed.models.snapshot import read_config

Edit = Callable[..., Path]


class Mark:
    """A pickle that leaves a file behind where it is allowed to run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """Where hostile code would leave its mark; nothing may be there in the end."""
    path = tmp_path / "mark"
    yield path
    assert not path.exists(), "hostile code ran"


@pytest.fixture
def change(checkpoints, tmp_path: Path) -> Edit:
    """Copies a checkpoint and merges keys into one of its JSON files, at the top or below a dotted path."""

    def copied(name: str, file: str = "", at: str = "", **keys: object) -> Path:
        folder = tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"
        shutil.copytree(checkpoints[name], folder)
        if file:
            whole = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
            place = whole
            for part in filter(None, at.split(".")):
                place = place[part]
            place |= keys
            (folder / file).write_text(json.dumps(whole))
        return folder

    return copied


@pytest.fixture
def lora(checkpoints, tmp_path: Path) -> Callable[..., Path]:
    """A LoRA on the tiny CLIP whose config is changed."""

    def made(**keys: object) -> Path:
        folder = factories.lora(tmp_path / "lora", checkpoints["clip"], targets=["q_proj"])
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))
        return folder

    return made


def refused(folder: Path, error: type[VlmedError] = InputError, **options: Any) -> VlmedError:
    """The error of loading; it names the folder, and what to do next."""
    with pytest.raises(error) as caught:
        load_model(f"dir:{folder}", **options)
    assert all(problem.what and problem.file for problem in caught.value.problems)
    assert "/vlmed-" not in str(caught.value), "a passing folder is of no use to the reader"
    return caught.value


# Pickles

WEIGHTS = [
    ("clip", "model.safetensors", "pytorch_model.bin"),
    ("open_clip", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    ("open_clip", "open_clip_model.safetensors", "pytorch_model.pth"),
    ("open_clip", "open_clip_model.safetensors", "model.pth"),
    ("timm", "model.safetensors", "pytorch_model.bin"),
]


def zipped(value: object, path: Path) -> None:
    torch.save(value, path)


def legacy(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def bare(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


def legacy_tar(value: object, path: Path) -> None:
    """The format from before PyTorch 0.4: a tar of pickles."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            data = pickle.dumps(value)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


@pytest.mark.parametrize("write", [zipped, legacy, bare])
def test_the_mark_would_be_seen(write: Any, tmp_path: Path) -> None:
    write({"weights": Mark(tmp_path / "ran")}, tmp_path / "x.bin")
    if write is bare:
        pickle.loads((tmp_path / "x.bin").read_bytes())
    else:
        torch.load(tmp_path / "x.bin", weights_only=False)
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize("write", [zipped, legacy, bare, legacy_tar])
@pytest.mark.parametrize(("name", "safe", "pickled"), WEIGHTS)
def test_no_pickle_runs_code(name: str, safe: str, pickled: str, write: Any, change: Edit, mark: Path) -> None:
    folder = change(name)
    (folder / safe).unlink()
    write({"weights": Mark(mark)}, folder / pickled)
    error = refused(folder)
    assert pickled in str(error)
    assert "can't be loaded" in str(error)


@pytest.mark.parametrize("write", [zipped, legacy])
def test_the_refused_pickle_says_what_it_wanted(write: Any, change: Edit, mark: Path) -> None:
    folder = change("clip")
    (folder / "model.safetensors").unlink()
    write({"weights": Mark(mark)}, folder / "pytorch_model.bin")
    problem = refused(folder).problems[0]
    assert problem.what.endswith("a pickle that wants to run code")
    assert problem.got == "posix.mkdir"
    assert "safetensors" in problem.hint


@pytest.mark.parametrize(("name", "safe"), [(name, safe) for name, safe, _ in WEIGHTS[::2]])
@pytest.mark.parametrize("write", [zipped, bare])
def test_a_pickle_under_a_safetensors_name(name: str, safe: str, write: Any, change: Edit, mark: Path) -> None:
    folder = change(name)
    write({"weights": Mark(mark)}, folder / safe)
    assert "a pickle under the name of safetensors" in str(refused(folder))


@pytest.mark.parametrize("write", [zipped, legacy, bare, legacy_tar])
def test_an_adapter_s_pickle(write: Any, lora: Callable[..., Path], mark: Path) -> None:
    folder = lora()
    (folder / "adapter_model.safetensors").unlink()
    write({"weights": Mark(mark)}, folder / "adapter_model.bin")
    assert "adapter_model.bin" in str(refused(folder))


@pytest.mark.parametrize("write", [zipped, legacy, bare, legacy_tar])
@pytest.mark.parametrize("name", ["checkpoint.pt", "text_encoder.pth", "r50_mcc.tar", "pytorch_model.bin"])
def test_the_pickles_of_published_layouts(name: str, write: Any, tmp_path: Path, mark: Path) -> None:
    write({"state_dict": {"a": torch.zeros(2)}, "hook": Mark(mark)}, tmp_path / name)
    with pytest.raises(InputError) as caught:
        read_weights(tmp_path / name, "state_dict")
    assert name in str(caught.value)
    refused(tmp_path)


@pytest.mark.parametrize("name", ["optimizer.pt", "training_args.bin", "scheduler.pt", "rng_state.pth", "model.pkl"])
def test_pickles_of_training_are_never_opened(name: str, change: Edit, mark: Path) -> None:
    folder = change("clip")
    zipped({"state": Mark(mark)}, folder / name)
    assert load_model(f"dir:{folder}").info.parameters


def test_torchscript_is_no_checkpoint(change: Edit) -> None:
    folder = change("open_clip")
    (folder / "open_clip_model.safetensors").unlink()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), folder / "open_clip_pytorch_model.bin")
    assert "open_clip_pytorch_model.bin" in str(refused(folder))


def test_compressed_weights_may_unfold_to_anything(change: Edit, tmp_path: Path) -> None:
    folder = change("clip")
    zipped({"weights": torch.zeros(2_000_000)}, tmp_path / "large.bin")
    (folder / "model.safetensors").unlink()
    with (
        zipfile.ZipFile(tmp_path / "large.bin") as large,
        zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in large.namelist():
            small.writestr(name, large.read(name))
    assert (folder / "pytorch_model.bin").stat().st_size < 50_000
    assert "compressed" in str(refused(folder))


def test_an_environment_that_allows_pickles_is_overruled(change: Edit, mark: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    zipped({"weights": Mark(mark)}, tmp_path / "x.pt")
    with confined(), pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.pt")
    with confined(), pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.pt", weights_only=False)
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


# Python code and classes by name

# A class of its own: transformers marks the class that it runs so, which must not be the library's.
OWN = "import os\nos.mkdir({mark!r})\nimport transformers\nclass CLIPModel(transformers.CLIPModel): pass\n"
ASKS = [
    ("clip", "config.json", "", {"auto_map": {"AutoModel": "own.CLIPModel"}}),
    ("clip", "config.json", "vision_config", {"auto_map": {"AutoModel": "own.CLIPModel"}}),
    ("clip", "config.json", "", {"custom_pipelines": {"x": {"impl": "own.Pipe"}}}),
    ("clip", "config.json", "", {"_target_": "own.CLIPModel"}),
    ("clip", "tokenizer_config.json", "", {"auto_map": {"AutoTokenizer": ["own.CLIPTokenizer", None]}}),
    ("clip", "processor_config.json", "", {"auto_map": {"AutoProcessor": "own.CLIPProcessor"}}),
    ("clip", "preprocessor_config.json", "", {"auto_map": {"AutoImageProcessor": "own.CLIPImageProcessor"}}),
    ("clip", "preprocessor_config.json", "", {"auto_map": {"AutoImageProcessor": "org/other--own.CLIPImageProcessor"}}),
    ("timm", "config.json", "", {"auto_map": {"AutoModel": "own.CLIPModel"}}),
    ("open_clip_hf_tokenizer", "tokenizer_config.json", "", {"auto_map": {"AutoTokenizer": ["own.Tok", "own.Tok"]}}),
    ("open_clip", "open_clip_config.json", "model_cfg", {"_target_": "own.CLIP"}),
]


@pytest.mark.parametrize(("name", "file", "at", "keys"), ASKS)
def test_code_by_name_is_refused(name: str, file: str, at: str, keys: dict[str, Any], change: Edit, mark: Path) -> None:
    folder = change(name, file, at, **keys)
    (folder / "own.py").write_text(OWN.format(mark=str(mark)))
    error = refused(folder, UsageError)
    assert f"{file}: $.{f'{at}.' if at else ''}{next(iter(keys))}" in str(error)
    assert "--trust-remote-code" in str(error)


def test_only_the_opt_in_by_name_runs_code_and_the_result_says_so(change: Edit, tmp_path: Path) -> None:
    folder = change("clip", "config.json", auto_map={"AutoModel": "own.CLIPModel"})
    (folder / "own.py").write_text(OWN.format(mark=str(tmp_path / "ran")))
    info = load_model(f"dir:{folder}", trust_remote_code=True).info
    assert info.to_json()["remote_code"] is True
    assert (tmp_path / "ran").is_dir()


def test_an_adapter_whose_base_brings_code(lora: Callable[..., Path], change: Edit, mark: Path) -> None:
    base = change("clip", "config.json", auto_map={"AutoModel": "own.CLIPModel"})
    (base / "own.py").write_text(OWN.format(mark=str(mark)))
    assert "auto_map" in str(refused(lora(base_model_name_or_path=str(base)), UsageError))


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"megatron_config": {"a": 1}, "megatron_core": "vlmed_hostile"}, "$.megatron_config"),
        ({"peft_type": "XLORA", "adapters": {"a": "org/other"}}, "$.peft_type"),
        ({"corda_config": {"cache_file": "/tmp/cache.pt"}}, "$.corda_config.cache_file"),
        ({"lora_ga_config": {"cache_file": "../cache.pt"}}, "$.lora_ga_config.cache_file"),
    ],
)
def test_an_adapter_that_reaches_beyond_its_files(
    keys: dict[str, Any], path: str, lora: Callable[..., Path], mark: Path, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "vlmed_hostile.py").write_text(OWN.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    error = refused(lora(**keys))
    assert error.problems[0].path == path
    assert "vlmed_hostile" not in sys.modules


def test_the_class_that_an_adapter_names_is_not_imported(
    lora: Callable[..., Path], mark: Path, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "vlmed_hostile.py").write_text(OWN.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    folder = lora(auto_mapping={"base_model_class": "Model", "parent_library": "vlmed_hostile"})
    assert load_model(f"dir:{folder}").info.adapter
    assert "vlmed_hostile" not in sys.modules


def test_an_adapter_from_the_hub_names_no_folder_of_this_machine(hub, lora: Callable[..., Path], checkpoints) -> None:
    hub.add("org/lora", lora(base_model_name_or_path=str(checkpoints["clip"])))
    with pytest.raises(UsageError, match="names a folder as its base") as caught:
        load_model("org/lora")
    assert "--model" in str(caught.value)
    assert load_model(f"dir:{checkpoints['clip']}", adapter="org/lora").info.adapter


def test_an_adapter_beside_a_model_is_not_put_on_unasked(checkpoints, lora, change: Edit, images) -> None:
    both = change("clip")
    for file in lora(base_model_name_or_path="org/elsewhere").iterdir():
        shutil.copy(file, both / file.name)
    plain, beside = (load_model(f"dir:{folder}").predictor for folder in (checkpoints["clip"], both))
    pixels = plain.preprocess(images[0])[None]
    assert torch.equal(plain.encode_images(pixels), beside.encode_images(pixels))


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "NoSuchTokenizer"}),
        ("preprocessor_config.json", {"image_processor_type": "NoSuchProcessor"}),
        ("preprocessor_config.json", {"image_processor_type": "pipeline"}),
        ("preprocessor_config.json", {"image_processor_type": "../own"}),
    ],
)
def test_classes_that_nobody_knows(file: str, keys: dict[str, Any], change: Edit) -> None:
    folder = change("clip", file, **keys)
    (folder / "tokenizer.json").unlink() if "tokenizer_class" in keys else None
    try:
        load_model(f"dir:{folder}")
    except InputError as error:
        assert "preprocessing or tokenizer" in str(error)
    else:
        # transformers takes CLIP's own tokenizer where it doesn't know the one that is named.
        assert file == "tokenizer_config.json"


# Chat templates


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json", "processor_config.json"])
def test_a_chat_template_that_leaves_its_sandbox(place: str, change: Edit, mark: Path) -> None:
    escape = "{{ ''.__class__.__mro__[1].__subclasses__()[0].__init__.__globals__['os'].mkdir('MARK') }}"
    code = escape.replace("MARK", str(mark))
    folder = change("clip") if place.endswith("jinja") else change("clip", place, chat_template=code)
    if place.endswith("jinja"):
        (folder / place).write_text(code)
    error = refused(folder)
    assert "sandbox" in str(error)
    assert place in str(error)


def test_a_chat_template_that_fills_the_memory(change: Edit) -> None:
    code = "{% set s = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set s.x = s.x ~ s.x %}{% endfor %}"
    assert "exhausts the memory" in str(refused(change("clip", "tokenizer_config.json", chat_template=code)))


def test_a_chat_template_without_an_end(change: Edit, monkeypatch) -> None:
    monkeypatch.setattr("vlmed.models.chat_template._SECONDS", 1)
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    folder = change("clip", "tokenizer_config.json", chat_template=[{"name": "default", "template": loop}])
    assert "doesn't end" in str(refused(folder))


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.role }}{% generation %}x{% endgeneration %}{% endfor %}",
        "{% for m in messages %}{% if loop.first %}{% break %}{% endif %}{% endfor %}",
        "{{ raise_exception('only roles of my own') }}",
        "{{ messages[0]['content'] + 'x' }}",
        "{% broken",
    ],
)
def test_chat_templates_that_end_are_left_to_the_library(template: str, change: Edit) -> None:
    assert load_model(f"dir:{change('clip', 'tokenizer_config.json', chat_template=template)}").info.parameters


# Paths


@pytest.mark.parametrize(
    "shard", ["../outside.safetensors", "/tmp/outside.safetensors", "sub/x.safetensors", "gone.bin"]
)
def test_an_index_that_leaves_its_folder(shard: str, change: Edit, tmp_path: Path) -> None:
    folder = change("clip")
    weights = load_file(folder / "model.safetensors")
    save_file(weights, tmp_path / "outside.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    error = refused(folder)
    assert "$.weight_map" in str(error)
    assert repr(shard) in str(error)


def test_symlinks_out_of_the_folder(change: Edit, tmp_path: Path) -> None:
    folder = change("clip")
    for name in ("model.safetensors", "vocab.json"):
        (folder / name).rename(tmp_path / name)
        (tmp_path / f"{name}.next").symlink_to(tmp_path / name)
        (folder / name).symlink_to(tmp_path / f"{name}.next")
    error = refused(folder)
    assert [problem.what for problem in error.problems] == ["a symlink leaves the model's folder"] * 2
    assert str(tmp_path / "vocab.json") in str(error)


def test_a_symlink_in_a_circle_and_a_pipe_are_no_files(change: Edit) -> None:
    folder = change("clip")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("model.safetensors")
    assert "no weights" in str(refused(folder))
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    assert "no weights" in str(refused(folder))


def test_folders_in_the_folder_are_not_read(change: Edit, tmp_path: Path, mark: Path) -> None:
    folder, outside = change("clip"), tmp_path / "outside"
    outside.mkdir()
    (outside / "default.jinja").write_text("{{ ''.__class__ }}")
    (outside / "generate.py").write_text(OWN.format(mark=str(mark)))
    for name in ("additional_chat_templates", "custom_generate"):
        (folder / name).symlink_to(outside, target_is_directory=True)
    assert load_model(f"dir:{folder}").info.parameters


def test_the_folder_of_a_second_tokenizer_is_checked_like_the_rest(change: Edit, tmp_path: Path, mark: Path) -> None:
    folder, outside = change("clip"), tmp_path / "outside"
    outside.mkdir()
    (outside / "vocab.txt").write_text("secret")
    (folder / "qformer_tokenizer").symlink_to(outside, target_is_directory=True)
    assert [problem.what for problem in refused(folder).problems] == ["a symlink leaves the model's folder"]
    (folder / "qformer_tokenizer").unlink()
    (folder / "qformer_tokenizer").mkdir()
    own = folder / "qformer_tokenizer" / "tokenizer_config.json"
    own.write_text(json.dumps({"auto_map": {"AutoTokenizer": ["own.Own", None]}}))
    (folder / "qformer_tokenizer" / "own.py").write_text(OWN.format(mark=str(mark)))
    with pytest.raises(UsageError, match="Python code") as caught:
        load_model(f"dir:{folder}")
    assert "qformer_tokenizer/tokenizer_config.json: $.auto_map" in str(caught.value)
    os.truncate(own, 1 << 30)
    assert "too large" in str(refused(folder))


@pytest.mark.parametrize("key", ["vocab_file", "tokenizer_file"])
def test_a_tokenizer_reads_no_file_elsewhere(key: str, checkpoints, change: Edit, tmp_path: Path) -> None:
    shifted = json.loads((checkpoints["clip"] / "vocab.json").read_text())
    (tmp_path / "other.json").write_text(
        json.dumps({word: (code + 1) % len(shifted) for word, code in shifted.items()})
    )
    hostile = load_model(f"dir:{change('clip', 'tokenizer_config.json', **{key: str(tmp_path / 'other.json')})}")
    plain = load_model(f"dir:{checkpoints['clip']}")
    assert torch.equal(hostile.predictor.encode_texts(["ab"]), plain.predictor.encode_texts(["ab"]))


# Sizes


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("tokenizer.json", 20 << 30),
        ("vocab.json", 1 << 30),
        ("merges.txt", 1 << 30),
        ("config.json", 1 << 30),
        ("tokenizer_config.json", 1 << 30),
        ("chat_template.jinja", 1 << 30),
    ],
)
def test_a_file_of_gigabytes_is_refused_unread(name: str, size: int, change: Edit) -> None:
    folder = change("clip")
    with (folder / name).open("ab") as file:
        file.truncate(size)
    error = refused(folder)
    assert "too large" in str(error)
    assert f"{name}: " in str(error)
    assert f"{size:,}" in str(error)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"a": [' * 300 + "]}" * 300, '{"a": 1', "\xff"])
def test_configurations_that_break_parsers(text: str, change: Edit) -> None:
    folder = change("clip")
    (folder / "config.json").write_text(text, encoding="latin-1")
    assert "config.json" in str(refused(folder)) or "names no architecture" in str(refused(folder))


@pytest.mark.parametrize(
    ("name", "file", "at", "keys"),
    [
        ("clip", "config.json", "vision_config", {"hidden_size": 1_000_000, "intermediate_size": 1_000_000}),
        ("clip", "config.json", "text_config", {"vocab_size": 1_000_000_000}),
        ("clip", "config.json", "vision_config", {"num_hidden_layers": 1_000_000_000}),
        ("clip", "config.json", "vision_config", {"image_size": 1_000_000, "patch_size": 1}),
        ("clip", "config.json", "", {"num_labels": 1_000_000_000}),
        ("open_clip", "open_clip_config.json", "model_cfg.vision_cfg", {"width": 1_000_000, "layers": 1000}),
        ("open_clip", "open_clip_config.json", "model_cfg.vision_cfg", {"layers": 1_000_000_000}),
        ("open_clip", "open_clip_config.json", "model_cfg.text_cfg", {"context_length": 1_000_000}),
        ("timm", "config.json", "model_args", {"embed_dim": 1_000_000, "depth": 100}),
        ("timm", "config.json", "model_args", {"depth": 1_000_000_000}),
        ("timm", "config.json", "model_args", {"img_size": 1_000_000}),
    ],
)
def test_a_configuration_that_asks_for_terabytes(
    name: str, file: str, at: str, keys: dict[str, Any], change: Edit
) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = refused(change(name, file, at, **keys))
    assert "asks for" in str(error)
    # KiB on Linux. The free share is 400 MB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000


def test_an_adapter_of_a_terabyte(lora: Callable[..., Path]) -> None:
    assert "asks for" in str(refused(lora(r=1_000_000_000)))


def test_an_honest_model_stays_within_its_share(checkpoints) -> None:
    with Allowance(0, "a model") as allowance:
        factories.plain_model(checkpoints["clip"])
        torch.empty(2, 3), torch.zeros((4, 5)), torch.ones(size=(6,)), torch.full((7,), 0.0), torch.eye(3)
        torch.arange(10), torch.ones(2).new_zeros(11), torch.randn(torch.Size([2, 2]))
    plain = factories.plain_model(checkpoints["clip"])
    numbers = sum(parameter.numel() for parameter in plain.parameters())
    assert numbers < allowance._made < 3 * numbers


# Lying headers


def safetensors(path: Path, header: Any, data: bytes = b"\0" * 8, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def tensor(begin: int = 0, end: int = 8, dtype: str = "F32", shape: Any = (2,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


LIES = {
    "outside": {"a": tensor(0, 4096, shape=(1024,))},
    "negative": {"a": tensor(-8, 0)},
    "backwards": {"a": tensor(8, 0)},
    "overlapping": {"a": tensor(), "b": tensor()},
    "hole": {"a": tensor(4, 8, shape=(1,))},
    "left over": {"a": tensor(0, 4, shape=(1,))},
    "size": {"a": tensor(shape=(10**12,))},
    "dtype": {"a": tensor(dtype="OBJECT")},
    "shape": {"a": tensor(shape="(2,)")},
    "fraction": {"a": tensor(shape=[2.0])},
    "no tensor": {"a": [1]},
    "list": [1, 2],
    "not JSON": b"{",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_header(lie: str, change: Edit) -> None:
    folder = change("clip")
    safetensors(folder / "model.safetensors", LIES[lie])
    error = refused(folder)
    assert "header of the safetensors file is wrong" in str(error)
    assert "model.safetensors" in str(error)


@pytest.mark.parametrize("length", [10**9, 2**63, 9])
def test_a_header_that_is_longer_than_its_file(length: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be loaded"):
        read_header(safetensors(tmp_path / "x.safetensors", {}, b"", length))


def test_a_header_of_a_gigabyte(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "x.safetensors", {}, b"", 1 << 30)
    with path.open("ab") as file:
        file.truncate(2 << 30)
    with pytest.raises(InputError, match="no safetensors file"):
        read_header(path)


def test_headers_are_read_as_the_library_writes_them(checkpoints) -> None:
    for path in checkpoints["clip"].glob("*.safetensors"):
        weights = load_file(path)
        assert {name: entry.shape for name, entry in read_header(path).items()} == {
            name: tuple(tensor.shape) for name, tensor in weights.items()
        }
        assert {entry.dtype for entry in read_header(path).values()} == {"F32"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_numbers_are_a_warning_in_the_result(value: float, change: Edit) -> None:
    folder = change("clip")
    weights = load_file(folder / "model.safetensors")
    weights["text_projection.weight"][3, 4] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(f"dir:{folder}").info.warnings == ("weights hold NaN or infinity: text_projection.weight",)


# The network

TEXT = "model_cfg.text_cfg"


@pytest.mark.parametrize(
    ("name", "file", "at", "keys"),
    [
        ("timm", "config.json", "pretrained_cfg", {"url": "{hub}/evil.pth", "source": "url"}),
        ("timm", "config.json", "pretrained_cfg", {"hf_hub_id": "org/evil", "source": "hf-hub"}),
        ("timm", "config.json", "pretrained_cfg", {"custom_load": True}),
        ("open_clip", "open_clip_config.json", "model_cfg", {"pretrained": "{hub}/evil.pt"}),
        ("open_clip", "open_clip_config.json", "model_cfg.vision_cfg", {"timm_model_name": "hf-hub:org/evil"}),
        ("open_clip", "open_clip_config.json", TEXT, {"hf_model_name": "../evil"}),
        ("open_clip", "open_clip_config.json", TEXT, {"tokenizer_kwargs": {"trust_remote_code": True}}),
        ("open_clip", "open_clip_config.json", TEXT, {"tokenizer_kwargs": {"bpe_path": "/etc/hostname"}}),
        ("open_clip", "open_clip_config.json", TEXT, {"tokenizer_kwargs": {"reduction_mask": "syntax"}}),
    ],
)
def test_loading_a_folder_asks_no_server(
    name: str, file: str, at: str, keys: dict[str, Any], hub, change: Edit, mark: Path
) -> None:
    filled = {key: value.format(hub=hub.url) if isinstance(value, str) else value for key, value in keys.items()}
    try:
        load_model(f"dir:{change(name, file, at, **filled)}")
    except InputError as error:
        assert name.startswith("open_clip"), error
    assert not hub.requests


@pytest.mark.parametrize("name", ["clip", "siglip", "open_clip", "vit", "timm"])
def test_honest_folders_ask_no_server_either(name: str, hub, checkpoints) -> None:
    assert load_model(f"dir:{checkpoints[name]}").info.parameters
    assert not hub.requests


def test_nothing_connects_while_a_model_is_loaded(hub) -> None:
    from urllib.request import urlopen

    from huggingface_hub import HfApi

    with confined(), pytest.raises(InputError, match="wanted to connect") as caught:
        urlopen(f"{hub.url}/evil.pth")
    assert "127.0.0.1" in str(caught.value)
    with confined(), pytest.raises(OSError, match="offline"):
        HfApi().model_info("org/tiny")
    assert not hub.requests


def test_deep_configurations_are_walked_without_recursion(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": [' * 300 + '{"auto_map": {"x": "y"}}' + "]}" * 300)
    from vlmed.models.snapshot import code_requests

    assert read_config(tmp_path / "config.json")
    assert len(code_requests(tmp_path)) == 1


def test_two_threads_that_load_leave_the_process_as_it_was(checkpoints) -> None:
    import socket
    from concurrent.futures import ThreadPoolExecutor

    from huggingface_hub import constants

    before = socket.getaddrinfo, constants.HF_HUB_OFFLINE
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: load_model(f"dir:{checkpoints['clip']}"), range(6)))
    assert (socket.getaddrinfo, constants.HF_HUB_OFFLINE) == before


def test_every_line_of_the_security_model_names_a_test_that_exists() -> None:
    root = Path(__file__).parents[2]
    rows = [line for line in (root / "docs/security-model.md").read_text().splitlines() if line.startswith("| ")]
    claims = [row for row in rows if not row.startswith(("| what", "| ---"))]
    tests = "".join(path.read_text() for path in (root / "tests").rglob("test_*.py"))
    assert len(claims) > 20
    for claim in claims:
        named = re.findall(r"`(test_\w+)`", claim)
        assert named, claim
        assert not [name for name in named if f"def {name}(" not in tests], claim
