"""A folder of generated files, replaced whole or not at all, that never takes the place of anything a person made."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vlmed.errors import Problem, UsageError, VlmedError
from vlmed.files import new_file, read_json, write_json
from vlmed.hashing import file_hash

_INDEX = "site.json"
_GENERATOR = "vlmed leaderboard"


def write_site(folder: Path, contents: Mapping[str, str | bytes], copies: Mapping[str, Path]) -> None:
    """Write a site; a kill at any moment leaves the old one or the new one, the old one perhaps under a hidden name.

    Args:
        contents: Path in the site -> text or bytes.
        copies: Path in the site -> file to copy.

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
        _fill(part, contents, copies)
        _swap(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """Check that a build may replace `folder`: it is absent, empty, or holds just what an earlier build wrote.

    Raises:
        UsageError: It is a file, or holds files that no build wrote or that were changed since; lists them.
    """
    if not folder.exists():
        return
    hint = "choose another --out, or move these files away"
    if not folder.is_dir():
        raise UsageError("this is a file, so no site can be built here", file=folder, hint=hint)
    written = _written(folder)
    present = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    if present and not written:
        what = "this folder holds files and is no site of vlmed"
        raise UsageError(what, file=folder, got=", ".join(sorted(present)[:5]), hint=hint)
    problems = [
        Problem("a build would lose this file", str(path), expected=written.get(name, "no such file"), hint=hint)
        for name, path in sorted(present.items())
        if name != _INDEX and (path.is_symlink() or file_hash(path) != written.get(name))
    ]
    if problems:
        raise UsageError(problems)


def _written(folder: Path) -> Mapping[str, str]:
    """Path -> SHA-256 of the files that the build of `folder` wrote; nothing if no build did."""
    try:
        index = read_json(folder / _INDEX)
        return dict(index["files"]) if index["generator"] == _GENERATOR else {}
    except (VlmedError, LookupError, TypeError, ValueError):
        return {}


def _fill(part: Path, contents: Mapping[str, str | bytes], copies: Mapping[str, Path]) -> None:
    for name, content in contents.items():
        with new_file(part / name) as path:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    for name, source in copies.items():
        with new_file(part / name) as path:
            shutil.copyfile(source, path)
    files = {name: file_hash(part / name) for name in sorted([*contents, *copies])}
    write_json(part / _INDEX, {"generator": _GENERATOR, "files": files})
    part.chmod(0o755)


def _swap(part: Path, folder: Path) -> None:
    old = part.with_suffix(".old")
    try:
        if folder.exists():
            folder.rename(old)
        try:
            part.rename(folder)
        except OSError:
            old.rename(folder)
            raise
    except OSError as error:
        raise _refused(folder, error) from error
    shutil.rmtree(old, ignore_errors=True)


def _refused(folder: Path, error: OSError) -> VlmedError:
    what = f"no site can be written here: {error.strerror or error}"
    return VlmedError(what, file=folder, hint="choose another --out")
