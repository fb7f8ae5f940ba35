"""Prepared data sets and the tables of tasks: read once, proved always."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from submission_factory import TASKS, TRACKS, dataset
from vlmed.data.prepare import PreparedDataset, prepare
from vlmed.data.records import Record
from vlmed.data.table import TaskTable, build_table, manifest_problems, manifest_rows
from vlmed.errors import InputError, MissingError, VlmedError
from vlmed.hashing import pixel_hash
from vlmed.progress import Silent
from vlmed.suite.load import load_suite
from vlmed.suite.manifest import Manifest
from vlmed.suite.types import SplitRule, Task


class Files:
    """A source whose images are in memory; counts what is read."""

    def __init__(self, rows: list[Record], images: Mapping[str, bytes | VlmedError]) -> None:
        self.rows, self.images, self.read = rows, images, 0

    def records(self) -> list[Record]:
        return self.rows

    def image(self, key: str) -> bytes:
        self.read += 1
        found = self.images[key]
        if isinstance(found, VlmedError):
            raise found
        return found


def png(level: int) -> bytes:
    data = io.BytesIO()
    Image.new("L", (4, 4), level).save(data, "PNG")
    return data.getvalue()


def rows(count: int = 12) -> list[Record]:
    splits = ("train", "val", "test")
    labels = ("normal", "pneumonia")
    return [
        Record(f"r{n:02d}", f"i{n // 2}", f"p{n}", splits[n % 3], {"label": labels[n % 2], "sex": "female"})
        for n in range(count)
    ]


@pytest.fixture
def source() -> Files:
    return Files(rows(), {f"i{n}": png(n) for n in range(6)})


@pytest.fixture
def task(tmp_path: Path) -> Task:
    import yaml

    tree: dict[str, Any] = {
        "suite": "2026.1",
        "datasets": {"radiographs": dataset("radiographs") | {"subgroups": ["sex"]}},
        "tasks": {"chest@1": TASKS["chest@1"]},
        "tracks": TRACKS,
    }
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(tree))
    return load_suite(tmp_path / "tasks.yaml").task("chest")


def prepared(source: Files, folder: Path, task: Task) -> PreparedDataset:
    return prepare(task.dataset, source, folder, Silent())


def test_images_come_back_by_their_pixel_hash(source: Files, task: Task, tmp_path: Path) -> None:
    data = prepared(source, tmp_path / "p", task)
    assert source.read == 6
    for record, original in zip(data.records, source.rows, strict=True):
        image = data.image(record.image)
        assert pixel_hash(image) == record.image
        assert image.getpixel((0, 0)) == int(original.image[1:])
        assert (record.id, record.group, record.split) == (original.id, original.group, original.split)
        assert record.fields == original.fields
    assert data.damaged_images() == []


def test_a_second_preparation_reads_nothing(source: Files, task: Task, tmp_path: Path) -> None:
    prepared(source, tmp_path / "p", task)
    source.read = 0
    prepared(source, tmp_path / "p", task)
    assert source.read == 0


def test_a_killed_preparation_goes_on_with_the_next_shard(
    monkeypatch: pytest.MonkeyPatch, source: Files, task: Task, tmp_path: Path
) -> None:
    monkeypatch.setattr("vlmed.data.prepare._SHARD", 2)
    source.images = {**source.images, "i4": KeyboardInterrupt()}  # type: ignore[dict-item]

    def interrupted(key: str) -> bytes:
        source.read += 1
        if key == "i4":
            raise KeyboardInterrupt
        return png(int(key[1:]))

    original = Files.image
    source.image = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        prepared(source, tmp_path / "p", task)
    again = Files(source.rows, {f"i{n}": png(n) for n in range(6)})
    assert original
    data = prepared(again, tmp_path / "p", task)
    assert again.read == 2
    assert len({record.image for record in data.records}) == 6


def test_every_bad_image_is_listed_and_nothing_is_called_ready(source: Files, task: Task, tmp_path: Path) -> None:
    source.images = {**source.images, "i1": b"no image", "i3": png(3)[:40]}
    with pytest.raises(InputError) as caught:
        prepared(source, tmp_path / "p", task)
    assert [problem.file for problem in caught.value.problems] == ["i1", "i3"]
    assert not (tmp_path / "p" / "records.arrow").exists()


def test_missing_images_are_missing_not_damaged(source: Files, task: Task, tmp_path: Path) -> None:
    source.images = {**source.images, "i1": MissingError("the image is not there", file="i1.png")}
    with pytest.raises(MissingError, match=r"i1\.png"):
        prepared(source, tmp_path / "p", task)


def test_a_damaged_prepared_file_is_named(source: Files, task: Task, tmp_path: Path) -> None:
    prepared(source, tmp_path / "p", task)
    (tmp_path / "p" / "records.arrow").write_bytes(b"x" * 100)
    with pytest.raises(InputError, match=r"records\.arrow"):
        _ = prepared(source, tmp_path / "p", task).records


def test_a_changed_prepared_image_is_found(source: Files, task: Task, tmp_path: Path) -> None:
    data = prepared(source, tmp_path / "p", task)
    file = tmp_path / "p" / "images-00000.arrow"
    hashes = sorted({record.image for record in data.records})
    file.write_bytes(file.read_bytes().replace(hashes[0].encode(), b"0" * 32))
    (problem,) = PreparedDataset(tmp_path / "p").damaged_images()
    assert problem.expected == "0" * 32
    assert problem.got == hashes[0]


def frozen(task: Task, records: list[Record]) -> tuple[TaskTable, Manifest]:
    table = build_table(task, records, None)
    return table, Manifest("chest-v1.csv", tuple(manifest_rows(table, {"r02": "near"})))


def test_the_frozen_data_are_proved_whatever_their_order(task: Task) -> None:
    _, manifest = frozen(task, rows())
    table = build_table(task, reversed(rows()), manifest)
    assert [sample.id for sample in table.samples] == sorted(record.id for record in rows())
    assert [sample.id for sample in table.samples if sample.leaks] == ["r02"]
    assert manifest.rows[0].subgroups == "sex=female"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image": "other"}, "the image is not the frozen one"),
        ({"group": "other"}, "the group is not the frozen one"),
        ({"split": "train"}, "the split is not the frozen one"),
        ({"fields": {"label": "pneumonia", "sex": "female"}}, "the label is not the frozen one"),
        ({"fields": {"label": "normal", "sex": "male"}}, "the subgroup is not the frozen one"),
        ({"id": "r99"}, "never frozen"),
    ],
)
def test_any_other_sample_is_refused_by_name(task: Task, change: dict[str, Any], says: str) -> None:
    _, manifest = frozen(task, rows())
    changed = rows()
    changed[4] = replace(changed[4], **change)
    with pytest.raises(InputError) as caught:
        build_table(task, changed, manifest)
    text = str(caught.value)
    assert says in text
    assert change.get("id", "r04") in text


def test_missing_samples_are_all_named(task: Task) -> None:
    table, manifest = frozen(task, rows())
    short = replace(table, samples=table.samples[2:])
    assert [problem.path for problem in manifest_problems(short, manifest)] == ["r00", "r01"]


def test_every_unknown_label_is_named(task: Task) -> None:
    bad = [replace(record, fields={"label": "flu"}) if record.id in ("r01", "r05") else record for record in rows()]
    with pytest.raises(InputError) as caught:
        build_table(task, bad, None)
    assert [problem.path for problem in caught.value.problems] == ["r01", "r05"]
    assert len(build_table(replace(task, exclude=("flu",)), bad, None).samples) == 10


def test_a_repeated_id_is_refused(task: Task) -> None:
    with pytest.raises(InputError, match="stands twice"):
        build_table(task, [*rows(), rows()[0]], None)


def test_where_keeps_only_what_matches(task: Task) -> None:
    chosen = replace(task, where={"sex": ("male",)})
    mixed = [
        replace(record, fields={**record.fields, "sex": ("male", "female")[n % 4 == 0]})
        for n, record in enumerate(rows())
    ]
    assert len(build_table(chosen, mixed, None).samples) == 9


def test_a_split_without_samples_says_so(task: Task) -> None:
    table = build_table(replace(task, split=SplitRule("hash", "s", 1e-9, 1e-9)), rows(), None)
    with pytest.raises(InputError, match="no test samples"):
        table.split("test")
