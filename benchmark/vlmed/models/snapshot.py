"""A model's folder: its content as a revision, its configurations, and whether it wants to run code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlmed.errors import InputError, UsageError
from vlmed.hashing import digest, file_hash
from vlmed.models.layouts import CONFIG, files_that_matter


def root_files(folder: Path) -> list[str]:
    """The names of the files directly in `folder`."""
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def content_revision(folder: Path) -> str:
    """`sha256:` and 64 hex digits over name and content of every file that matters, in sorted order.

    Raises:
        InputError: No model in the folder, or a file is a symlink that leaves it.
    """
    names = files_that_matter(root_files(folder), str(folder))
    home = folder.resolve()
    escaping = [name for name in names if not (folder / name).resolve().is_relative_to(home)]
    if escaping:
        raise InputError(
            "a symlink leaves the model's folder",
            file=folder / escaping[0],
            expected="a file inside the folder",
            got=str((folder / escaping[0]).resolve()),
            hint="copy the file in; name a model of the Hub's cache by its repository",
        )
    return "sha256:" + digest([[name, file_hash(folder / name)] for name in names])


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file as a JSON object.

    Raises:
        InputError: It is not one.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError("the configuration is not JSON", file=path, got=str(error)) from error
    if not isinstance(config, dict):
        raise InputError("the configuration is not a JSON object", file=path, got=type(config).__name__)
    return config


def check_remote_code(folder: Path, allowed: bool) -> bool:
    """Whether the model brings Python code of its own to run.

    Raises:
        UsageError: It does and `allowed` is false; names each configuration that asks for it.
    """
    asking = [name for name in root_files(folder) if name.endswith("_config.json") or name == CONFIG]
    asking = [name for name in asking if "auto_map" in read_config(folder / name)]
    if asking and not allowed:
        raise UsageError(
            "the model wants to run Python code that it brings along",
            file=folder,
            path=f"{', '.join(asking)}: $.auto_map",
            expected="a model in a format that the installed libraries know",
            hint="read that code; if you trust it, add --trust-remote-code, and the result will say so",
        )
    return bool(asking)
