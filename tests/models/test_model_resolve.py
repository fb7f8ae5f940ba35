import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import factories
from hub_server import Fault
from vlmed.errors import InputError, MissingError, UsageError
from vlmed.models.load import load_model
from vlmed.models.reference import parse_reference
from vlmed.models.resolve import Resolved, download, resolve


def find(text: str) -> Resolved:
    return resolve(parse_reference(text))


@pytest.fixture
def copy(checkpoints, tmp_path: Path) -> Path:
    """A CLIP folder that a test may change."""
    return Path(shutil.copytree(checkpoints["clip"], tmp_path / "model"))


# Folders


def test_a_folder_is_known_by_its_content(copy: Path, tmp_path: Path) -> None:
    first = find(f"dir:{copy}")
    moved = find(f"dir:{copy.rename(tmp_path / 'elsewhere')}")
    assert first.revision == moved.revision
    assert first.revision.startswith("sha256:")
    assert len(first.revision) == 71


def test_only_files_that_matter_enter_the_revision(copy: Path) -> None:
    before = find(f"dir:{copy}").revision
    (copy / "README.md").write_text("about")
    (copy / "tf_model.h5").write_bytes(b"other weights")
    (copy / "checkpoints").mkdir()
    (copy / "checkpoints" / "config.json").write_text("{}")
    assert find(f"dir:{copy}").revision == before
    (copy / "vocab.json").write_text("{}")
    assert find(f"dir:{copy}").revision != before


def test_a_folder_can_be_pinned(copy: Path) -> None:
    revision = find(f"dir:{copy}").revision
    assert find(f"dir:{copy}@{revision}").path == copy
    with (copy / "config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(UsageError, match="not the revision asked for") as caught:
        find(f"dir:{copy}@{revision}")
    assert revision in str(caught.value)


def test_a_symlink_out_of_the_folder_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "vocab.json").rename(tmp_path / "outside.json")
    (copy / "vocab.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(InputError, match="symlink leaves") as caught:
        find(f"dir:{copy}")
    assert str(tmp_path / "outside.json") in str(caught.value)


def test_a_symlink_inside_the_folder_is_fine(copy: Path) -> None:
    before = find(f"dir:{copy}").revision
    (copy / "vocab.json").rename(copy / "words.data")
    (copy / "vocab.json").symlink_to("words.data")
    assert find(f"dir:{copy}").revision == before


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist") as caught:
        find(f"dir:{tmp_path / 'nothing'}")
    assert caught.value.exit_code == 2


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match="no model here") as caught:
        find(f"dir:{tmp_path}")
    assert "notes.txt" in str(caught.value)


def test_a_folder_without_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no weights") as caught:
        find(f"dir:{copy}")
    assert "model.safetensors" in str(caught.value)


def test_endpoints_and_controls_have_no_files() -> None:
    with pytest.raises(UsageError, match="no files"):
        find("control:random")


# The Hub


def test_branch_tag_and_commit_pin_the_same_commit(hub, checkpoints) -> None:
    commit = hub.add("org/tiny", checkpoints["clip"], tag="v1")
    assert len(commit) == 40
    for text in ("org/tiny", "org/tiny@main", "org/tiny@v1", f"org/tiny@{commit}"):
        assert find(text).revision == commit


def test_a_data_set_repository_is_not_the_model_of_its_name(hub, checkpoints) -> None:
    model = hub.add("org/tiny", checkpoints["clip"], tag="v1")
    data = hub.add("datasets/org/tiny", checkpoints["vit"], tag="v1", more={"train.csv": b"a data set"})
    online = find("datasets/org/tiny@v1")
    assert (online.revision, str(online.reference)) == (data, "hf:datasets/org/tiny@v1")
    assert not (online.path / "train.csv").exists()
    assert find("org/tiny@v1").revision == model
    hub.stop()
    assert find("datasets/org/tiny@v1") == online
    assert find("org/tiny@v1").revision == model


def test_a_data_set_repository_that_does_not_exist(hub, checkpoints) -> None:
    hub.add("org/tiny", checkpoints["clip"])
    with pytest.raises(UsageError, match="'datasets/org/tiny' does not exist"):
        find("datasets/org/tiny")


def test_revisions_are_told_apart(hub, checkpoints, copy: Path) -> None:
    old = hub.add("org/tiny", checkpoints["clip"], tag="old")
    with (copy / "config.json").open("a") as file:
        file.write("\n")
    new = hub.add("org/tiny", copy)
    assert find("org/tiny").revision == new != old
    assert find("org/tiny@old").revision == old
    assert (find("org/tiny@old").path / "config.json").read_bytes() == (
        checkpoints["clip"] / "config.json"
    ).read_bytes()


def test_only_needed_files_are_downloaded_and_only_once(hub, copy: Path) -> None:
    for name in ("README.md", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "onnx/model.safetensors"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_bytes(b"not needed")
    hub.add("org/tiny", copy)
    path = find("org/tiny").path
    expected = {"config.json", "merges.txt", "model.safetensors", "preprocessor_config.json", "tokenizer.json"}
    expected |= {"tokenizer_config.json", "vocab.json"}
    assert hub.downloaded() == expected == {file.name for file in path.iterdir()}
    hub.requests.clear()
    find("org/tiny")
    assert hub.downloaded() == set()


def test_one_layout_of_weights_is_chosen(hub, checkpoints, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoints["open_clip"], tmp_path / "both"))
    for name in ("model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin"):
        (folder / name).write_bytes(b"the same model in another layout")
    hub.add("org/both", folder)
    find("org/both")
    assert hub.downloaded() == {"open_clip_config.json", "open_clip_model.safetensors"}


def test_sharded_weights_come_with_all_shards(hub, copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    (copy / "model-00002-of-00002.safetensors").write_bytes(b"second")
    (copy / "model.safetensors.index.json").write_text("{}")
    (copy / "model-of-someone.safetensors").write_bytes(b"no shard")
    hub.add("org/sharded", copy)
    weights = {name for name in (path.name for path in find("org/sharded").path.iterdir()) if "model" in name}
    assert weights == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    }


def test_the_cache_serves_without_a_network(hub, checkpoints) -> None:
    commit = hub.add("org/tiny", checkpoints["clip"])
    online = find("org/tiny")
    hub.stop()
    assert find("org/tiny") == online
    assert find(f"org/tiny@{commit}").path == online.path


def test_no_network_and_no_cache(hub) -> None:
    hub.stop()
    with pytest.raises(MissingError, match="can't be reached") as caught:
        find("org/tiny@v1")
    assert caught.value.exit_code == 3
    assert "org/tiny at v1" in str(caught.value)
    assert "dir:PATH" in str(caught.value)


def test_a_model_that_does_not_exist(hub) -> None:
    with pytest.raises(UsageError, match="'org/nothing' does not exist") as caught:
        find("org/nothing")
    assert caught.value.exit_code == 2


def test_a_revision_that_does_not_exist(hub, checkpoints) -> None:
    hub.add("org/tiny", checkpoints["clip"])
    with pytest.raises(UsageError, match="no revision 'v9'") as caught:
        find("org/tiny@v9")
    assert caught.value.exit_code == 2


def test_a_gated_model_needs_a_token(hub, checkpoints, monkeypatch) -> None:
    hub.add("org/gated", checkpoints["clip"], gated=True)
    with pytest.raises(MissingError, match="gated") as caught:
        find("org/gated")
    assert caught.value.exit_code == 3
    assert "HF_TOKEN" in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert find("org/gated").revision


def test_a_name_the_hub_cannot_have(hub) -> None:
    with pytest.raises(UsageError, match="no name for a repository"):
        find("org/double--dash")


def test_a_repository_without_a_model(hub, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("")
    hub.add("org/data", tmp_path)
    with pytest.raises(InputError, match="no model here"):
        find("org/data")


def test_the_library_s_environment_variables_are_respected(hub, checkpoints, tmp_path: Path) -> None:
    commit = hub.add("org/tiny", checkpoints["clip"])
    code = "from vlmed.models.resolve import *; from vlmed.models.reference import *; "
    code += "print(resolve(parse_reference('org/tiny')).path)"
    environment = {**os.environ, **hub.environment(tmp_path / "home")}
    run = [sys.executable, "-c", code]
    online = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout
    assert online.strip() == str(tmp_path / "home/hub/models--org--tiny/snapshots" / commit)
    hub.requests.clear()
    offline = subprocess.run(
        run, env={**environment, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=True
    ).stdout
    assert offline == online
    assert not hub.requests


# A Hub that moves, fails, dawdles or is not to be trusted


def test_a_push_between_look_up_and_download_changes_nothing(hub, checkpoints, copy: Path) -> None:
    old = hub.add("org/tiny", checkpoints["clip"])
    (copy / "config.json").write_text("{}")
    pushes = iter([lambda: hub.add("org/tiny", copy)])
    hub.after_information = lambda: next(pushes, lambda: None)()
    found = find("org/tiny")
    assert hub.repositories["org/tiny"].refs["main"] != old
    assert found.revision == old
    assert (found.path / "config.json").read_bytes() == (checkpoints["clip"] / "config.json").read_bytes()
    hub.stop()
    assert find("org/tiny") == found


def test_a_failed_download_never_becomes_an_older_revision(hub, checkpoints, copy: Path) -> None:
    hub.add("org/tiny", checkpoints["clip"])
    find("org/tiny")
    (copy / "config.json").write_text('{"a": 1}')
    new = hub.add("org/tiny", copy)
    hub.faults += [Fault(".* /org/tiny/resolve/.*", 403, times=99)]
    with pytest.raises(MissingError, match="HTTP 403") as caught:
        find("org/tiny")
    assert new in str(caught.value)
    assert "permissions" in str(caught.value)


def test_a_busy_hub_is_asked_again_when_it_says(hub, checkpoints, monkeypatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("vlmed.models.resolve.time.sleep", waited.append)
    commit = hub.add("org/tiny", checkpoints["clip"])
    information = "GET /api/models/org/tiny(/revision/main)?"
    hub.faults += [Fault(information, 429, headers={"Retry-After": "7"}), Fault(information, 503, times=2)]
    assert find("org/tiny").revision == commit
    assert [seconds for seconds in waited if seconds] == [7.0, 2.0, 4.0]


def test_a_hub_that_stays_busy_is_told_apart_from_no_network(hub, checkpoints, monkeypatch) -> None:
    monkeypatch.setattr("vlmed.models.resolve.time.sleep", lambda _: None)
    hub.add("org/tiny", checkpoints["clip"])
    for status, headers, asked in ((429, {"Retry-After": "3600"}, 1), (500, {}, 5), (403, {}, 1)):
        hub.faults = [Fault("GET /api/models/.*", status, times=99, headers=headers)]
        hub.requests.clear()
        with pytest.raises(MissingError, match=f"HTTP {status}"):
            find("org/tiny")
        assert len(hub.requests) == asked


def test_a_download_that_breaks_off_goes_on_where_it_ended(hub, checkpoints, monkeypatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.add("org/tiny", checkpoints["clip"])
    hub.faults += [Fault("GET /lfs/.*/model.safetensors", cut=20_000)]
    path = find("org/tiny").path
    assert (path / "model.safetensors").read_bytes() == (checkpoints["clip"] / "model.safetensors").read_bytes()
    assert sum(request.startswith("GET /lfs/") for request in hub.requests) == 2
    assert hub.ranges == ["bytes=20000-"]


def test_a_slow_download_arrives(hub, checkpoints) -> None:
    hub.add("org/tiny", checkpoints["clip"])
    hub.faults += [Fault("GET /org/tiny/resolve/.*/tokenizer.json", pause=0.02)]
    assert (find("org/tiny").path / "tokenizer.json").stat().st_size > 2000


def test_a_token_goes_to_the_hub_alone(hub, checkpoints, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.add("org/gated", checkpoints["clip"], gated=True)
    find("org/gated")
    assert {host for host, header in hub.authorizations if header} == {"127.0.0.1"}
    assert ("localhost", "") in hub.authorizations


def test_paths_that_leave_the_repository_are_never_asked_for(hub, checkpoints, tmp_path: Path) -> None:
    evil = {"../../evil.json": b"{}", "/tmp/evil.txt": b"", "..\\evil.json": b"{}", "onnx/config.json": b"{}"}
    hub.add("org/tiny", checkpoints["clip"], more=evil)
    path = find("org/tiny").path
    assert not any("evil" in name or "onnx" in name for name in hub.downloaded())
    assert {file.name for file in path.iterdir()} == {file.name for file in checkpoints["clip"].iterdir()}
    assert not [file for file in tmp_path.rglob("*evil*") if "hub-cache" not in file.name]


def test_a_file_too_large_for_its_name_is_not_downloaded(hub, checkpoints) -> None:
    hub.add("org/large", checkpoints["clip"], more={"chat_template.jinja": b" " * (2 << 20)})
    with pytest.raises(InputError, match="too large") as caught:
        find("org/large")
    assert "org/large: chat_template.jinja" in str(caught.value)
    assert "2,097,152" in str(caught.value)
    assert hub.downloaded() == set()


def test_no_progress_bar_where_nobody_sees_it(hub, checkpoints, capfd) -> None:
    hub.add("org/tiny", checkpoints["clip"])
    find("org/tiny")
    assert capfd.readouterr() == ("", "")


def test_companions_are_pinned_and_cached_too(hub, checkpoints, copy: Path) -> None:
    old = hub.add("org/tokenizer", checkpoints["clip"])
    pushes = iter([lambda: hub.add("org/tokenizer", copy, more={"vocab.json": b"{}"})])
    hub.after_information = lambda: next(pushes, lambda: None)()
    path = download("org/tokenizer", ["vocab.json", "merges.txt", "absent.txt"])
    assert path.name == old
    assert hub.downloaded() == {"vocab.json", "merges.txt"}
    hub.stop()
    assert download("org/tokenizer", ["vocab.json", "merges.txt"]) == path


def test_a_file_that_changes_after_it_was_hashed_is_noticed(copy: Path) -> None:
    found = find(f"dir:{copy}")
    found.check_unchanged()
    (copy / "vocab.json").write_text("{}")
    (copy / "merges.txt").unlink()
    with pytest.raises(InputError, match="changed while") as caught:
        found.check_unchanged()
    assert "merges.txt, vocab.json" in str(caught.value)


# open_clip's own names


def test_an_architecture_and_tag_is_a_repository(hub, checkpoints) -> None:
    commit = hub.add("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", checkpoints["open_clip"])
    assert find("open_clip:ViT-B-32/laion2b_s34b_b79k").revision == commit


def test_an_unknown_tag_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="laion2b_s34b_b79k"):
        find("open_clip:ViT-B-32/laion2b_s34b_b97k")


def test_open_clip_refuses_another_layout(hub, checkpoints) -> None:
    hub.add("org/tiny", checkpoints["clip"])
    with pytest.raises(InputError, match="not an open_clip model") as caught:
        find("open_clip:org/tiny")
    assert "hf:org/tiny" in str(caught.value)


# All of it, through the server


def test_models_and_adapters_load_by_id_and_revision(hub, checkpoints, images, tmp_path: Path) -> None:
    for name in ("open_clip", "clip", "timm"):
        commit = hub.add(f"org/{name}", checkpoints[name], tag="v1")
        loaded, local = load_model(f"org/{name}@v1"), load_model(f"dir:{checkpoints[name]}")
        assert (loaded.info.revision, loaded.info.ref) == (commit, f"org/{name}@v1")
        pixels = loaded.predictor.preprocess(images[0])[None]
        assert torch.equal(loaded.predictor.encode_images(pixels), local.predictor.encode_images(pixels))
    base = hub.repositories["org/clip"].refs["v1"]
    adapter = factories.lora(
        tmp_path / "lora", checkpoints["clip"], targets=["q_proj"], base_ref="org/clip", base_revision="v1"
    )
    commit = hub.add("org/lora", adapter)
    alone, both = load_model("org/lora"), load_model(f"org/clip@{base}", adapter="org/lora@main")
    assert alone.info.revision == both.info.revision == base
    assert alone.info.ref == "hf:org/clip@v1"
    assert alone.info.adapter.revision == both.info.adapter.revision == commit
    assert not both.info.warnings
