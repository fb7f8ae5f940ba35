"""A task file of one's own: what is frozen of it lies beside it, for every command, and vlmed's own stays as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Vlmed, files

from submission_factory import World
from vlmed.suite.ledger import LEDGER
from vlmed.suite.load import load_suite, suite_path
from vlmed.suite.manifest import FOLDER


@pytest.fixture(autouse=True)
def nothing_of_vlmed_changes() -> Any:
    before = files(FOLDER), LEDGER.read_bytes()
    yield
    assert (files(FOLDER), LEDGER.read_bytes()) == before


@pytest.fixture
def own(tmp_path: Path, phantom_suite: Path, vlmed: Vlmed) -> Path:
    """A suite with `lesion`, frozen beside it."""
    path = tmp_path / "own" / "tasks.yaml"
    path.parent.mkdir()
    shutil.copyfile(phantom_suite, path)
    frozen = vlmed("data", "freeze", "lesion", "--suite", path)
    assert frozen.code == 0, frozen.err
    assert f"next: vlmed tasks freeze --suite {path}" in frozen.out
    load_suite.cache_clear()
    assert vlmed("tasks", "freeze", "--suite", path).code == 0
    return path


def test_what_is_frozen_lies_beside_the_file(own: Path) -> None:
    assert {path.name for path in own.parent.iterdir()} == {"tasks.yaml", "manifests", "ledger.jsonl"}
    assert not load_suite(own).task("lesion").pending


def test_every_command_proves_against_it(vlmed: Vlmed, own: Path, tmp_path: Path) -> None:
    suite, out = ("--suite", own), tmp_path / "run"
    assert "2 wait" not in vlmed("tasks", "check", *suite).out
    for words in (
        ["tasks", "check"],
        ["data", "prepare", "lesion"],
        ["data", "verify", "lesion"],
        ["run", "--model", "control:oracle", "--tasks", "lesion", "--out", out],
        ["validate", out],
        ["compare", out, out],
        ["leakage", "--across"],
        ["tasks", "pages", tmp_path / "pages"],
        ["fingerprint", "freeze", "lesion"],
    ):
        said = vlmed(*words, *suite)
        assert said.code == 0, (words, said.err)
    assert (own.parent / "manifests" / "lesion-v1.phash.parquet").is_file()
    assert "all 80 samples are the frozen ones" in vlmed("data", "verify", "lesion", *suite).out
    assert json.loads((out / "result.json").read_text())["units"][0]["scores"]["metrics"]["clean"] is not None


def _damage(own: Path) -> None:
    manifest = own.parent / "manifests" / "lesion-v1.csv"
    manifest.write_text(manifest.read_text().replace(",train,", ",val,", 1))


@pytest.mark.parametrize(
    "words",
    [
        ["tasks", "check"],
        ["data", "prepare", "lesion"],
        ["data", "verify", "lesion"],
        ["run", "--model", "control:oracle", "--tasks", "lesion"],
        ["leakage", "--across"],
        ["tasks", "pages", "pages"],
    ],
    ids=" ".join,
)
def test_a_manifest_that_was_changed_is_seen(
    vlmed: Vlmed, own: Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _damage(own)
    said = vlmed(*words, "--suite", own)
    assert said.code in (1, 2)
    assert "this is not the frozen manifest" in said.err


def test_its_ledger_is_its_own(vlmed: Vlmed, own: Path) -> None:
    own.write_text(own.read_text().replace("main_metric: auc", "main_metric: accuracy", 1))
    load_suite.cache_clear()
    said = vlmed("tasks", "check", "--suite", own)
    assert said.code == 1
    assert "a frozen definition changed without a new version" in said.err
    assert vlmed("tasks", "freeze", "--suite", own).code == 2


def test_before_anything_of_it_is_frozen(vlmed: Vlmed, phantom_suite: Path, tmp_path: Path) -> None:
    path = tmp_path / "tasks.yaml"
    shutil.copyfile(phantom_suite, path)
    said = vlmed("tasks", "check", "--suite", path)
    assert said.code == 1
    assert f"`vlmed tasks freeze --suite {path}` begins one beside it" in said.err
    assert vlmed("tasks", "freeze", "--suite", path).code == 0
    assert vlmed("tasks", "check", "--suite", path).code == 0


def test_what_a_file_has_from_vlmed_goes_with_it(vlmed: Vlmed, tmp_path: Path, phantom_suite: Path) -> None:
    """Before it has manifests of its own, vlmed's are read; once it begins some, what it needs of them is copied."""
    tree, shipped = yaml.safe_load(phantom_suite.read_text()), yaml.safe_load(suite_path().read_text("utf-8"))
    tree["datasets"]["breastmnist"] = shipped["datasets"]["breastmnist"]
    tree["tasks"]["breastmnist@1"] = shipped["tasks"]["breastmnist@1"]
    path = tmp_path / "tasks.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    assert vlmed("tasks", "pages", tmp_path / "pages", "--suite", path).code == 0
    assert not (tmp_path / "manifests").exists()
    assert vlmed("data", "freeze", "lesion", "--suite", path).code == 0
    assert {file.name for file in (tmp_path / "manifests").iterdir()} == {
        "lesion-v1.csv",
        "breastmnist-v1.csv",
        "breastmnist-v1.phash.parquet",
    }
    load_suite.cache_clear()
    assert vlmed("tasks", "freeze", "--suite", path).code == 0
    assert vlmed("tasks", "check", "--suite", path).code == 0


@pytest.mark.parametrize("version", ["mine", '"2026-1"', "2026.1", '"1.0"'])
def test_a_version_of_another_form_is_told_in_words(vlmed: Vlmed, world: World, tmp_path: Path, version: str) -> None:
    changed = tmp_path / "changed.yaml"
    text = world.tasks_file.read_text("utf-8")
    changed.write_text(text.replace(text.splitlines()[0], f"suite: {version}"))
    said = vlmed("tasks", "--suite", changed)
    assert said.code == 2
    assert "$.suite" in said.err
    assert 'a year, a dot and a number, in quotes. Such as: "2026.1"' in said.err
    assert "[0-9]" not in said.err
