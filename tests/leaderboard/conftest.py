"""Submissions that the tests of this folder share; a test that changes something makes its own."""

from __future__ import annotations

import pytest
from submission_factory import LORA, World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "world")


@pytest.fixture(scope="session")
def full(tmp_path_factory):
    """Models and controls on every kind of task, and one refused run."""
    world = World(tmp_path_factory.mktemp("full") / "world")
    tasks = ("chest", "organ", "waiting", "minor", "phantom_side")
    world.add("strong", 2.5, tasks=tasks)
    world.add("middle", 1.0, tasks=tasks, adapter=LORA)
    world.add("weak", 0.9, tasks=("chest", "organ"), seeds=(0, 1))
    world.control("oracle", 30.0, tasks=tasks)
    world.control("random", tasks=("chest",))
    refused = world.add("liar", 1.0) / "result.json"
    refused.write_text(refused.read_text().replace('"rows": 120', '"rows": 119'))
    return world
