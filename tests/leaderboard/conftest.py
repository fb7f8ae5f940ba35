"""Worlds that most files of tests use; a file with another kind of world has a fixture of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from submission_factory import World, full_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> World:
    return full_world(tmp_path_factory.mktemp("full") / "world")
