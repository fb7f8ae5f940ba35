from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlmed.errors import InputError, MissingError
from vlmed.files import new_file, read_bytes, read_json, write_json


def test_json_comes_back_as_it_went(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": "é"}
    write_json(tmp_path / "deep" / "x.json", value)
    assert read_json(tmp_path / "deep" / "x.json") == value
    assert (tmp_path / "deep" / "x.json").read_text("utf-8").startswith('{\n "a"')


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"{", "line 1 column 2"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1, "a": 2}', "'a' stands twice"),
        (b"\xff\xfe", "byte 0"),
        (b"[" * 200_000, "refused"),
        (b"[" * 70 + b"]" * 70, "64 levels"),
        (b'{"a": 1e999}', "too large"),
        (b"9007199254740992", "too large"),
        (b"-" + b"9" * 5000, "too large"),
        (b"", "not JSON"),
    ],
)
def test_bad_json_is_refused_with_its_place(tmp_path: Path, text: bytes, says: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text)
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert says in str(caught.value)
    assert "bad.json" in str(caught.value)


def test_what_is_just_within_the_limits_is_read(tmp_path: Path) -> None:
    path = tmp_path / "edge.json"
    path.write_bytes(b"[" * 64 + b"9007199254740991" + b"]" * 64)
    assert "9007199254740991" in str(read_json(path))


def test_a_million_keys_of_which_one_stands_twice_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("{" + ",".join(f'"{number}": 0' for number in [*range(300_000), 7]) + "}")
    with pytest.raises(InputError, match="'7' stands twice"):
        read_json(path)


def test_a_pipe_a_folder_a_device_and_a_sparse_giant_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with (tmp_path / "giant").open("wb") as file:
        file.truncate(10 * 2**30)
    for path, says in (("pipe", "no file"), ("folder", "no file"), ("/dev/zero", "no file"), ("giant", "too long")):
        with pytest.raises(InputError, match=says):
            read_bytes(tmp_path / path, 1000)


def test_a_link_is_read_only_where_links_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_bytes(tmp_path / "link", 1) == b"x"
    with pytest.raises(InputError, match="link is no evidence"):
        read_bytes(tmp_path / "link", 1, links=False)


def test_a_file_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bytes(tmp_path / "file", 5) == b"12345"
    with pytest.raises(InputError, match="at most 4 bytes"):
        read_bytes(tmp_path / "file", 4)


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no such file"):
        read_json(tmp_path / "none.json")


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": math.nan})
    assert list(tmp_path.iterdir()) == []


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")

    def write() -> None:
        with new_file(path) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_named_and_leaves_the_old_file(tmp_path: Path) -> None:
    """A file size limit makes the kernel refuse the write, as a full disk does."""
    code = """
import resource, signal, sys
from pathlib import Path
from vlmed.files import write_text
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_text(Path(sys.argv[1]), "x" * 5000)
"""
    path = tmp_path / "x.txt"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert "the disk is full" in done.stderr
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
