"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine must not fail a test by being slow, and a failure must come again.
settings.register_profile("vlmed", deadline=None, derandomize=True)
settings.load_profile("vlmed")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: `VLMED_TEST_DATA`, or `shared/data` beside the checkout. CI has to have it."""
    root = Path(os.environ.get("VLMED_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not root.is_dir():
        reason = f"no real data at {root}; set VLMED_TEST_DATA"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return root
