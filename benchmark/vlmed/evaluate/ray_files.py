"""Files that go in pieces from one folder to another, of which one may be on another machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vlmed.errors import VlmedError

# What goes at once, hence what one file puts into Ray's object store.
PIECE = 8 * 2**20

# Files by their name in a cache folder, which is another on each node, and their sizes in bytes.
Files = Mapping[str, int]


class Folder:
    """A folder of this machine.

    Args:
        within: Leading part of names that is left out here.
    """

    def __init__(self, path: Path, within: str = "") -> None:
        self.path, self._within = path, within

    def file(self, name: str) -> Path:
        """Where a file stands."""
        return self.path / Path(name).relative_to(self._within)

    def sizes(self, paths: Iterable[Path]) -> Files:
        """Those of these paths in the folder that are there."""
        sizes = {path.relative_to(self.path).as_posix(): _size(path) for path in paths}
        return {name: size for name, size in sizes.items() if size is not None}

    def lacks(self, files: Files) -> Files:
        """Those of these files that are not here, or have another size."""
        return {name: size for name, size in files.items() if _size(self.file(name)) != size}

    def piece(self, name: str, start: int) -> bytes:
        """At most `PIECE` bytes of a file.

        Raises:
            FileNotFoundError: It is not here.
        """
        with self.file(name).open("rb") as file:
            file.seek(start)
            return file.read(PIECE)

    def put(self, name: str, start: int, piece: bytes, last: bool) -> None:
        """Add a piece to a file, which stands here once its last piece is in; pieces come in order.

        Raises:
            VlmedError: The disk is full or the folder can't be written.
        """
        path = self.file(name)
        under_way = path.with_name(f"{path.name}.coming")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with under_way.open("r+b" if start else "wb") as file:
                file.seek(start)
                file.write(piece)
            if last:
                under_way.replace(path)
        except OSError as error:
            hint = "make room there, or set VLMED_CACHE to a folder on another disk; finished units are kept"
            got = error.strerror or str(error)
            raise VlmedError("a file can't be written", file=path, got=got, hint=hint) from error


class Far:
    """The cache folder of a worker, which may be on another machine; what can be asked is as with `Folder`.

    Args:
        actor: The worker.
        get: Waits for an answer of it.
    """

    def __init__(self, actor: Any, get: Callable[[Any], Any]) -> None:
        self._actor, self._get = actor, get

    def lacks(self, files: Files) -> Files:
        """See `Folder.lacks`."""
        return dict(self._get(self._actor.lacks.remote(files)))

    def piece(self, name: str, start: int) -> bytes:
        """See `Folder.piece`."""
        return bytes(self._get(self._actor.piece.remote(name, start)))

    def put(self, name: str, start: int, piece: bytes, last: bool) -> None:
        """See `Folder.put`."""
        self._get(self._actor.put.remote(name, start, piece, last))


def copy(files: Files, source: Folder | Far, target: Folder | Far) -> None:
    """Bring files, in their order, one piece at a time.

    Raises:
        FileNotFoundError, VlmedError: As `piece` and `put`.
    """
    for name, size in files.items():
        for start in range(0, max(size, 1), PIECE):
            target.put(name, start, source.piece(name, start), last=start + PIECE >= size)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
