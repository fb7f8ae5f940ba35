from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from submission_factory import TASKS, TRACKS, dataset
from vlmed.errors import InputError, MissingError, UsageError
from vlmed.suite.check import definition_problems
from vlmed.suite.load import load_suite

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a small suite, changed as told by `path -> value`, and gives its file."""

    def write_suite(changes: dict[str, Any] | None = None) -> Path:
        tree: dict[str, Any] = {
            "suite": "2026.1",
            "datasets": {"radiographs": dataset("radiographs")},
            "tasks": {"chest@1": TASKS["chest@1"]},
            "tracks": TRACKS,
        }
        tree = yaml.safe_load(yaml.safe_dump(tree))
        for path, value in (changes or {}).items():
            *parents, last = path.split("/")
            node = tree
            for parent in parents:
                node = node[parent]
            if value is ...:
                del node[last]
            else:
                node[last] = value
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
        file.write_text(yaml.safe_dump(tree, sort_keys=False))
        return file

    return write_suite


def test_the_shipped_suite_has_every_task_of_the_papers() -> None:
    papers = """chexpert gf3300 papila ham10000 fairvlmed camelyon17 breastmnist pneumoniamnist organamnist organcmnist
        roco_radiology roco_nonradiology roco_mixed vqa_rad slake pathvqa fairvlmed_vqa"""
    suite = load_suite()
    assert {task.name for task in suite.current_tasks()} >= {*papers.split(), "phantom_lesion"}
    assert not suite.task("phantom_lesion").dataset.medical


def test_newest_version_is_found_by_name_and_old_ones_by_id(write: Write) -> None:
    suite = load_suite(write({"tasks/chest@2": TASKS["chest@1"]}))
    assert suite.task("chest").id == "chest@2"
    assert suite.task("chest@1").id == "chest@1"
    assert [task.id for task in suite.current_tasks()] == ["chest@2"]


def test_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="'breastmnist'"):
        load_suite().task("brestmnist")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        load_suite(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"extra": 1}, "'extra' was unexpected"),
        ({"tasks/chest@1/promts": {}}, "'promts' was unexpected"),
        ({"tasks/chest@1/main_metric": ...}, "'main_metric' is a required property"),
        ({"tasks/chest@1/kind": "segmentation"}, "$.tasks['chest@1'].kind"),
        ({"tasks/chest@1/manifest": "frozen"}, "$.tasks['chest@1'].manifest"),
        ({"tasks/chest@1/classes": ...}, "'classes' is a required property"),
        ({"tasks/chest": TASKS["chest@1"]}, "'chest' does not match"),
        ({"tasks/chest@1/split": {"rule": "hash"}}, "'salt' is a required property"),
        ({"tasks/chest@1/split": {"rule": "official", "test": 0.2}}, "split"),
        ({"datasets/radiographs/homepage": "javascript:alert(1)"}, "homepage"),
        ({"tasks/chest@1/dataset": "radiograph"}, "unknown data set"),
        ({"tasks/chest@1/tracks": ["zero_shot", "magic"]}, "$.tasks.chest@1.tracks[1]"),
        ({"suite": 2026.1}, "$.suite"),
    ],
)
def test_bad_definitions_are_refused_with_their_place(write: Write, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        load_suite(write(changes))
    assert says in str(caught.value)


def test_all_problems_are_listed_at_once(write: Write) -> None:
    with pytest.raises(InputError) as caught:
        load_suite(write({"extra": 1, "tasks/chest@1/kind": "x", "tracks/zero_shot@1/method": "y"}))
    text = str(caught.value)
    assert "extra" in text
    assert "$.tasks['chest@1'].kind" in text
    assert "$.tracks['zero_shot@1'].method" in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\na: 2\n", "line 2"),
        ("a: [", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("a: 1\n\tb: 2", "not YAML"),
    ],
)
def test_bad_yaml_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=says):
        load_suite(file)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"metrics": ["auc", "recall_at_1"]}, "no metric of a classification task"),
        ({"main_metric": "f1"}, "the main metric is not among the metrics"),
        ({"exclude": ["normal"]}, "a label value means two things"),
        ({"prompts": {"default": {"normal": ["a"], "flu": ["b"]}}}, "prompts don't fit the classes"),
        ({"prompts": {"default": {"normal": ["a"], "pneumonia": ["b", "c"]}}}, "template i is not defined"),
        ({"split": {"rule": "hash", "salt": "s", "test": 0.6, "val": 0.5}}, "nothing is left for train"),
    ],
)
def test_meaning_is_checked(write: Write, changes: dict[str, Any], says: str) -> None:
    suite = load_suite(write({f"tasks/chest@1/{key}": value for key, value in changes.items()}))
    assert any(says in problem.what for problem in definition_problems(suite.task("chest")))


def test_digest_covers_what_decides_a_score_and_nothing_else(write: Write) -> None:
    frozen = load_suite(write()).task("chest").digest
    for prose in ({"tasks/chest@1/title": "T"}, {"tasks/chest@1/notes": "n"}, {"datasets/radiographs/licence": "X"}):
        assert load_suite(write(prose)).task("chest").digest == frozen
    for change in (
        {"tasks/chest@1/prompts": {"default": {"normal": ["an image of Normal"], "pneumonia": ["an image"]}}},
        {"tasks/chest@1/metrics": ["auc"]},
        {"tasks/chest@1/manifest": "0" * 64},
        {"datasets/radiographs/options": {"seed": 1}},
        {"tasks/chest@1/split": {"rule": "hash", "salt": "s", "test": 0.2, "val": 0.1}},
    ):
        assert load_suite(write(change)).task("chest").digest != frozen
