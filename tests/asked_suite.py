"""A task file with questions on a few small phantom patients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vlmed.suite.load import suite_path


def asked_suite(folder: Path) -> Path:
    """Write a `tasks.yaml` whose one task, `asked`, is VQA on 24 phantom patients; its manifest is pending."""
    shipped: dict[str, Any] = yaml.safe_load(suite_path().read_text("utf-8"))
    options = {"seed": 3, "patients": 24, "images_per_patient": 1, "size": 32, "rows": "questions"}
    tree = {
        "suite": "2026.1",
        "datasets": {"phantom_questions": shipped["datasets"]["phantom_questions"] | {"options": options}},
        "tasks": {"asked@1": shipped["tasks"]["phantom_vqa@1"] | {"manifest": "pending", "tracks": ["zero_shot_vqa"]}},
        "tracks": {"zero_shot_vqa@1": shipped["tracks"]["zero_shot_vqa@1"]},
    }
    path = folder / "tasks.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), "utf-8")
    return path
