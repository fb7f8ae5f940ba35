"""Where data sets lie: the user's folders first, then the download cache."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlmed.data.download import fetch
from vlmed.errors import UsageError
from vlmed.files import cache_root


def data_roots(cli_root: Path | None = None) -> list[Path]:
    """The folders that may hold data sets, first come first served.

    These are `cli_root` (the `--data-root` argument), those in `VLMED_DATA` (separated as in `PATH`), and `data` in
    the cache, which need not exist yet.

    Raises:
        UsageError: A folder that the user named is none.
    """
    named = [("--data-root", cli_root.expanduser())] if cli_root else []
    listed = os.environ.get("VLMED_DATA", "").split(os.pathsep)
    named += [("VLMED_DATA", Path(entry).expanduser()) for entry in listed if entry.strip()]
    for origin, root in named:
        if not root.is_dir():
            raise UsageError(f"{origin} names no folder", file=root, hint=f"Create it or correct {origin}.")
    return [*(root for _, root in named), cache_root() / "data"]


def find_dataset(folder: str, roots: Iterable[Path]) -> Path | None:
    """The first `root/folder` that is there."""
    return next((root / folder for root in roots if (root / folder).is_dir()), None)


def dataset_folder(folder: str, options: Mapping[str, Any], cli_root: Path | None = None) -> Path:
    """The folder to give to a data set's source; what may be downloaded is downloaded into the cache.

    A data set that is one file of an open archive has `file`, `url` and `md5` in its `options`; it may also lie in a
    root itself, without a folder of its own. Any other data set that is nowhere gets the path where it was looked
    for first, so that its source can say what is missing and how to get it.

    Raises:
        UsageError: A root that the user named is no folder.
        MissingError: The download failed.
        InputError: The download is not the published file.
    """
    roots = data_roots(cli_root)
    if "url" not in options:
        return find_dataset(folder, roots) or roots[0] / folder
    file = options["file"]
    for root in roots:
        for place in (root / folder, root):
            if (place / file).is_file():
                return place
    target = roots[-1] / folder
    fetch(options["url"], target / file, f"md5:{options['md5']}")
    return target


def holder(root: Path, marker: str) -> Path:
    """The folder in which `marker` lies: `root`, or a folder directly in it, as archives unpack into one.

    Falls back to `root` where `marker` is nowhere.
    """
    if (root / marker).exists() or not root.is_dir():
        return root
    return next((inner for inner in sorted(root.iterdir()) if (inner / marker).exists()), root)
