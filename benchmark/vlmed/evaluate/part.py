"""A file that grows row by row, is gone on with where a killed run left it, and that one process writes at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlmed.errors import VlmedError

_ITEM = 4
_RANGE = re.compile(r"\.(\d+)-(\d+)\.npy$")
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


@dataclass(frozen=True)
class Part:
    """A npy file of float32 under way.

    Rows are written and not mapped: on a full disk a write fails, where touching a map would kill the process.

    Attributes:
        done: Rows that an earlier run left behind.
    """

    file: FileIO
    done: int

    def write(self, rows: NDArray[np.float32]) -> None:
        """Add the next rows (n, D)."""
        left = memoryview(rows.astype("<f4").tobytes())
        while left:
            left = left[self.file.write(left) :]


@contextmanager
def part_of(path: Path, shape: tuple[int, int], block: int) -> Iterator[Part | None]:
    """What becomes the npy file `path` when the block ends well; None where another process just made it.

    Waits while another process writes the same file, and goes on with it if that one dies: the system drops the lock
    of a process that ends, however it ends.

    Args:
        shape: Of the whole array.
        block: Rows are kept in blocks of so many; what comes after the last whole block is made again.

    Raises:
        VlmedError: The disk is full or the folder can't be written; what was written is kept.
    """
    try:
        with _alone(path) as (file, name):
            if path.exists():
                name.unlink()
                yield None
            else:
                yield _started(file, shape, block)
                name.replace(path)
    except OSError as error:
        hint = "make room, or set VLMED_CACHE to a folder on another disk, and run again: finished work is kept"
        got = error.strerror or str(error)
        raise VlmedError("the features can't be written", file=path, got=got, hint=hint) from error


def range_file(path: Path, start: int, stop: int) -> Path:
    """Where rows `start` to `stop` of the npy file `path` lie that were made before the whole, each range a file."""
    return path.with_suffix(f".{start}-{stop}.npy")


def rows_made(path: Path, block: int) -> dict[int, NDArray[np.float32]]:
    """Rows of `path` that lie in files of ranges, in blocks: the number of the first row -> the rows, memory-mapped."""
    made: dict[int, NDArray[np.float32]] = {}
    for first, file in _ranges(path):
        rows = np.load(file, mmap_mode="r")
        made |= {first + place: rows[place : place + block] for place in range(0, len(rows), block)}
    return made


def drop_ranges(path: Path) -> None:
    """Remove the files of ranges of `path`, which holds all their rows."""
    for _, file in _ranges(path):
        file.unlink(missing_ok=True)


def _ranges(path: Path) -> list[tuple[int, Path]]:
    beside = path.parent.glob(f"{path.stem}.*-*.npy")
    return [(int(found[1]), file) for file in beside if (found := _RANGE.search(file.name))]


@contextmanager
def _alone(path: Path) -> Iterator[tuple[FileIO, Path]]:
    """A file beside `path` that no other process writes, and its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_suffix(".part.npy")
    while True:
        with _opened(name) as file:
            if not _lock(file):
                break
            # Whoever held it may have finished it, so that its name is gone or another's.
            if _stands_as(name, file):
                yield file, name
                return
    name.unlink(missing_ok=True)
    name = path.with_suffix(f".{uuid.uuid4().hex}.part.npy")
    with _opened(name) as file:
        yield file, name


def _opened(path: Path) -> FileIO:
    return FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+")


def _lock(file: FileIO) -> bool:
    """Wait for the file's lock; False on a file system that knows no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def _stands_as(path: Path, file: FileIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _started(file: FileIO, shape: tuple[int, int], block: int) -> Part:
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    first, row = file.tell(), shape[1] * _ITEM
    whole = max(0, os.fstat(file.fileno()).st_size - first) // row
    done = whole if whole == shape[0] else whole // block * block
    file.seek(first + done * row)
    file.truncate()
    return Part(file, done)
