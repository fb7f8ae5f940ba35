"""Whatever bytes a submission holds, validation ends with a verdict, and accepts nothing but what it recomputed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forgery import check, sign
from submission_factory import World
from vlmed.files import write_json
from vlmed.results.predictions import read_predictions
from vlmed.results.validate import validate_run

KINDS = {"chest": "zero_shot", "figures": "retrieve", "questions": "answer"}
# VLMED_FUZZ=5000 looks further, and elsewhere every time.
FURTHER = os.environ.get("VLMED_FUZZ")
SETTINGS = settings(
    max_examples=int(FURTHER or 40),
    derandomize=not FURTHER,
    suppress_health_check=list(HealthCheck),
    database=None,
    deadline=None,
)
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
def honest(world: World, request: pytest.FixtureRequest) -> Path:
    return world.add(f"honest-{request.param}", tasks=(request.param,), tracks=(KINDS[request.param],))


@pytest.fixture(scope="module")
def run(honest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(honest, tmp_path_factory.mktemp("copy") / "run"))


def mutated(content: bytes, cuts: Cuts) -> bytes:
    for share, dropped, put in cuts:
        start = int(share * len(content))
        content = content[:start] + put + content[start + dropped :]
    return content


def restore(honest: Path, run: Path) -> None:
    shutil.copytree(honest, run, dirs_exist_ok=True)


def proved(run: Path) -> Any:
    """What validation vouches for."""
    units = json.loads((run / "result.json").read_text())["units"]
    names = ("task", "task_digest", "track", "track_digest", "predictions")
    return [({name: unit[name] for name in names}, _without_intervals(unit["scores"])) for unit in units]


def _without_intervals(scores: Any) -> Any:
    if isinstance(scores, dict):
        return {
            key: _without_intervals(item) for key, item in scores.items() if key not in ("low", "high", "undefined")
        }
    return scores


@SETTINGS
@given(cuts=CUTS)
def test_bytes_of_the_result(world: World, honest: Path, run: Path, cuts: Cuts) -> None:
    restore(honest, run)
    (run / "result.json").write_bytes(mutated((honest / "result.json").read_bytes(), cuts))
    if check(world, run, intervals=False).accepted:
        assert proved(run) == proved(honest)


@SETTINGS
@given(data=st.data(), value=JSON)
def test_values_of_the_result(world: World, honest: Path, run: Path, data: st.DataObject, value: Any) -> None:
    restore(honest, run)
    result = json.loads((honest / "result.json").read_text())
    node: Any = result
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not (isinstance(node[key], dict | list) and node[key]) or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = value
    (run / "result.json").write_text(json.dumps(result))
    if check(world, run, intervals=False).accepted:
        assert proved(run) == proved(honest)


@SETTINGS
@given(cuts=CUTS)
def test_bytes_of_the_predictions(world: World, honest: Path, run: Path, cuts: Cuts) -> None:
    restore(honest, run)
    (file,) = (run / "predictions").iterdir()
    (source,) = (honest / "predictions").iterdir()
    file.write_bytes(mutated(source.read_bytes(), cuts))
    same = file.read_bytes() == source.read_bytes()
    assert check(world, run, intervals=False).accepted is same
    resign(run, file)
    if check(world, run, intervals=False).accepted:
        task = next(iter(json.loads((run / "result.json").read_text())["units"]))["task"]
        ours, theirs = (read_predictions(path, world.suite.tasks[task]) for path in (file, source))
        rows = range(len(theirs.sample_ids))
        assert (ours.sample_ids, ours.groups) == (theirs.sample_ids, theirs.groups)
        assert ours.claims(list(rows)) == theirs.claims(list(rows))


def resign(run: Path, file: Path) -> None:
    """Write the new hash, and the number of rows if the file has one."""
    try:
        sign(run)
    except Exception:
        from vlmed.hashing import file_hash

        result = json.loads((run / "result.json").read_text())
        result["units"][0]["predictions"]["sha256"] = file_hash(file)
        write_json(run / "result.json", result)


@SETTINGS
@given(content=st.binary(max_size=300), name=st.sampled_from(["submission.json", "retraction.json", "audits/a.json"]))
def test_bytes_beside_the_result(world: World, honest: Path, run: Path, content: bytes, name: str) -> None:
    restore(honest, run)
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_bytes(content)
    try:
        assert not validate_run(run, world.suite, world.manifests, intervals=False).accepted
    finally:
        (run / name).unlink()
