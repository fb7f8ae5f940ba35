from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from vlmed.errors import InputError, MissingError
from vlmed.files import new_file, read_json, write_json


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
