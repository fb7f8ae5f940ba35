"""Prediction files of many rows: written and read group by group, and refused before decoding where they hold more."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from submission_factory import World
from vlmed.errors import InputError
from vlmed.results import columns
from vlmed.results.pages import check_pages
from vlmed.results.predictions import parse_predictions, read_predictions, write_predictions

SAMPLES = 120
KINDS = {"chest": "zero_shot", "figures": "retrieve", "questions": "answer"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("rows"), samples=SAMPLES, all_kinds=True)


@pytest.fixture(scope="module")
def files(world: World) -> dict[str, Path]:
    """Task -> the prediction file of a model."""
    runs = {task: world.add(task, tasks=(task,), tracks=(track,)) for task, track in KINDS.items()}
    return {task: next((run / "predictions").iterdir()) for task, run in runs.items()}


def plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("task", KINDS)
def test_rows_written_in_groups_are_the_same(
    world: World, files: dict[str, Path], task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = world.suite.task(task)
    whole = read_predictions(files[task], definition)
    monkeypatch.setattr(columns, "_GROUP_ROWS", 7)
    write_predictions(tmp_path / "a", whole)
    assert pq.ParquetFile(tmp_path / "a").num_row_groups == -(-SAMPLES // 7)
    back = read_predictions(tmp_path / "a", definition)
    assert plain(back) == plain(whole)


def test_more_rows_than_the_frozen_test_set_are_refused_undecoded(world: World, files: dict[str, Path]) -> None:
    task, content = world.suite.task("chest"), bytearray(files["chest"].read_bytes())
    assert len(parse_predictions(bytes(content), Path("x"), task, SAMPLES).sample_ids) == SAMPLES
    content[4:200] = b"\xff" * 196  # Whoever decodes these pages fails with other words.
    with pytest.raises(InputError, match="too many rows") as caught:
        parse_predictions(bytes(content), Path("x"), task, SAMPLES - 1)
    assert (caught.value.problems[0].expected, caught.value.problems[0].got) == ("at most 119", "120")


def test_fewer_rows_are_read_so_that_the_missing_can_be_named(world: World, files: dict[str, Path]) -> None:
    found = parse_predictions(files["figures"].read_bytes(), Path("x"), world.suite.task("figures"), SAMPLES + 1)
    assert len(found.sample_ids) == SAMPLES


def test_a_test_set_may_hold_more_than_any_task_without_one(
    world: World, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "_MOST_ROWS", SAMPLES - 1)
    task, content = world.suite.task("figures"), files["figures"].read_bytes()
    with pytest.raises(InputError, match="too many rows"):
        parse_predictions(content, Path("x"), task)
    assert len(parse_predictions(content, Path("x"), task, SAMPLES).sample_ids) == SAMPLES


def test_texts_of_all_groups_count_together(
    world: World, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = world.suite.task("chest")
    monkeypatch.setattr(columns, "_GROUP_ROWS", 10)
    write_predictions(tmp_path / "a", read_predictions(files["chest"], task))
    monkeypatch.setattr(columns, "_MOST_TEXT", 12 * SAMPLES)  # an id and a group take 6 bytes each
    assert len(read_predictions(tmp_path / "a", task).sample_ids) == SAMPLES
    monkeypatch.setattr(columns, "_MOST_TEXT", 12 * SAMPLES - 1)
    with pytest.raises(InputError, match="too much text"):
        read_predictions(tmp_path / "a", task)


@pytest.mark.parametrize(("classes", "fits"), [(12, True), (16, False)])
def test_a_million_samples_of_a_dozen_classes_are_read(tmp_path: Path, classes: int, fits: bool) -> None:
    rows = 1_000_000
    zeros = pa.array(np.zeros(rows * classes, np.float32))
    lists = pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * classes), zeros)
    pq.write_table(pa.table({"target": np.zeros(rows, np.int32), "probabilities": lists}), tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    with nullcontext() if fits else pytest.raises(InputError, match=r"the pages declare \d+ numbers"):
        check_pages(content, pq.ParquetFile(pa.BufferReader(content)).metadata, tmp_path / "a")
