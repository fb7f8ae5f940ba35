"""A published model is run again on drawn samples: an honest run is confirmed, an altered one contradicted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from submission_factory import World
from vlmed.data.load import DataLoader
from vlmed.errors import UsageError
from vlmed.evaluate.audit import audit
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, plan
from vlmed.models.load import load_model
from vlmed.results.predictions import AnswerPredictions, read_predictions, write_predictions
from vlmed.results.validate import validate_run
from vlmed.suite.load import load_suite
from vlmed.suite.types import Suite


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, suite: Suite) -> Path:
    """A run of a control on two kinds of tasks."""
    root = tmp_path_factory.mktemp("published")
    runner = Runner(suite, load_model("control:random"), DataLoader(cache=root / "cache"))
    units = plan(suite, ("asked", "lesion"), ("zero_shot_vqa", "zero_shot"))
    runner.run(units, RunFolder(root / "run"), lambda *_: None)
    return root


def audit_of(published: Path, suite: Suite, seed: int) -> Any:
    loader = DataLoader(cache=published / "cache")
    return json.loads(audit(published / "run", suite, loader, 64, seed, "Ada", lambda *_: None).read_text())


def test_an_honest_run_is_confirmed_and_the_record_accepted(published: Path, suite: Suite) -> None:
    record = audit_of(published, suite, 1)
    assert record["verdict"] == "confirmed"
    assert [(unit["compared"] > 10, unit["differing"]) for unit in record["units"]] == [(True, 0)] * 2
    assert validate_run(published / "run", suite, intervals=False).accepted
    with pytest.raises(UsageError, match="made before"):
        audit_of(published, suite, 1)


def test_altered_answers_are_contradicted(published: Path, suite: Suite) -> None:
    (file,) = (published / "run" / "predictions").glob("asked*")
    before = file.read_bytes()
    made = read_predictions(file, suite.task("asked"))
    assert isinstance(made, AnswerPredictions)
    write_predictions(file, replace(made, answers=list(made.targets)))
    try:
        record = audit_of(published, suite, 2)
    finally:
        file.write_bytes(before)
    assert record["verdict"] == "contradicted"
    assert [unit["verdict"] for unit in record["units"]] == ["contradicted", "confirmed"]


@pytest.mark.parametrize("ref", ["dir:/home/me/model", "endpoint:http://localhost:8000/v1#m"])
def test_what_nobody_else_can_fetch_is_told(ref: str, tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    run = world.add("m", ref=ref)
    with pytest.raises(UsageError, match="by its submitter alone"):
        audit(run, world.suite, DataLoader(cache=tmp_path), 4, 1, "Ada", lambda *_: None)
    assert not (run / "audits").exists()


def test_a_model_under_another_revision_is_not_audited(published: Path, suite: Suite, tmp_path: Path) -> None:
    """A control has one revision alone; whoever names another is not believed."""
    from vlmed.errors import InputError
    from vlmed.files import write_json

    result = json.loads((published / "run" / "result.json").read_text())
    result["model"]["revision"] = "a" * 40
    write_json(tmp_path / "result.json", result)
    with pytest.raises(InputError, match="another revision"):
        audit(tmp_path, load_suite(), DataLoader(cache=tmp_path), 4, 1, "Ada", lambda *_: None)
