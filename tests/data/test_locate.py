import hashlib
import os
from pathlib import Path

import pytest

from vlmed.data.locate import data_roots, dataset_folder, find_dataset, holder
from vlmed.errors import MissingError, UsageError
from vlmed.files import cache_root


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    for name in ("VLMED_DATA", "VLMED_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("cli", "one", "two"):
        (tmp_path / name).mkdir()


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    assert cache_root() == tmp_path / "home" / ".cache" / "vlmed"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "vlmed"
    monkeypatch.setenv("VLMED_CACHE", "~/mine")
    assert cache_root() == tmp_path / "home" / "mine"


def test_roots_come_in_order_of_closeness_to_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("VLMED_DATA", os.pathsep.join([str(tmp_path / "one"), "", str(tmp_path / "two")]))
    cache = tmp_path / "home" / ".cache" / "vlmed" / "data"
    assert data_roots(tmp_path / "cli") == [tmp_path / "cli", tmp_path / "one", tmp_path / "two", cache]
    monkeypatch.setenv("VLMED_DATA", "")
    assert data_roots() == [cache]


def test_roots_that_are_no_folders_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="--data-root"):
        data_roots(tmp_path / "no")
    monkeypatch.setenv("VLMED_DATA", str(tmp_path / "no"))
    with pytest.raises(UsageError, match="VLMED_DATA"):
        data_roots()


def test_the_first_root_that_has_the_folder_wins(tmp_path):
    roots = [tmp_path / "one", tmp_path / "two"]
    assert find_dataset("slake", roots) is None
    (tmp_path / "two" / "slake").mkdir()
    assert find_dataset("slake", roots) == tmp_path / "two" / "slake"
    (tmp_path / "one" / "slake").mkdir()
    assert find_dataset("slake", roots) == tmp_path / "one" / "slake"


def test_a_restricted_data_set_that_is_nowhere_gets_the_first_place(tmp_path):
    assert dataset_folder("chexpert", {}, tmp_path / "cli") == tmp_path / "cli" / "chexpert"


OPTIONS = {"file": "a.npz", "url": "http://127.0.0.1:9/a.npz", "md5": hashlib.md5(b"a").hexdigest()}


@pytest.mark.parametrize("place", ["cli/a", "cli", "home/.cache/vlmed/data/a"])
def test_an_open_file_is_found_in_its_folder_or_beside_or_in_the_cache(tmp_path, place):
    (tmp_path / "cli" / "a").mkdir()  # a folder without the file is passed over
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.npz").write_bytes(b"a")
    assert dataset_folder("a", OPTIONS, tmp_path / "cli") == folder


def test_an_open_file_that_is_nowhere_is_downloaded_into_the_cache(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("vlmed.data.locate.fetch", lambda *args: asked.append(args))
    cache = tmp_path / "home" / ".cache" / "vlmed" / "data" / "a"
    assert dataset_folder("a", OPTIONS, tmp_path / "cli") == cache
    assert asked == [(OPTIONS["url"], cache / "a.npz", f"md5:{OPTIONS['md5']}")]


def test_without_network_the_download_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(MissingError, match=r"put it at .*/a/a\.npz"):
        dataset_folder("a", OPTIONS)


def test_the_holder_is_the_folder_or_one_inside_it(tmp_path):
    assert holder(tmp_path, "valid.csv") == tmp_path
    assert holder(tmp_path / "no", "valid.csv") == tmp_path / "no"
    (tmp_path / "one" / "valid.csv").write_text("")
    assert holder(tmp_path, "valid.csv") == tmp_path / "one"
    Path(tmp_path / "valid.csv").write_text("")
    assert holder(tmp_path, "valid.csv") == tmp_path
