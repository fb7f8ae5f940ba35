"""The command line as a user meets it: arguments in; exit code, output and files out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Said, Vlmed

import factories
from submission_factory import World
from vlmed.cli import main
from vlmed.suite.load import suite_path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def vlmed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path) -> Vlmed:
    """Run a command in this process, through `main`; its data can only come from where the arguments say."""
    monkeypatch.setenv("VLMED_CACHE", str(cache))
    monkeypatch.delenv("VLMED_DATA", raising=False)

    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["vlmed", *map(str, arguments)])
        capsys.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def phantom_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file with `lesion` on 40 small phantom patients, and `chexpert`; both manifests are pending."""
    shipped: dict[str, Any] = yaml.safe_load(suite_path().read_text("utf-8"))
    options = {"seed": 3, "patients": 40, "images_per_patient": 2, "size": 32}
    # One penalty instead of the frozen grid: these tests are about commands, not about probes.
    probe = shipped["tracks"]["linear_probe@1"] | {"recipe": {"penalties": [1.0]}}
    tree = {
        "suite": "2026.1",
        "datasets": {
            "phantom": shipped["datasets"]["phantom"] | {"options": options},
            "chexpert": shipped["datasets"]["chexpert"],
        },
        "tasks": {
            "lesion@1": shipped["tasks"]["phantom_lesion@1"] | {"manifest": "pending"},
            "chexpert@1": shipped["tasks"]["chexpert@1"] | {"manifest": "pending"},
        },
        "tracks": shipped["tracks"] | {"linear_probe@1": probe},
    }
    path = tmp_path_factory.mktemp("phantom") / "tasks.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), "utf-8")
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factories.tiny_open_clip(tmp_path_factory.mktemp("models") / "tiny-open-clip")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")
