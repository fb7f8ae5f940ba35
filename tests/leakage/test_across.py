"""What tasks share with one another, counted by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from leaky_tables import make_task

from vlmed.leakage.across import Shared, find_shared
from vlmed.leakage.contamination import Corpus, Edge, Graph
from vlmed.suite.frozen_rows import Row
from vlmed.suite.load import load_suite
from vlmed.suite.manifest import Manifest, read_manifest
from vlmed.suite.types import Task

NO_GRAPH = Graph({}, (), {})


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(tmp_path)


def on(task: Task, name: str, dataset: str, **options: Any) -> Task:
    return replace(task, name=name, dataset=replace(task.dataset, name=dataset, options=options))


def manifest(*rows: str) -> Manifest:
    """From rows such as `id split image group`; `-` is nothing."""
    cells = ([cell.replace("-", "") for cell in row.split()] for row in rows)
    return Manifest("test.csv", tuple(Row(*each, target="") for each in cells))


def graph(*edges: Edge) -> Graph:
    names = {name for edge in edges for name in (edge.a, edge.b)}
    return Graph({name: Corpus(name, name, "", ()) for name in names}, edges, {})


def shared(a: Task, b: Task, rows_a: Manifest, rows_b: Manifest, corpora: Graph = NO_GRAPH) -> list[Shared]:
    return find_shared([a, b], {a.id: rows_a, b.id: rows_b}, corpora)


def test_images_are_counted_once_and_by_direction(task: Task) -> None:
    a, b = on(task, "a", "x"), on(task, "b", "y")
    # Two questions on image 1; image 2 is in train of both; image 3 in val of a and test of b; image 9 in a alone.
    mine = manifest("q1 test 1 p1", "q2 test 1 p1", "q3 train 2 p2", "q4 val 3 p3", "q5 test 9 p4")
    theirs = manifest("r1 val 1 g1", "r2 train 2 g2", "r3 test 3 g3")
    assert shared(a, b, mine, theirs) == [Shared("a@1", "b@1", "pixels", 3, 1, 1)]


def test_different_data_sets_whose_ids_look_alike_share_nothing(task: Task) -> None:
    a, b = on(task, "a", "x"), on(task, "b", "y")
    mine, theirs = manifest("1 test - p1"), manifest("1 train - p1")
    assert shared(a, b, mine, theirs) == []
    assert shared(a, b, manifest("1 test i p1"), manifest("1 train j p1")) == []


def test_tasks_frozen_from_ids_of_one_release_are_compared_by_them(task: Task) -> None:
    a, b = on(task, "a", "x", folder="moles", part="one"), on(task, "b", "y", folder="moles", part="both")
    mine = manifest("1 test - p1", "2 train - p2", "3 test - p3")
    theirs = manifest("1 train - p1", "2 train - p2", "4 val - p3")
    assert shared(a, b, mine, theirs) == [
        Shared("a@1", "b@1", "groups", 3, 2, 0),
        Shared("a@1", "b@1", "ids", 2, 1, 0),
    ]


def test_one_task_with_images_and_one_without_are_compared_by_id(task: Task) -> None:
    a, b = on(task, "a", "x"), on(task, "b", "x")
    (found,) = shared(a, b, manifest("1 test i -"), manifest("1 train - -"))
    assert (found.by, found.shared, found.test_in_train) == ("ids", 1, 1)


def test_where_images_are_frozen_ids_are_not_asked(task: Task) -> None:
    a, b = on(task, "a", "x"), on(task, "b", "x")
    assert [found.by for found in shared(a, b, manifest("1 test i -"), manifest("1 train i -"))] == ["pixels"]


def test_empty_groups_and_images_are_no_identity(task: Task) -> None:
    a, b = on(task, "a", "x"), on(task, "b", "x")
    assert shared(a, b, manifest("1 test - -"), manifest("2 train - -")) == []


def test_related_data_sets_are_told_with_their_way(task: Task) -> None:
    a, b = on(task, "a", "slices"), on(task, "b", "more_slices")
    corpora = graph(
        Edge("slices", "derived_from", "scans", "certain", "s"),
        Edge("more_slices", "derived_from", "scans", "certain", "s"),
    )
    (found,) = find_shared([a, b], {}, corpora)
    assert (found.by, found.shared) == ("corpora", None)
    assert found.reason == "likely: slices is derived from scans; more_slices is derived from scans"


def test_a_data_set_inside_another_is_found_in_either_order(task: Task) -> None:
    corpora = graph(Edge("whole", "contains", "part", "certain", "s"))
    for names in (("whole", "part"), ("part", "whole")):
        a, b = (on(task, name, name) for name in names)
        (found,) = find_shared([a, b], {}, corpora)
        assert found.reason == "certain: whole contains part"


def test_two_tasks_on_one_data_set_need_no_graph(task: Task) -> None:
    assert find_shared([on(task, "a", "x"), on(task, "b", "x")], {}, graph()) == []


def test_what_leaks_comes_first(task: Task) -> None:
    tasks = [on(task, name, name) for name in "abc"]
    manifests = {
        "a@1": manifest("1 train i -", "2 train j -", "3 train k -"),
        "b@1": manifest("1 train i -", "2 train j -"),
        "c@1": manifest("1 test k -"),
    }
    found = find_shared(tasks, manifests, NO_GRAPH)
    assert [(one.task_a, one.task_b) for one in found] == [("a@1", "c@1"), ("a@1", "b@1")]


# The frozen suite


@pytest.fixture(scope="module")
def suite() -> Mapping[tuple[str, str, str], Shared]:
    """What the shipped tasks share, by pair and respect."""
    tasks = load_suite().current_tasks()
    manifests = {task.id: read_manifest(task) for task in tasks if not task.pending}
    found = find_shared(tasks, manifests)
    return {(one.task_a.split("@")[0], one.task_b.split("@")[0], one.by): one for one in found}


def test_both_parts_of_roco_are_in_the_mixed_one(suite: Mapping[tuple[str, str, str], Shared]) -> None:
    parts = [suite[part, "roco_mixed", "ids"] for part in ("roco_radiology", "roco_nonradiology")]
    assert [(part.shared, part.test_in_train, part.train_in_test) for part in parts] == [
        (65_448 + 8_180 + 8_179, 0, 0),
        (4_895 + 611 + 612, 0, 0),
    ]


def test_the_two_parts_of_roco_share_articles_across_splits(suite: Mapping[tuple[str, str, str], Shared]) -> None:
    found = suite["roco_radiology", "roco_nonradiology", "groups"]
    assert (found.shared, found.test_in_train, found.train_in_test) == (1_049, 165, 112)
    assert ("roco_radiology", "roco_nonradiology", "ids") not in suite


def test_both_questions_on_ham10000_have_one_split(suite: Mapping[tuple[str, str, str], Shared]) -> None:
    found = suite["ham10000", "ham10000_malignant", "ids"]
    assert (found.shared, found.test_in_train, found.train_in_test) == (10_015, 0, 0)


def test_the_two_splits_of_vqa_rad_must_not_be_mixed(suite: Mapping[tuple[str, str, str], Shared]) -> None:
    found = suite["vqa_rad", "vqa_rad_official", "pixels"]
    assert found.shared == 314
    assert found.test_in_train and found.train_in_test


def test_slices_of_the_same_scans_are_told(suite: Mapping[tuple[str, str, str], Shared]) -> None:
    assert "organamnist shares its source with organcmnist" in suite["organamnist", "organcmnist", "corpora"].reason
    assert suite["organamnist", "slake", "corpora"].reason.startswith("likely: ")
