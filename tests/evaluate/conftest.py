"""A small phantom suite, and tiny models in their published layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import factories
from vlmed.suite.load import load_suite, suite_path
from vlmed.suite.types import Suite


@pytest.fixture(scope="session")
def small_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped suite's phantom tasks of every kind on 60 patients, and a second classification."""
    tree: dict[str, Any] = yaml.safe_load(suite_path().read_text())
    data = tree["datasets"]["phantom"] | {"options": {"seed": 3, "patients": 60, "images_per_patient": 2, "size": 32}}
    lesion = tree["tasks"]["phantom_lesion@1"] | {"manifest": "pending"}
    side = {key: value for key, value in lesion.items() if key not in ("classes", "prompts", "field")} | {
        "field": "side",
        "exclude": [""],
        "classes": [{"name": name, "values": [name]} for name in ("left", "right")],
        "prompts": {"vlmed": {name: [f"lesion on the {name}"] for name in ("left", "right")}},
    }
    questions = tree["datasets"]["phantom_questions"] | {"options": data["options"] | {"rows": "questions"}}
    report, asked = (tree["tasks"][f"phantom_{name}@1"] | {"manifest": "pending"} for name in ("report", "vqa"))
    path = tmp_path_factory.mktemp("suite") / "tasks.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "suite": "2026.1",
                "datasets": {"phantom": data, "phantom_questions": questions},
                "tasks": {"lesion@1": lesion, "side@1": side, "report@1": report, "asked@1": asked},
                "tracks": tree["tracks"],
            }
        )
    )
    return path


@pytest.fixture(scope="session")
def suite(small_suite: Path) -> Suite:
    return load_suite(small_suite)


@pytest.fixture(scope="session")
def open_clip_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factories.tiny_open_clip(tmp_path_factory.mktemp("models") / "tiny-open-clip")
