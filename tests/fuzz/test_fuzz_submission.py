"""Whatever bytes a submission holds, validation ends with a verdict, and accepts nothing but what it recomputed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from fuzz_targets import KINDS, PARTS, PREDICTIONS, RESULT, Target
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from submission_factory import World

# VLMED_FUZZ=5000 looks further, and elsewhere every time.
FURTHER = os.environ.get("VLMED_FUZZ")
SETTINGS = settings(
    max_examples=int(FURTHER or 40),
    derandomize=not FURTHER,
    suppress_health_check=list(HealthCheck),
    database=None,
    deadline=None,
)
CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())
Cuts = list[tuple[float, int, bytes]]
# Where to cut, as a share of the file; how much to drop; what to put there.
CUTS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("fuzz"), samples=40, all_kinds=True)


@pytest.fixture(scope="module", params=KINDS)
def target(world: World, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Target:
    return Target(world, request.param, tmp_path_factory.mktemp("copy"))


def mutated(content: bytes, cuts: Cuts) -> bytes:
    for share, dropped, put in cuts:
        start = int(share * len(content))
        content = content[:start] + put + content[start + dropped :]
    return content


@pytest.mark.parametrize("part", PARTS)
@SETTINGS
@given(cuts=CUTS)
def test_bytes(target: Target, part: str, cuts: Cuts) -> None:
    target.attack(part, mutated(target.start(part), cuts))


@SETTINGS
@given(data=st.data(), value=JSON)
def test_values_of_the_result(target: Target, data: st.DataObject, value: Any) -> None:
    result = json.loads(target.start(RESULT))
    node: Any = result
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not (isinstance(node[key], dict | list) and node[key]) or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = value
    target.attack(RESULT, json.dumps(result).encode())


def test_what_is_honest_is_accepted(target: Target) -> None:
    target.attack(RESULT, target.start(RESULT))
    target.attack(PREDICTIONS, target.start(PREDICTIONS))


@pytest.mark.parametrize("file", CORPUS, ids=lambda path: path.name[:12])
def test_what_a_fuzzer_once_reached(target: Target, file: Path) -> None:
    """Inputs that `coverage_fuzz.py` kept because each led validation to code that no earlier one did."""
    content = file.read_bytes()
    target.attack(PARTS[content[0] % len(PARTS)], content[1:])
