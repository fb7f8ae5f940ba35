"""A feature file under way: one writer at a time, gone on with where a dead one left it."""

from __future__ import annotations

import errno
import fcntl
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from vlmed.errors import VlmedError
from vlmed.evaluate.part import part_of

SHAPE = (10, 3)
ROWS = np.arange(30, dtype=np.float32).reshape(SHAPE)
# Writes four rows, says so, and waits to be killed.
DYING = """
import sys, time
from pathlib import Path
import numpy as np
from vlmed.evaluate.part import part_of
with part_of(Path(sys.argv[1]), (10, 3), 2) as part:
    part.write(np.arange(12, dtype=np.float32).reshape(4, 3))
    print("written", flush=True)
    time.sleep(60)
"""


def finish(path: Path, block: int = 2) -> int | None:
    """Write what is missing; the rows that were there, or None where all was done."""
    with part_of(path, SHAPE, block) as part:
        if part is None:
            return None
        part.write(ROWS[part.done :])
        return part.done


def died(path: Path, rows: int, block: int = 2) -> None:
    """Leave behind what a run that stopped after some rows leaves behind."""
    with pytest.raises(KeyboardInterrupt), part_of(path, SHAPE, block) as part:
        assert part is not None
        part.write(ROWS[:rows])
        raise KeyboardInterrupt


def test_a_new_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "features.npy"
    assert finish(path) == 0
    np.testing.assert_array_equal(np.load(path), ROWS)
    assert [file.name for file in path.parent.iterdir()] == ["features.npy"]


@pytest.mark.parametrize(
    ("rows", "block", "kept"), [(0, 2, 0), (1, 2, 0), (4, 2, 4), (5, 2, 4), (9, 4, 8), (10, 4, 10)]
)
def test_whole_blocks_are_kept(tmp_path: Path, rows: int, block: int, kept: int) -> None:
    path = tmp_path / "features.npy"
    died(path, rows, block)
    assert not path.exists()
    assert finish(path, block) == kept
    np.testing.assert_array_equal(np.load(path), ROWS)


@pytest.mark.parametrize("left", [b"", b"\x93NUMPY", b"x" * 40, b"x" * 1000])
def test_whatever_stands_there_never_makes_a_wrong_length(tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "features.npy"
    path.with_suffix(".part.npy").write_bytes(left)
    finish(path)
    assert np.load(path).shape == SHAPE


def test_a_second_writer_waits_and_takes_the_firsts_work(tmp_path: Path) -> None:
    path, done = tmp_path / "features.npy", []
    with part_of(path, SHAPE, 2) as part:
        second = threading.Thread(target=lambda: done.append(finish(path)))
        second.start()
        second.join(0.3)
        assert second.is_alive(), "two wrote one file at once"
        assert part is not None
        part.write(ROWS)
    second.join(10)
    assert done == [None]
    np.testing.assert_array_equal(np.load(path), ROWS)
    assert [file.name for file in tmp_path.iterdir()] == ["features.npy"]


def test_a_second_writer_goes_on_where_a_killed_first_one_ended(tmp_path: Path) -> None:
    path, done = tmp_path / "features.npy", []
    first = subprocess.Popen([sys.executable, "-c", DYING, str(path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "written\n"
    second = threading.Thread(target=lambda: done.append(finish(path)))
    second.start()
    time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    second.join(10)
    assert done == [4]
    np.testing.assert_array_equal(np.load(path), ROWS)


def test_a_file_system_without_locks_still_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    path = tmp_path / "features.npy"
    with part_of(path, SHAPE, 2) as one, part_of(path, SHAPE, 2) as two:
        assert one is not None
        assert two is not None
        one.write(ROWS[:4])
        two.write(ROWS)
        one.write(ROWS[4:])
    np.testing.assert_array_equal(np.load(path), ROWS)
    assert [file.name for file in tmp_path.iterdir()] == ["features.npy"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VlmedError, match="VLMED_CACHE"), part_of(tmp_path / "file" / "x.npy", SHAPE, 2):
        pass
