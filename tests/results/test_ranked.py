"""Retrieval: what is written is read, every score follows from it, and whatever is changed is refused by its place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgery import bump, check, edit, problems, rewrite, rewrite_rows
from submission_factory import LEAKY, World, caption
from vlmed.errors import InputError
from vlmed.hashing import target_digest
from vlmed.metrics.retrieval import retrieve
from vlmed.results.claims import Claims
from vlmed.results.predictions import Found, RetrievalPredictions, read_predictions, write_predictions
from vlmed.results.submit import submit

NAMES = ("recall_at_1", "recall_at_5", "recall_at_10", "mean_reciprocal_rank", "median_rank")
DIRECTIONS = {"": "i2t_", "text_to_image_": "t2i_"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), all_kinds=True)


@pytest.fixture(scope="module")
def honest(world: World) -> Path:
    return world.add("honest", 0.5, tasks=("figures",), tracks=("retrieve",))


@pytest.fixture
def run(honest: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "run"))


def scores_of(run: Path) -> Any:
    return json.loads((run / "result.json").read_text())["units"][0]["scores"]


def table_of(run: Path) -> dict[str, list[Any]]:
    (file,) = (run / "predictions").iterdir()
    columns: dict[str, list[Any]] = pq.read_table(file).to_pydict()
    return columns


def test_an_honest_run_is_accepted_and_every_metric_recomputed(world: World, run: Path) -> None:
    report = check(world, run)
    assert report.problems == []
    assert report.recomputed == 2 * 2 * 2 * len(NAMES)  # all and clean, both directions, strict or not


@pytest.mark.parametrize("part", ["all", "clean"])
@pytest.mark.parametrize("prefix", DIRECTIONS)
@pytest.mark.parametrize("strict", ["", "strict_"])
def test_scores_are_those_of_the_ranks_in_the_file(run: Path, part: str, prefix: str, strict: str) -> None:
    ranks = table_of(run)[f"{DIRECTIONS[prefix]}{strict}rank"][0 if part == "all" else LEAKY :]
    found = scores_of(run)["metrics"][part]
    expected = {f"recall_at_{k}": sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)}
    expected["mean_reciprocal_rank"] = sum(1 / rank for rank in ranks) / len(ranks)
    expected["median_rank"] = median(ranks)
    assert {name: found[f"{prefix}{strict}{name}"]["value"] for name in NAMES} == pytest.approx(expected, abs=1e-6)


def test_text_to_image_is_another_number_and_strict_never_better(run: Path) -> None:
    found = {name: estimate["value"] for name, estimate in scores_of(run)["metrics"]["all"].items()}
    assert found["recall_at_1"] != found["text_to_image_recall_at_1"]
    for prefix in DIRECTIONS:
        assert found[f"{prefix}strict_recall_at_1"] < found[f"{prefix}recall_at_1"]
        assert found[f"{prefix}recall_at_1"] <= found[f"{prefix}recall_at_5"] <= found[f"{prefix}recall_at_10"]


@pytest.mark.parametrize("part", ["all", "clean"])
@pytest.mark.parametrize("metric", ["recall_at_1", "text_to_image_strict_mean_reciprocal_rank", "median_rank"])
@pytest.mark.parametrize("end", ["value", "low", "high"])
def test_one_digit_of_one_number_is_found(world: World, run: Path, part: str, metric: str, end: str) -> None:
    edit(run, f"units/0/scores/metrics/{part}/{metric}/{end}", bump)
    assert [problem.path for problem in check(world, run).problems] == [
        f"$.units[0].scores.metrics.{part}.{metric}.{end}"
    ]


@pytest.mark.parametrize("metric", ["recall_at_5", "strict_recall_at_5", "text_to_image_recall_at_5"])
def test_no_metric_may_be_left_out(world: World, run: Path, metric: str) -> None:
    edit(run, f"units/0/scores/metrics/all/{metric}", ...)
    assert [place for _, place in problems(world, run)] == [f"$.units[0].scores.metrics.all.{metric}"]


FORGERIES = [
    ("rank", 0, "rank lies outside the gallery"),
    ("rank", -3, "rank lies outside the gallery"),
    ("rank", 121, "rank lies outside the gallery"),
    ("rank", lambda rank, _: rank + 1, "rank is not what top gives"),
    ("rank", 11, "rank is not what top gives"),
    ("strict_rank", lambda rank, _: rank + 1, "strict_rank does not fit the rank"),
    ("strict_rank", lambda rank, _: rank - 1, "strict_rank does not fit the rank"),
    ("strict_rank", -1, "strict_rank does not fit the rank"),
    ("strict_rank", 121, "strict_rank does not fit the rank"),
    ("top", lambda top, _: [*top[:9], top[0]], "top names an item twice"),
    ("top", lambda top, _: [*top[:9], "s99999"], "top names no item of the gallery"),
    ("top", lambda top, _: [*top[:9], "S00001 "], "top names no item of the gallery"),
    ("top", lambda top, _: top[:9], "top has another length"),
    ("top", lambda top, ids: [*top, next(name for name in ids if name not in top)], "top has another length"),
    ("top", [], "top has another length"),
    ("top", lambda top, _: [*top[1:], top[0]], "rank is not what top gives"),
]


@pytest.mark.parametrize("prefix", DIRECTIONS.values())
@pytest.mark.parametrize(("column", "value", "what"), FORGERIES)
def test_forged_ranks_are_refused_with_their_row(
    world: World, run: Path, prefix: str, column: str, value: Any, what: str
) -> None:
    table = table_of(run)
    row = next(  # whose caption nobody shares, and which stands among the best, not first and not last
        index
        for index, (rank, target) in enumerate(zip(table[f"{prefix}rank"], table["target"], strict=True))
        if table["target"].count(target) == 1 and 2 <= rank <= 9
    )
    name = f"{prefix}{column}"
    held = table[name][row]
    rewrite_rows(run, row, **{name: value(held, table["sample_id"]) if callable(value) else value})
    assert (f"{prefix}{what}", f"row {row}") in problems(world, run)


def test_a_rank_beyond_top_that_top_holds_is_refused_and_so_is_the_reverse(world: World, run: Path) -> None:
    ranks = table_of(run)["i2t_rank"]
    row = next(index for index, rank in enumerate(ranks) if rank > 10)
    rewrite_rows(run, row, i2t_rank=10, i2t_strict_rank=10)
    assert ("i2t_rank is not what top gives", f"row {row}") in problems(world, run)


def test_a_rank_beyond_top_is_found_by_the_metrics(world: World, run: Path) -> None:
    ranks = table_of(run)["i2t_rank"]
    row = next(index for index, rank in enumerate(ranks) if 10 < rank < 100)
    rewrite_rows(run, row, i2t_rank=ranks[row] + 1, i2t_strict_rank=ranks[row] + 1)
    places = [place for _, place in problems(world, run)]
    assert "$.units[0].scores.metrics.all.mean_reciprocal_rank.value" in places
    assert not any(place.startswith("row") for place in places)


def test_a_strict_rank_before_the_own_items_place_is_refused(world: World, run: Path) -> None:
    table = table_of(run)
    found = zip(table["sample_id"], table["i2t_top"], strict=True)
    places = [top.index(own) + 1 if own in top else 0 for own, top in found]
    row = next(index for index, place in enumerate(places) if place > table["i2t_rank"][index])
    rewrite_rows(run, row, i2t_strict_rank=places[row] - 1)
    assert ("i2t_strict_rank is not what top gives", f"row {row}") in problems(world, run)


@pytest.mark.parametrize("strict_rank", [2, 10])
def test_a_strict_rank_within_top_that_lacks_the_own_item_is_refused(world: World, run: Path, strict_rank: int) -> None:
    table = table_of(run)
    row = next(index for index, own in enumerate(table["sample_id"]) if own not in table["t2i_top"][index])
    rewrite_rows(run, row, t2i_rank=2, t2i_strict_rank=strict_rank)
    assert ("t2i_strict_rank is not what top gives", f"row {row}") in problems(world, run)


Change = Callable[[RetrievalPredictions], RetrievalPredictions]


def column(name: str, row: int, value: str) -> Change:
    def change(predictions: RetrievalPredictions) -> RetrievalPredictions:
        held = list(getattr(predictions, name))
        return replace(predictions, **{name: [*held[:row], value, *held[row + 1 :]]})

    return change


def first(size: int) -> Change:
    def change(predictions: RetrievalPredictions) -> RetrievalPredictions:
        found = (
            Found(found.ranks[:size], found.strict_ranks[:size], found.top[:size])
            for found in predictions.directions.values()
        )
        identity = (predictions.sample_ids[:size], predictions.groups[:size], predictions.targets[:size])
        return RetrievalPredictions(*identity, *found)

    return change


@pytest.mark.parametrize(
    ("change", "what", "place"),
    [
        (column("sample_ids", 5, "s99999"), "this is no test sample of the task", "row 5"),
        (column("sample_ids", 5, "s99999"), "this test sample has no prediction", "s00005"),
        (column("sample_ids", 5, "s00004"), "this sample stands twice", "row 5"),
        (column("groups", 3, "p1"), "the group is not the frozen one", "row 3"),
        (column("targets", 3, target_digest("figures", caption(4, 120))), "the target is not the frozen one", "row 3"),
        (column("targets", 3, target_digest("median", caption(3, 120))), "the target is not the frozen one", "row 3"),
        (column("targets", 3, ""), "the target is not the frozen one", "row 3"),
        (first(119), "this test sample has no prediction", "s00119"),
        (first(0), "this test sample has no prediction", "s00000"),
    ],
)
def test_other_samples_and_targets_are_refused_with_their_row(
    world: World, run: Path, change: Change, what: str, place: str
) -> None:
    rewrite(world, run, change)
    assert (what, place) in problems(world, run)


def test_a_file_of_another_kind_is_refused(world: World, run: Path) -> None:
    other = world.add("classified", 1.0)
    (theirs,), (mine,) = (list((folder / "predictions").iterdir()) for folder in (other, run))
    mine.write_bytes(theirs.read_bytes())
    ((what, _),) = problems(world, run)
    assert what == "wrong columns"


def test_a_null_among_the_best_is_named(world: World, run: Path) -> None:
    (file,) = (run / "predictions").iterdir()
    rewrite_rows(run, 4, t2i_top=[None, *table_of(run)["t2i_top"][4][1:]])
    with pytest.raises(InputError, match="t2i_top") as error:
        read_predictions(file, world.suite.task("figures"))
    assert [problem.path for problem in error.value.problems] == ["row 4"]


def test_a_run_of_retrieval_can_be_submitted(world: World, run: Path, tmp_path: Path) -> None:
    target = submit(check(world, run), "lab", "model", "1", tmp_path / "submissions")
    assert check(world, target).accepted


VECTORS = st.integers(1, 14).flatmap(
    lambda size: st.tuples(
        st.lists(st.tuples(*[st.integers(-1, 1)] * 2).filter(any), min_size=size, max_size=size),
        st.lists(st.tuples(*[st.integers(-1, 1)] * 2).filter(any), min_size=size, max_size=size),
        st.lists(st.sampled_from("abc"), min_size=size, max_size=size),
    )
)


def predicted(images: Any, texts: Any, keys: list[str]) -> RetrievalPredictions:
    ids = [f"s{index:02d}" for index in range(len(keys))]
    i2t, t2i = (Found.of(retrieve(*both, keys, keys), ids) for both in ((images, texts), (texts, images)))
    return RetrievalPredictions(ids, ids, keys, i2t, t2i)


@given(VECTORS)
def test_what_retrieval_finds_never_contradicts_itself_however_many_tie(world: World, drawn: Any) -> None:
    predictions = predicted(*drawn)
    assert list(Claims(world.suite.task("figures"), predictions, "file").problems(None)) == []


@given(VECTORS, st.data())
def test_any_other_rank_within_top_is_refused(world: World, drawn: Any, data: st.DataObject) -> None:
    predictions = predicted(*drawn)
    found, size = predictions.image_to_text, len(drawn[2])
    row = data.draw(st.integers(0, size - 1))
    rank = data.draw(st.integers(-1, 10).filter(lambda rank: rank != found.ranks[row]))
    ranks = found.ranks.copy()
    ranks[row] = rank
    forged = replace(predictions, image_to_text=replace(found, ranks=ranks))
    told = list(Claims(world.suite.task("figures"), forged, "file").problems(None))
    assert f"row {row}" in {problem.path for problem in told}
    assert all(problem.what.startswith("i2t_") for problem in told)


IDS = ["s0", "s1", "s2", "s3"]


@pytest.mark.parametrize(
    ("top", "ranks"),
    [
        # s0 and s1 have one caption. Here nothing that could tie stands behind s0, so its strict rank is its place.
        (("s0", "s2", "s1", "s3"), {(1, 1)}),
        (("s2", "s1", "s3", "s0"), {(2, 4)}),
        (("s1", "s0", "s2", "s3"), {(1, 2)}),
        # Here s1 may tie with s0 or not.
        (("s0", "s1", "s2", "s3"), {(1, 1), (1, 2)}),
        (("s3", "s2", "s0", "s1"), {(3, 3), (3, 4)}),
    ],
)
def test_exactly_the_ranks_that_an_order_allows_are_accepted(
    world: World, top: tuple[str, ...], ranks: set[tuple[int, int]]
) -> None:
    def accepted(rank: int, strict_rank: int) -> bool:
        own = Found(
            np.array([rank, 1, 1, 1]),
            np.array([strict_rank, 2, 1, 1]),
            [top, ("s1", "s0", "s2", "s3"), ("s2", "s0", "s1", "s3"), ("s3", "s0", "s1", "s2")],
        )
        predictions = RetrievalPredictions(IDS, IDS, ["a", "a", "b", "c"], own, own)
        return not list(Claims(world.suite.task("figures"), predictions, "file").problems(None))

    assert {both for both in np.ndindex(7, 7) if accepted(*both)} == ranks


@given(VECTORS)
def test_what_is_written_is_read(world: World, tmp_path_factory: pytest.TempPathFactory, drawn: Any) -> None:
    folder = tmp_path_factory.mktemp("trip")
    predictions = predicted(*drawn)
    for name in ("a", "b"):
        write_predictions(folder / name, predictions)
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    back = read_predictions(folder / "a", world.suite.task("figures"))
    assert isinstance(back, RetrievalPredictions)
    assert (back.sample_ids, back.groups, back.targets) == (
        predictions.sample_ids,
        predictions.groups,
        predictions.targets,
    )
    for mine, theirs in zip(back.directions.values(), predictions.directions.values(), strict=True):
        np.testing.assert_array_equal(mine.ranks, theirs.ranks)
        np.testing.assert_array_equal(mine.strict_ranks, theirs.strict_ranks)
        assert list(mine.top) == list(theirs.top)


def test_only_predictions_are_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="no prediction file holds a dict"):
        write_predictions(tmp_path / "x", {})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
