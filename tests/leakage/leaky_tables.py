"""Tasks over sources made in a test, as tables with the images they need."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from submission_factory import TRACKS, dataset, task
from vlmed.data.prepare import PreparedDataset, prepare
from vlmed.data.records import Record
from vlmed.data.table import TaskTable, build_table
from vlmed.progress import Silent
from vlmed.suite.load import load_suite
from vlmed.suite.types import Task

VQA = {"kind": "vqa", "field": "answer", "metrics": ["accuracy"], "main_metric": "accuracy"}
RETRIEVAL = {"kind": "retrieval", "field": "caption", "metrics": ["recall_at_1"], "main_metric": "recall_at_1"}


def make_task(folder: Path, classes: tuple[str, ...] = ("normal", "pneumonia"), **more: Any) -> Task:
    """A pending task on the data set `radiographs`; a task file of its own stands in `folder`."""
    entry = task("Leaks & <splits>", "radiographs", classes, **more)
    if entry["kind"] != "classification":
        entry = {key: value for key, value in entry.items() if key not in ("classes", "prompts")} | {"tracks": []}
    tree = {
        "suite": "2026.1",
        "tracks": TRACKS,
        "datasets": {"radiographs": dataset("radiographs")},
        "tasks": {"leaky@1": entry},
    }
    path = folder / "tasks.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    load_suite.cache_clear()
    return load_suite(path).task("leaky")


@dataclass
class Pictures:
    """A source in memory: records, and image key -> file."""

    rows: list[Record]
    files: Mapping[str, bytes]

    def records(self) -> list[Record]:
        return self.rows

    def image(self, key: str) -> bytes:
        return self.files[key]


def saved(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def prepared(source: Any, made: Task, folder: Path) -> tuple[TaskTable, PreparedDataset]:
    """The table of a task on a source, and its images."""
    data = prepare(made.dataset, source, folder / "prepared", Silent())
    return build_table(made, data.records, None), data
