"""Task files of small phantom tasks for whoever evaluates in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vlmed.suite.load import suite_path


def write_phantom_suite(path: Path, patients: int = 40) -> Path:
    """`lesion` (classes), `report` (captions), `asked` (questions), and `chexpert`, whose data are absent."""
    shipped: dict[str, Any] = yaml.safe_load(suite_path().read_text("utf-8"))
    options = {"seed": 3, "patients": patients, "images_per_patient": 2, "size": 32}
    tasks = {
        "lesion@1": shipped["tasks"]["phantom_lesion@1"],
        "report@1": shipped["tasks"]["phantom_report@1"],
        "asked@1": shipped["tasks"]["phantom_vqa@1"],
        "chexpert@1": shipped["tasks"]["chexpert@1"],
    }
    tree = {
        "suite": "2026.1",
        "datasets": {
            "phantom": shipped["datasets"]["phantom"] | {"options": options},
            "phantom_questions": shipped["datasets"]["phantom_questions"]
            | {"options": options | {"rows": "questions"}},
            "chexpert": shipped["datasets"]["chexpert"],
        },
        "tasks": {key: task | {"manifest": "pending"} for key, task in tasks.items()},
        # One penalty instead of the frozen grid: who uses these tasks tests no probes.
        "tracks": shipped["tracks"]
        | {"linear_probe@1": shipped["tracks"]["linear_probe@1"] | {"recipe": {"penalties": [1.0]}}},
    }
    path.write_text(yaml.safe_dump(tree, sort_keys=False), "utf-8")
    return path
