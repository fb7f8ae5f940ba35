"""Freezing: a manifest with its leaks marked, and one word of the task file changed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from leakage_pictures import cloud
from leaky_tables import Pictures, prepared, saved

from vlmed.data.records import Record
from vlmed.data.table import TaskTable, build_table
from vlmed.errors import InputError, UsageError
from vlmed.hashing import file_hash
from vlmed.leakage.find import Finding, find_leaks
from vlmed.leakage.freeze import freeze_manifest, leak_kinds
from vlmed.progress import Silent
from vlmed.suite.load import load_suite, suite_path
from vlmed.suite.manifest import manifest_path, read_manifest

# Three tasks that are alike, with everything in them that a careless search for `pending` would trip over.
SUITE = """\
# The suite of a test.
suite: "2026.1"
tracks:
  zero_shot@1: {title: Zero-shot, method: zero_shot, recipe: {prompts: default}}
datasets:
  radiographs:
    title: Radiographs
    source: phantom
    modality: chest X-ray
    licence: CC BY 4.0
    access: open
    homepage: https://example.org
    layout: |
      One folder.
          manifest: pending
    identity: patient
tasks:
"""
ENTRY = """\
  {name}@1:
    title: Pneumonia   # manifest: pending
    kind: classification

  # A comment that stands too far left.
    dataset: radiographs
    field: label
    classes:
      - {{name: normal, values: [normal]}}
      - {{name: pneumonia, values: [pneumonia]}}
    split: {{rule: official}}
    prompts: {{default: {{normal: [a], pneumonia: [b]}}}}
    metrics: [auc]
    main_metric: auc
    tracks: [zero_shot]
    notes: |
      manifest: pending
    manifest: pending  # until someone freezes it
"""


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.yaml"
    path.write_text(SUITE + "".join(ENTRY.format(name=name) for name in ("chest", "chest_2")), "utf-8")
    load_suite.cache_clear()
    return path


def table_for(suite_file: Path, name: str = "chest", ids: tuple[str, ...] = ("a", "b", "c")) -> TaskTable:
    splits = ("train", "test", "test")
    rows = [
        Record(key, f"i{n}", f"p{min(n, 1)}", split, {"label": "normal"})
        for n, (key, split) in enumerate(zip(ids, splits, strict=True))
    ]
    files = {"i0": saved(cloud(1, 64)), "i1": saved(cloud(1, 64), "TIFF"), "i2": saved(cloud(2, 64))}
    task = load_suite(suite_file).task(name)
    return prepared(Pictures(rows, files), task, suite_file.parent)[0]


def frozen_lines(suite_file: Path, before: str) -> list[tuple[str, str]]:
    after = suite_file.read_text("utf-8")
    pairs = list(zip(before.splitlines(), after.splitlines(), strict=True))
    return [(old, new) for old, new in pairs if old != new]


@pytest.mark.parametrize("name", ["chest", "chest_2"])
def test_the_hash_goes_to_its_own_task_and_nothing_else_changes(suite_file: Path, name: str) -> None:
    before = suite_file.read_text("utf-8")
    path = freeze_manifest(table_for(suite_file, name), [], suite_file, suite_file.parent)
    ((old, new),) = frozen_lines(suite_file, before)
    assert old == "    manifest: pending  # until someone freezes it"
    assert new == f"    manifest: {file_hash(path)}  # until someone freezes it"
    load_suite.cache_clear()
    tasks = load_suite(suite_file).tasks.values()
    assert {task.name: task.pending for task in tasks} == {other: other != name for other in ("chest", "chest_2")}


def test_a_frozen_task_is_proved_and_knows_its_leaks(suite_file: Path) -> None:
    table = table_for(suite_file)
    findings = [Finding("b", "pixels", "a", "train", 1), Finding("b", "group", "a", "train", 1)]
    freeze_manifest(table, findings, suite_file, suite_file.parent)
    load_suite.cache_clear()
    task = load_suite(suite_file).task("chest")
    manifest = read_manifest(task, suite_file.parent)
    assert [(row.sample_id, row.leaks) for row in manifest.rows] == [("a", ""), ("b", "group;pixels"), ("c", "")]
    records = [Record(s.id, s.image, s.group, s.split, s.fields) for s in table.samples]
    assert [sample.leaks for sample in build_table(task, records, manifest).samples] == ["", "group;pixels", ""]


def test_found_leaks_are_frozen_the_same_whoever_freezes_them(suite_file: Path) -> None:
    table = table_for(suite_file)
    findings = find_leaks(table, lambda name: cloud(2, 64), Silent())
    assert leak_kinds(findings) == leak_kinds(findings[::-1])


def test_a_frozen_task_is_never_frozen_again(suite_file: Path) -> None:
    path = freeze_manifest(table_for(suite_file), [], suite_file, suite_file.parent)
    load_suite.cache_clear()
    files = suite_file.read_bytes(), path.read_bytes()
    with pytest.raises(UsageError, match=r"chest@1 is frozen already(.|\n)*add chest@2 beside it"):
        freeze_manifest(table_for(suite_file), [], suite_file, suite_file.parent)
    assert (suite_file.read_bytes(), path.read_bytes()) == files


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  chest@1:\n", '  "chest@1":\n'),
        ("  chest@1:\n", "  other@1:\n"),
        ("    manifest: pending  #", "    'manifest': pending  #"),
        ("    manifest: pending  #", f"    manifest: {'0' * 64}  #"),
    ],
    ids=["quoted name", "other name", "quoted key", "frozen meanwhile"],
)
def test_a_task_file_without_a_place_for_the_hash_leaves_no_manifest(suite_file: Path, old: str, new: str) -> None:
    table = table_for(suite_file)
    suite_file.write_text(suite_file.read_text("utf-8").replace(old, new, 1), "utf-8")
    before = suite_file.read_bytes()
    with pytest.raises(UsageError, match=r"no place for the hash(.|\n)*under `  chest@1:`"):
        freeze_manifest(table, [], suite_file, suite_file.parent)
    assert suite_file.read_bytes() == before
    assert not manifest_path(table.task, suite_file.parent).exists()


def test_a_value_that_no_manifest_can_hold_changes_nothing(suite_file: Path) -> None:
    table, before = table_for(suite_file, ids=("a", "b,c", "d")), suite_file.read_bytes()
    with pytest.raises(InputError, match="comma"):
        freeze_manifest(table, [], suite_file, suite_file.parent)
    assert suite_file.read_bytes() == before
    assert not manifest_path(table.task, suite_file.parent).exists()


def test_every_pending_task_of_the_shipped_file_can_be_frozen(suite_file: Path) -> None:
    shipped = load_suite()
    text = suite_path().read_text("utf-8")
    pending = [task for task in shipped.tasks.values() if task.pending]
    assert pending
    for task in pending:
        suite_file.write_text(text, "utf-8")
        freeze_manifest(TaskTable(task, ()), [], suite_file, suite_file.parent)
        after = suite_file.read_text("utf-8").splitlines()
        (changed,) = (n for n, line in enumerate(text.splitlines()) if line != after[n])
        assert [line for line in after[:changed] if re.match(r"  \S+@\d+:", line)][-1] == f"  {task.id}:"
