"""A built site -> the folder that a static host serves: a branch for GitHub Pages, or any other."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlmed.errors import Problem, UsageError
from vlmed.files import new_file
from vlmed.hashing import file_hash
from vlmed.leaderboard.site import INDEX, check_unchanged, written_files

NO_JEKYLL = ".nojekyll"  # else GitHub Pages leaves out what begins with an underscore, and builds for minutes


@dataclass(frozen=True)
class Published:
    """What changed, or would change, at a host.

    Attributes:
        target: The folder or the address.
        written: Files that are new or new in content.
        removed: Files of an earlier site that the new one lacks.
        kept: How many files were there already.
        bytes: Of all files of the site.
    """

    target: str
    written: int
    removed: int
    kept: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def publish_pages(site: Path, folder: Path, dry_run: bool = False) -> Published:
    """Bring `folder` up to date with a built site; what no earlier site wrote there, such as `.git` or `CNAME`, stays.

    Nothing else is done: committing and pushing are the user's. Cut off half-way, the next call mends it.

    Raises:
        MissingError: There is no built site.
        InputError: A file of the site is not as it was built.
        UsageError: A file in `folder` would be lost that no earlier site wrote, or that was changed since.
    """
    _check_apart(site, folder)
    files = check_unchanged(site)
    earlier = written_files(folder)
    changed = [name for name, sha256 in files.items() if _hash_of(folder / name) != sha256]
    gone = [name for name in earlier if name not in files and (folder / name).is_file()]
    _check_replaceable(folder, [*changed, *gone], earlier)
    if not dry_run:
        for name in (*changed, INDEX):
            _copy(site / name, folder / name)
        for name in gone:
            _remove(folder, name)
        (folder / NO_JEKYLL).touch()
    size = sum((site / name).stat().st_size for name in files)
    return Published(str(folder), len(changed), len(gone), len(files) - len(changed), size)


def _check_apart(site: Path, folder: Path) -> None:
    one, other = site.resolve(), folder.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise UsageError("a site can't be published into itself", file=folder, hint="choose another --pages")
    if folder.exists() and not folder.is_dir():
        raise UsageError("this is a file, so no site can be published here", file=folder, hint="choose another --pages")


def _check_replaceable(folder: Path, names: list[str], earlier: Mapping[str, str]) -> None:
    hint = "choose another --pages, or move these files away"
    problems = [
        Problem("publishing would lose this file", str(folder / name), expected=earlier.get(name, "no file"), hint=hint)
        for name in sorted(names)
        if _hash_of(folder / name) not in ("", earlier.get(name))
    ]
    if problems:
        raise UsageError(problems)


def _hash_of(path: Path) -> str:
    """SHA-256 of a file; empty where nothing is, and no hash for what is no file."""
    if path.is_symlink() or path.is_dir():
        return "no file"
    return file_hash(path) if path.exists() else ""


def _copy(source: Path, target: Path) -> None:
    with new_file(target) as path:
        shutil.copyfile(source, path)


def _remove(folder: Path, name: str) -> None:
    """Remove a file and the folders that it leaves empty."""
    path = folder / name
    path.unlink()
    while (path := path.parent) != folder and not any(path.iterdir()):
        path.rmdir()
