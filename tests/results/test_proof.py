"""The proof by columns says yes to honest files and to no file in which the proof by rows finds a problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from submission_factory import World
from vlmed.hashing import target_digest
from vlmed.metrics.retrieval import retrieve
from vlmed.results.claims import Claims
from vlmed.results.frozen import Frozen
from vlmed.results.predictions import Found, Predictions, RetrievalPredictions, read_predictions
from vlmed.results.proof import plainly_right
from vlmed.suite.frozen_rows import Keyed, Row, Rows
from vlmed.suite.manifest import Manifest
from vlmed.suite.types import Task

DIRECTIONS = ("image_to_text", "text_to_image")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), samples=30, all_kinds=True)


def stored(world: World, name: str, track: str) -> tuple[Task, Predictions, Keyed]:
    task = world.suite.task(name)
    folder = world.add(f"{name}-model", 0.5, tasks=(name,), tracks=(track,))
    (file,) = (folder / "predictions").iterdir()
    return task, read_predictions(file, task), Frozen(world.manifests).test(task)


def found_by_rows(task: Task, predictions: Predictions, test: Keyed) -> list[str]:
    manifest = Manifest("", test.rows)
    return [problem.what for problem in Claims(task, predictions, "f").problems(manifest, None, test)]


@pytest.mark.parametrize(("name", "track"), [("chest", "zero_shot"), ("organ", "zero_shot"), ("figures", "retrieve")])
def test_honest_files_are_plainly_right(world: World, name: str, track: str) -> None:
    honest = stored(world, name, track)
    assert plainly_right(*honest)
    assert found_by_rows(*honest) == []


def test_answers_are_left_to_the_rows(world: World) -> None:
    assert not plainly_right(*stored(world, "questions", "answer"))


def swapped(values: Any) -> Any:
    """The first two of a column, exchanged."""
    changed = [values[1], values[0], *values[2:]]
    return np.array(changed) if isinstance(values, np.ndarray) else changed


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a sample stands in another row": lambda p: replace(p, sample_ids=swapped(p.sample_ids)),
    "a sample stands twice": lambda p: replace(p, sample_ids=[p.sample_ids[0], *p.sample_ids[:-1]]),
    "an unknown sample": lambda p: replace(p, sample_ids=["x", *p.sample_ids[1:]]),
    "another group": lambda p: replace(p, groups=["x", *p.groups[1:]]),
    "another target": lambda p: replace(p, targets=swapped(p.targets)),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize(("name", "track"), [("organ", "zero_shot"), ("figures", "retrieve")])
def test_other_samples_groups_and_targets_are_not(world: World, name: str, track: str, change: Any) -> None:
    task, predictions, test = stored(world, name, track)
    changed = change(predictions)
    assert not plainly_right(task, changed, test)
    assert found_by_rows(task, changed, test)


@pytest.mark.parametrize("target", [-1, 3, 2**31 - 1])
def test_a_target_that_is_no_class_is_not(world: World, target: int) -> None:
    task, predictions, test = stored(world, "organ", "zero_shot")
    targets = np.array([target, *predictions.targets[1:]])
    assert not plainly_right(task, replace(predictions, targets=targets), test)


def test_a_part_of_the_samples_and_none_are_not(world: World) -> None:
    task, predictions, test = stored(world, "figures", "retrieve")
    fewer = Keyed(test.rows[:-1])
    assert not plainly_right(task, predictions, fewer)
    assert not plainly_right(task, predictions, Keyed(Rows.of([])))


def test_a_caption_that_nobody_published_proves_nothing(world: World) -> None:
    task, predictions, test = stored(world, "figures", "retrieve")
    assert plainly_right(task, predictions, Keyed(Rows.of(replace(row, target="") for row in test.rows)))


@st.composite
def galleries(draw: st.DrawFn) -> tuple[RetrievalPredictions, Keyed]:
    """What few vectors of few values find, so that scores and captions tie wherever they can."""
    size = draw(st.sampled_from((1, 2, 9, 11, 14, 20)))
    random = np.random.RandomState(draw(st.integers(0, 2**31)))
    images, texts = random.randint(1, 4, (2, size, 2))
    keys = [target_digest("figures", str(key)) for key in random.randint(0, draw(st.sampled_from((1, 3, 8, 20))), size)]
    ids = [f"s{row:02d}" for row in range(size)]
    both = (Found.of(retrieve(*pair, keys, keys), ids) for pair in ((images, texts), (texts, images)))
    test = Keyed(Rows.of(Row(name, "test", "", name, key) for name, key in zip(ids, keys, strict=True)))
    return RetrievalPredictions(ids, ids, keys, *both), test


@settings(deadline=None)
@given(galleries())
def test_what_retrieval_finds_is_plainly_right_however_many_tie(world: World, drawn: Any) -> None:
    predictions, test = drawn
    assert plainly_right(world.suite.task("figures"), predictions, test)


@settings(deadline=None, max_examples=250)
@given(galleries(), st.data())
def test_columns_and_rows_agree_on_every_forged_query(world: World, drawn: Any, data: st.DataObject) -> None:
    predictions, test = drawn
    direction = data.draw(st.sampled_from(DIRECTIONS))
    forged = _forged(getattr(predictions, direction), len(test), data)
    changed = replace(predictions, **{direction: forged})
    task = world.suite.task("figures")
    assert plainly_right(task, changed, test) == (not found_by_rows(task, changed, test))


@pytest.mark.parametrize(("rank", "fits"), [(11, True), (13, True), (14, False), (10, False)])
def test_a_rank_beyond_the_best_is_at_most_behind_all_wrong_items(world: World, rank: int, fits: bool) -> None:
    ids = [f"s{row:02d}" for row in range(14)]
    keys = [*ids[:13], ids[12]]  # the last two have one caption, so that 12 items are wrong for them
    top = [(name, *[other for other in ids if other != name][:9]) for name in ids[:13]]
    found = Found(np.array([1] * 13 + [rank]), np.array([1] * 13 + [14]), [*top, tuple(ids[:10])])
    predictions = RetrievalPredictions(ids, ids, keys, found, found)
    test = Keyed(Rows.of(Row(name, "test", "", name, key) for name, key in zip(ids, keys, strict=True)))
    task = world.suite.task("figures")
    assert plainly_right(task, predictions, test) == fits
    assert (not found_by_rows(task, predictions, test)) == fits


def _forged(found: Found, size: int, data: st.DataObject) -> Found:
    """With another rank, strict rank, both, or best items of one query."""
    row = data.draw(st.integers(0, size - 1))
    what = data.draw(st.sampled_from((("ranks",), ("strict_ranks",), ("ranks", "strict_ranks"), ())))
    if what:
        rank = data.draw(st.integers(-1, size + 2))
        ranks = {name: np.where(np.arange(size) == row, rank, getattr(found, name)) for name in what}
        return replace(found, **ranks)
    items = st.sampled_from([*(f"s{index:02d}" for index in range(size)), "x"])
    own = found.top[row]
    best = data.draw(st.one_of(st.permutations(own).map(tuple), st.lists(items, max_size=len(own) + 1).map(tuple)))
    return replace(found, top=[*found.top[:row], best, *found.top[row + 1 :]])
