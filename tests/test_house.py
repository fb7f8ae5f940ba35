"""The rules of the house: imports flow one way, and torch stays out of the core."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import vlmed

PACKAGE = Path(vlmed.__file__).parent
BASE = {"errors", "hashing", "files", "process", "progress", "yaml_files"}
# Room -> the rooms whose code it may use.
MAY_USE = {
    "metrics": {"errors"},
    "suite": BASE | {"metrics"},
    "data": BASE | {"suite", "metrics"},
    "leakage": BASE | {"suite", "data"},
    "results": BASE | {"suite", "metrics", "data", "leakage"},
    "leaderboard": BASE | {"suite", "metrics", "data", "leakage", "results"},
    "models": BASE | {"metrics"},
    "tuning": BASE | {"models"},
    "evaluate": BASE | {"suite", "metrics", "data", "leakage", "results", "models", "tuning"},
    "demo": BASE | {"suite", "data", "models", "evaluate"},
}
WITHOUT_TORCH = {*BASE, "metrics", "suite", "data", "leakage", "results", "leaderboard"}
HEAVY = {"torch", "torchvision", "transformers", "open_clip", "peft", "timm", "datasets", "safetensors", "sklearn"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "vlmed":
                yield from (f"vlmed.{alias.name}" for alias in node.names if not alias.name.startswith("__"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_flow_down(path: Path) -> None:
    here = room(path)
    if here in BASE:
        allowed = BASE | {here}
    elif here in MAY_USE:
        allowed = MAY_USE[here] | {here}
    else:
        return
    used = {name.split(".")[1] for name in imports(path) if name.startswith("vlmed.")}
    assert used <= allowed, f"{here} may not use {sorted(used - allowed)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_core_never_imports_torch(path: Path) -> None:
    if room(path) in WITHOUT_TORCH:
        heavy = {name.split(".")[0] for name in imports(path)} & HEAVY
        assert not heavy, f"{path.name} imports {sorted(heavy)}; it must work where only the core is installed"


def test_every_room_has_a_rule() -> None:
    free = {"api", "cli", "pytest_plugin", "__init__", "schemas", "__main__"}
    assert {room(path) for path in FILES} <= BASE | MAY_USE.keys() | free


def test_files_are_rooms_of_modest_size() -> None:
    long = {
        str(path.relative_to(PACKAGE)): lines for path in FILES if (lines := len(path.read_text().splitlines())) > 400
    }
    assert not long
