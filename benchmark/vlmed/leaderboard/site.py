"""A folder of generated files, replaced whole or not at all, that never takes the place of anything a person made."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from operator import itemgetter
from pathlib import Path

from vlmed.errors import InputError, MissingError, Problem, UsageError, VlmedError
from vlmed.files import json_text, new_file, read_json
from vlmed.hashing import file_hash
from vlmed.leaderboard.together import Maker, made_together

INDEX = "site.json"
Content = str | bytes | Path  # a path is that of a file to copy
Contents = Iterable[tuple[str, Content]]  # path in the site, and what stands there
_GENERATOR = "vlmed leaderboard"


def write_site(folder: Path, contents: Contents, makers: Sequence[Maker[Contents]] = (), jobs: int = 1) -> None:
    """Write a site; a kill at any moment leaves the old one or the new one, the old one perhaps under a hidden name.

    Args:
        contents: What this process makes; each is written before the next one is asked for.
        makers: What other processes make and write meanwhile, as `made_together` has it.
        jobs: Number of processes.

    Raises:
        UsageError: `folder` holds something that no earlier build wrote; nothing is changed.
        VlmedError: The disk is full or the place can't be written; nothing is changed.
    """
    folder = folder.resolve()
    check_replaceable(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".new", dir=folder.parent))
    except OSError as error:
        raise _refused(folder, error) from error
    try:
        _fill(part, folder, contents, makers, jobs)
        _swap(part, folder)
    except OSError as error:
        raise _refused(folder, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_replaceable(folder: Path, contents: bool = True) -> None:
    """Check that a build may replace `folder`: it is absent, empty, or holds just what an earlier build wrote.

    Args:
        contents: Whether to read the files, too; without it only those that no build wrote are found.

    Raises:
        UsageError: It is a file, or holds files that no build wrote or that were changed since; lists them.
    """
    if not folder.exists():
        return
    hint = "choose another --out, or move these files away"
    if not folder.is_dir():
        raise UsageError("this is a file, so no site can be built here", file=folder, hint=hint)
    written = written_files(folder)
    present = dict(_files_below(folder))
    if present and not written:
        what = "this folder holds files and is no site of vlmed"
        raise UsageError(what, file=folder, got=", ".join(sorted(present)[:5]), hint=hint)
    problems = [
        Problem("a build would lose this file", entry.path, expected=written.get(name, "no such file"), hint=hint)
        for name, entry in sorted(present.items(), key=itemgetter(0))
        if name != INDEX and not _is_written(entry, written.get(name), contents)
    ]
    if problems:
        raise UsageError(problems)


def _files_below(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Path in the site -> everything that is no folder."""
    for here, _, _ in os.walk(folder):
        below = "" if here == str(folder) else Path(here).relative_to(folder).as_posix() + "/"
        with os.scandir(here) as entries:
            yield from ((below + entry.name, entry) for entry in entries if not entry.is_dir())


def _is_written(entry: os.DirEntry[str], expected: str | None, contents: bool) -> bool:
    """Whether an earlier build wrote this file, and nobody changed it since."""
    if expected is None or entry.is_symlink():
        return False
    return not contents or sha256(Path(entry).read_bytes()).hexdigest() == expected


def check_built(folder: Path) -> Mapping[str, str]:
    """Path -> SHA-256 of the files of a built site, but for its index.

    Raises:
        MissingError: No build wrote this folder.
    """
    written = written_files(folder)
    if not written:
        raise MissingError("there is no built site here", file=folder, hint=f"vlmed leaderboard build --out {folder}")
    return written


def check_unchanged(folder: Path) -> Mapping[str, str]:
    """As `check_built`, and every file still is as it was built.

    Raises:
        MissingError: No build wrote this folder.
        InputError: Files are gone or were changed since; lists them.
    """
    written = check_built(folder)
    hint = f"vlmed leaderboard build --out {folder}"
    problems = [
        Problem("this file is not as it was built", str(folder / name), expected=expected, got=got, hint=hint)
        for name, expected in sorted(written.items())
        if (got := file_hash(folder / name) if (folder / name).is_file() else "no file") != expected
    ]
    if problems:
        raise InputError(problems)
    return written


def written_files(folder: Path) -> Mapping[str, str]:
    """Path -> SHA-256 of the files that the build of `folder` wrote; nothing if no build did."""
    try:
        index = read_json(folder / INDEX)
        return dict(index["files"]) if index["generator"] == _GENERATOR else {}
    except (VlmedError, LookupError, TypeError, ValueError):
        return {}


def _fill(part: Path, old: Path, contents: Contents, makers: Sequence[Maker[Contents]], jobs: int) -> None:
    put = partial(_put, part, old, written_files(old))
    with new_file(part / INDEX) as index:
        with made_together([partial(put, maker) for maker in makers], jobs) as others:
            files = put(lambda: contents)
            for made in others:
                files |= made
        index.write_text(json_text({"generator": _GENERATOR, "files": files}), "utf-8")
    part.chmod(0o755)


def _put(part: Path, old: Path, written: Mapping[str, str], make: Maker[Contents]) -> dict[str, str]:
    """Put into `part` what is made; path -> SHA-256.

    Files that are as the old site has them are linked, not written: nothing changes a file of a site in place.
    """
    folders, files = {""}, {}
    for name, content in make():
        if (folder := name.rpartition("/")[0]) not in folders:
            (part / folder).mkdir(parents=True, exist_ok=True)
            folders.add(folder)
        raw = _bytes(content)
        files[name] = sha256(raw).hexdigest()
        if files[name] != written.get(name) or not _linked(old / name, part / name):
            with open(f"{part}/{name}", "wb") as file:  # noqa: PTH123 - in half of the time, for so many small files
                file.write(raw)
    return files


def _bytes(content: Content) -> bytes:
    if isinstance(content, Path):
        return content.read_bytes()
    return content.encode() if isinstance(content, str) else content


def _linked(old: Path, new: Path) -> bool:
    """Whether the file system could do that."""
    try:
        new.hardlink_to(old)
    except OSError:
        return False
    return True


def _swap(part: Path, folder: Path) -> None:
    old = part.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _refused(folder: Path, error: OSError) -> VlmedError:
    what = f"no site can be written here: {error.strerror or error}"
    return VlmedError(what, file=folder, hint="choose another --out")
