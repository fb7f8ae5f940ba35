"""Files of other repositories: where they are looked for, and what is said where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlmed.errors import MissingError, UsageError
from vlmed.models.companion import Companion, model_files

TOKENIZER = Companion("org/tokenizer", ("vocab.txt", "tokenizer.json"))
TOWER = Companion("org/tower", ("model.safetensors",), apart=True)


def put(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def found(path: Path, *companions: Companion) -> tuple[dict[str, Path], tuple[str, ...]]:
    files = model_files(path, companions, trust_remote_code=False, device="cpu")
    return dict(files.companions), files.revisions


def test_a_folder_beside_comes_first_then_the_checkpoint_then_the_hub(hub, tmp_path: Path) -> None:
    commit = hub.add("org/tokenizer", put(tmp_path / "hub", vocab_txt="far", other_txt=""))
    checkpoint = put(tmp_path / "model")
    folders, revisions = found(checkpoint, TOKENIZER)
    assert (folders["org/tokenizer"] / "vocab.txt").read_text() == "far"
    assert revisions == (f"org/tokenizer@{commit}",)
    assert hub.downloaded() == {"vocab.txt"}
    put(checkpoint, tokenizer_json="own")
    folders, (own,) = found(checkpoint, TOKENIZER)
    assert folders == {"org/tokenizer": checkpoint}
    put(checkpoint / "tokenizer", vocab_txt="near")
    folders, (beside,) = found(checkpoint, TOKENIZER)
    assert folders == {"org/tokenizer": checkpoint / "tokenizer"}
    assert own.startswith("org/tokenizer@sha256:")
    assert beside.startswith("org/tokenizer@sha256:")
    assert own != beside


def test_what_lies_apart_is_never_looked_for_among_the_checkpoint_s_files(hub, tmp_path: Path) -> None:
    commit = hub.add("org/tower", put(tmp_path / "hub", model_safetensors="tower"))
    checkpoint = put(tmp_path / "model", model_safetensors="language")
    assert found(checkpoint, TOWER)[1] == (f"org/tower@{commit}",)
    put(checkpoint / "tower", model_safetensors="mine")
    assert found(checkpoint, TOWER)[0] == {"org/tower": checkpoint / "tower"}


def test_a_repository_with_none_of_the_files(hub, tmp_path: Path) -> None:
    hub.add("org/tokenizer", put(tmp_path / "hub", readme_md="moved"))
    with pytest.raises(MissingError, match="has none of them") as caught:
        found(put(tmp_path / "model"), TOKENIZER)
    assert "vocab.txt" in str(caught.value)
    assert "a folder tokenizer" in str(caught.value)


def test_without_a_network_the_folder_beside_is_named(hub, tmp_path: Path) -> None:
    hub.stop()
    with pytest.raises(MissingError, match="can't be reached") as caught:
        found(put(tmp_path / "model"), TOKENIZER)
    assert "put files of org/tokenizer into a folder tokenizer beside" in str(caught.value)


def test_a_repository_that_does_not_exist(hub, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'org/tokenizer' does not exist"):
        found(put(tmp_path / "model"), TOKENIZER)
