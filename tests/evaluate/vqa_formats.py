"""The four VQA data sets of the suite, small: two real ones in part, two made here in their published layout.

A made data set holds flat grey images and a few questions of every kind. The task file is the shipped one but for the
split of the real ones, pending manifests and answers of 4 tokens.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from vlmed.suite.load import suite_path

REAL = ("vqa_rad", "slake")
MADE = ("pathvqa", "fairvlmed_vqa")
_SMALLER: dict[str, dict[str, Any]] = {
    "vqa_rad": {"split": {"rule": "hash", "salt": "vqa_rad@1", "test": 0.01, "val": 0.01}},
    "slake": {"where": {"q_lang": ["en"], "location": ["Neck"]}},
}
_COLUMNS = ["filename", "age", "gender", "race", "ethnicity", "language", "maritalstatus", "note", "glaucoma", "use"]
_EYES = {"Training": 6, "Validation": 2, "Test": 8}
_ASKED = (("what is shown?", "liver"), ("is there necrosis?", "yes"), ("is this the spleen?", "no"))
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def small_vqa_suite(folder: Path) -> Path:
    """Write a `tasks.yaml` whose tasks are the four."""
    tree: dict[str, Any] = yaml.safe_load(suite_path().read_text("utf-8"))
    names = (*REAL, *MADE)
    only = {"manifest": "pending", "tracks": ["zero_shot_vqa"]}
    tasks = {f"{name}@1": tree["tasks"][f"{name}@1"] | only | _SMALLER.get(name, {}) for name in names}
    track = tree["tracks"]["zero_shot_vqa@1"]
    small = {
        "suite": tree["suite"],
        "datasets": {name: tree["datasets"][name] for name in names},
        "tasks": tasks,
        "tracks": {"zero_shot_vqa@1": track | {"recipe": track["recipe"] | {"max_tokens": 4}}},
    }
    path = folder / "tasks.yaml"
    path.write_text(yaml.safe_dump(small, sort_keys=False), "utf-8")
    return path


def made_data(root: Path) -> Path:
    """Lay out PathVQA as on the Hub and FairVLMed with a file of questions, each in its folder of `root`."""
    _pathvqa(root / "pathvqa" / "data")
    _fairvlmed(root / "fairvlmed")
    return root


def _pathvqa(folder: Path) -> None:
    folder.mkdir(parents=True)
    schema = pa.schema([("image", _IMAGE), ("question", pa.string()), ("answer", pa.string())])
    splits = {"train": range(1, 5), "validation": range(5, 7), "test": range(7, 13)}
    for split, shades in splits.items():
        rows = [
            {"image": {"bytes": _jpeg(20 * shade), "path": None}, "question": question, "answer": answer}
            for shade in shades
            for question, answer in _ASKED
        ]
        table = pa.Table.from_pylist(rows, schema)
        pq.write_table(table, folder / f"{split}-00000-of-00001-0f1e2d3c4b5a6978.parquet", row_group_size=4)


def _jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 32), (shade, shade // 2, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


def _fairvlmed(folder: Path) -> None:
    """Eyes of 512 x 664 pixels, numbered over all splits, with one open and one closed question each."""
    rows: list[list[str]] = []
    asked: list[dict[str, str]] = []
    for split in (split for split, count in _EYES.items() for _ in range(count)):
        name, closed = f"data_{len(rows) + 1:05}.npz", "yes" if len(rows) % 2 else "no"
        (folder / split).mkdir(parents=True, exist_ok=True)
        np.savez(folder / split / name, slo_fundus=np.full((664, 512), 15 * len(rows), np.uint8), glaucoma=0, note="")
        rows.append([name, "61.5", "female", "white", "non-hispanic", "english", "single", "-", closed, split.lower()])
        asked.append({"question": "Is there glaucoma?", "answer": closed, "answer_type": "CLOSED", "filename": name})
        asked.append({"question": "What is its cup?", "answer": "large", "answer_type": "OPEN", "filename": name})
    with (folder / "data_summary.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([_COLUMNS, *rows])
    lines = "".join(json.dumps(row) + "\n" for row in asked)
    (folder / "fairvlmed_vqa.jsonl").write_text(lines, "utf-8")
