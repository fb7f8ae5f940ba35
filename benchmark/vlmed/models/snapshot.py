"""A model's folder: its content as a revision, its configurations, and whether it wants to run code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmed.errors import InputError, Problem, UsageError
from vlmed.hashing import digest, file_hash
from vlmed.models.layouts import CONFIG, SECOND_TOKENIZER, files_that_matter

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".tar")
# Keys under which configurations name Python code: transformers', its pipelines', Hydra's.
_CODE_KEYS = {"auto_map", "custom_pipelines", "_target_"}
# Regular expression of a name -> the largest size in bytes. The first that matches counts. The largest vocabularies
# in use take 40 MB, the largest configurations 10.
_LARGEST = {
    r".*\.(safetensors|bin|pt|pth|ckpt|tar)": None,
    r"tokenizer_config\.json|.*\.index\.json": 64 << 20,
    r"(tokenizer|vocab|merges|spiece|sentencepiece|bpe|added_tokens|special_tokens).*|.*\.(txt|model)": 256 << 20,
    r".*\.json": 16 << 20,
    r".*": 1 << 20,
}


def root_files(folder: Path) -> list[str]:
    """The names of the files directly in `folder`, and of those of a second tokenizer with the name of its folder."""
    second = folder / SECOND_TOKENIZER
    paths = (*folder.iterdir(), *(second.iterdir() if second.is_dir() else ()))
    return sorted(path.relative_to(folder).as_posix() for path in paths if path.is_file())


def content_revision(folder: Path) -> str:
    """`sha256:` and 64 hex digits over name and content of every file that matters, in sorted order.

    Raises:
        InputError: No model in the folder, a file is a symlink that leaves it, or one is too large to be what its
            name says.
    """
    names = files_that_matter(root_files(folder), str(folder))
    problems = check_inside(folder, names)
    problems += check_sizes({name: (folder / name).stat().st_size for name in names}, str(folder))
    if problems:
        raise InputError(problems)
    return "sha256:" + digest([[name, file_hash(folder / name)] for name in names])


def check_inside(folder: Path, names: Sequence[str]) -> list[Problem]:
    """A problem for every named file that is a symlink out of the folder."""
    home = folder.resolve()
    ends = {folder / name: (folder / name).resolve() for name in names}
    what, hint = (
        "a symlink leaves the model's folder",
        "copy the file in; name a model of the Hub's cache by its repository",
    )
    return [
        Problem(what, str(file), "", "a file inside the folder", str(end), hint)
        for file, end in ends.items()
        if not end.is_relative_to(home)
    ]


def check_sizes(sizes: Mapping[str, int | None], where: str) -> list[Problem]:
    """A problem for every file too large to be what its name says; a size that isn't known passes.

    Args:
        sizes: Name -> bytes.
        where: Folder or repository, for the problem.
    """
    problems = []
    for name, size in sizes.items():
        limit = next(limit for pattern, limit in _LARGEST.items() if re.fullmatch(pattern, Path(name).name))
        if limit and size and size > limit:
            what, hint = "the file is too large to be what its name says", "check that this is the original model"
            problems.append(Problem(what, where, name, f"at most {limit:,} bytes", f"{size:,}", hint))
    return problems


def is_weights(name: str) -> bool:
    """Whether weights lie in the file of this name, safe or pickled."""
    return name.endswith((".safetensors", *PICKLES))


def is_configuration(name: str) -> bool:
    """Whether a library reads the file of this name as a configuration."""
    return Path(name).name == CONFIG or name.endswith("_config.json")


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file as a JSON object.

    Raises:
        InputError: It is not one.
    """
    problems = check_sizes({path.name: path.stat().st_size}, str(path.parent))
    if problems:
        raise InputError(problems)
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
    asking = code_requests(folder)
    if asking and not allowed:
        raise UsageError(
            "the model wants to run Python code that it brings along",
            file=folder,
            path=", ".join(asking),
            expected="a model in a format that the installed libraries know",
            hint="read that code; if you trust it, add --trust-remote-code, and the result will say so",
        )
    return bool(asking)


def code_requests(folder: Path) -> list[str]:
    """Every place, as `file: JSON path`, at which a configuration in the folder names Python code.

    Raises:
        InputError: A configuration is not JSON.
    """
    names = [name for name in root_files(folder) if is_configuration(name)]
    return [
        f"{name}: {path}"
        for name in names
        for path, key, value in walk(read_config(folder / name))
        if key in _CODE_KEYS and value
    ]


def walk(tree: Any) -> Iterator[tuple[str, str, Any]]:
    """JSON path, key and value of everything in the objects of a JSON value, however deep."""
    rest = [("$", tree)]
    while rest:
        path, value = rest.pop()
        if isinstance(value, dict):
            for key, child in value.items():
                yield f"{path}.{key}", key, child
                rest.append((f"{path}.{key}", child))
        elif isinstance(value, list):
            rest += [(f"{path}[{position}]", child) for position, child in enumerate(value)]
