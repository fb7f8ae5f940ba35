"""One frozen world of submissions, and one phantom suite that is evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest

from phantom_suites import write_phantom_suite
from submission_factory import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"), all_kinds=True)
    tasks = ("chest", "organ", "figures", "median", "questions")
    for name, skill in (("strong", 3.0), ("weak", 0.4)):
        made.add(name, skill, tasks=tasks)
    return made


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom_suite(tmp_path_factory.mktemp("phantom") / "tasks.yaml")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cache(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prepared data for all tests that evaluate; no data come from elsewhere."""
    monkeypatch.setenv("VLMED_CACHE", str(shared_cache))
    monkeypatch.delenv("VLMED_DATA", raising=False)
    return shared_cache
