"""`vlmed data`: found, missing, damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Vlmed, files, room


def test_prepare_and_verify(vlmed: Vlmed, phantom_suite: Path, cache: Path) -> None:
    prepared = vlmed("data", "prepare", "lesion", "--suite", phantom_suite)
    assert prepared.code == 0
    folder = Path(prepared.out.splitlines()[-1])
    assert folder.is_relative_to(cache)
    assert (folder / "records.arrow").exists()
    before = files(cache)
    verified = vlmed("data", "verify", "lesion", "--suite", phantom_suite)
    assert verified.code == 0
    assert "80 samples" in verified.out
    assert files(cache) == before


def test_where_names_every_place(vlmed: Vlmed, tmp_path: Path) -> None:
    said = vlmed("data", "where", "chexpert", "--data-root", tmp_path)
    assert said.code == 0
    assert f"not in: {tmp_path / 'chexpert'}" in said.out
    assert "agreement" in said.out
    (tmp_path / "chexpert").mkdir()
    assert f"found: {tmp_path / 'chexpert'}" in vlmed("data", "where", "chexpert", "--data-root", tmp_path).out


@pytest.mark.parametrize("place", ["breastmnist/breastmnist.npz", "breastmnist.npz"])
def test_where_finds_what_a_run_would_read(vlmed: Vlmed, tmp_path: Path, place: str) -> None:
    (tmp_path / "breastmnist").mkdir()
    assert "found:" not in vlmed("data", "where", "breastmnist", "--data-root", tmp_path).out
    (tmp_path / place).write_bytes(b"")
    assert f"found: {tmp_path / place}" in vlmed("data", "where", "breastmnist", "--data-root", tmp_path).out


def test_the_phantom_is_nowhere(vlmed: Vlmed) -> None:
    assert "nothing to download" in vlmed("data", "where", "phantom_lesion").out


@pytest.mark.parametrize("command", ["where", "prepare", "verify"])
def test_a_data_root_that_is_no_folder(vlmed: Vlmed, tmp_path: Path, command: str) -> None:
    said = vlmed("data", command, "breastmnist", "--data-root", tmp_path / "none")
    assert said.code == 2
    assert "--data-root names no folder" in said.err
    assert str(tmp_path / "none") in said.err


@pytest.mark.parametrize("command", ["where", "prepare", "verify", "freeze"])
def test_an_unknown_task_names_the_nearest(vlmed: Vlmed, command: str, cache: Path) -> None:
    said = vlmed("data", command, "brestmnist")
    assert said.code == 2
    assert "'breastmnist'" in said.err
    assert not cache.exists()


@pytest.mark.parametrize("command", ["prepare", "verify"])
def test_missing_data_say_what_where_and_which_licence(vlmed: Vlmed, tmp_path: Path, cache: Path, command: str) -> None:
    said = vlmed("data", command, "chexpert", "--data-root", tmp_path)
    assert said.code == 3
    assert str(tmp_path / "chexpert" / "train.csv") in said.err
    assert "https://stanfordaimi.azurewebsites.net" in said.err
    assert "research use agreement" in said.err
    assert not cache.exists()


@pytest.mark.parametrize("command", ["prepare", "verify"])
def test_one_wrong_byte_is_refused(vlmed: Vlmed, shared_data: Path, tmp_path: Path, cache: Path, command: str) -> None:
    content = bytearray((shared_data / "breastmnist" / "breastmnist.npz").read_bytes())
    content[len(content) // 2] ^= 1
    changed = tmp_path / "breastmnist.npz"
    changed.write_bytes(content)
    said = vlmed("data", command, "breastmnist", "--data-root", tmp_path)
    assert said.code == 2
    assert str(changed) in said.err
    assert "expected: 750601b1f35ba3300ea97c75c52ff8f6" in said.err
    assert "got: " in said.err
    assert changed.read_bytes() == content
    assert not cache.exists()


def test_a_changed_pixel_is_found(vlmed: Vlmed, phantom_suite: Path, cache: Path) -> None:
    """Two images change places: both files are whole, and neither image is the one its hash names."""
    import pyarrow as pa

    vlmed("data", "prepare", "lesion", "--suite", phantom_suite)
    (shard,) = cache.rglob("images-*.arrow")
    table = pa.ipc.open_file(pa.BufferReader(shard.read_bytes())).read_all()
    swapped = table["bytes"].to_pylist()
    swapped[0], swapped[1] = swapped[1], swapped[0]
    with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.set_column(2, table.schema.field(2), pa.array(swapped, pa.large_binary())))
    said = vlmed("data", "verify", "lesion", "--suite", phantom_suite)
    assert said.code == 1
    assert said.err.count("a prepared image has changed") == 2


def test_a_full_disk_leaves_no_half_prepared_data(vlmed: Vlmed, phantom_suite: Path, cache: Path) -> None:
    with room(20_000):
        said = vlmed("data", "prepare", "lesion", "--suite", phantom_suite)
    assert said.code == 2
    assert "the disk is full" in said.err
    assert "run the same command again" in said.err
    assert files(cache) == {}
    assert vlmed("data", "prepare", "lesion", "--suite", phantom_suite).code == 0
