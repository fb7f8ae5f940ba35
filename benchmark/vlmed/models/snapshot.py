"""A model's files on disk or in a repository: which of them matter, and in which published layout they are."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from vlmed.errors import InputError, UsageError
from vlmed.hashing import digest, file_hash

OPEN_CLIP_CONFIG = "open_clip_config.json"
CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
MARKERS = (OPEN_CLIP_CONFIG, CONFIG, ADAPTER_CONFIG)

# The first that exists is loaded. open_clip's own order: a repository may hold transformers' model.safetensors too.
_OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_MODEL_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_INDEX = ".index.json"

# Configurations, tokenizers, preprocessing and, for those who allow it to run, code.
_SIDE_FILES = (".json", ".txt", ".model", ".jinja", ".py")


def is_adapter(names: Collection[str]) -> bool:
    """Whether these files are an adapter alone, whose base lies elsewhere."""
    return ADAPTER_CONFIG in names and CONFIG not in names and OPEN_CLIP_CONFIG not in names


def files_that_matter(names: Collection[str], where: str) -> list[str]:
    """The files a model or adapter is loaded from, sorted: configurations and one set of weights, safetensors first.

    Args:
        names: All files at the root of the repository or folder.
        where: The repository or folder, for the error.

    Raises:
        InputError: No known configuration, or no weights beside it.
    """
    if not any(marker in names for marker in MARKERS):
        raise InputError("no model here", file=where, expected=f"one of {', '.join(MARKERS)}", got=_listed(names))
    known = {*_OPEN_CLIP_WEIGHTS, *_MODEL_WEIGHTS, *_ADAPTER_WEIGHTS}
    wanted = {name for name in names if name.endswith(_SIDE_FILES) and name not in known and not name.endswith(_INDEX)}
    orders: list[tuple[str, ...]] = []
    if not is_adapter(names):
        orders.append(_OPEN_CLIP_WEIGHTS if OPEN_CLIP_CONFIG in names else _MODEL_WEIGHTS)
    if ADAPTER_CONFIG in names:
        orders.append(_ADAPTER_WEIGHTS)
    for order in orders:
        wanted |= _weights(names, order, where)
    return sorted(wanted)


def is_complete(names: Collection[str]) -> bool:
    """Whether a model or adapter can be loaded from these files; a download that broke off left fewer."""
    try:
        files_that_matter(names, "")
    except InputError:
        return False
    return True


def _weights(names: Collection[str], order: tuple[str, ...], where: str) -> set[str]:
    first = next((name for name in order if name in names), None)
    if first is None:
        raise InputError(
            "no weights beside the configuration", file=where, expected=f"one of {', '.join(order)}", got=_listed(names)
        )
    if not first.endswith(_INDEX):
        return {first}
    stem, _, suffix = first.removesuffix(_INDEX).rpartition(".")
    shard = re.compile(rf"{re.escape(stem)}-\d+-of-\d+\.{suffix}")
    return {first, *(name for name in names if shard.fullmatch(name))}


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown or "no files"


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
