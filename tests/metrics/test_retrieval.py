"""Ranks against plain sorting in integers, and metrics of ranks against hand-worked values and repeated queries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmed.errors import InputError
from vlmed.metrics import retrieval
from vlmed.metrics.retrieval import Ranked, mean_reciprocal_rank, median_rank, recall_at, retrieve, strict


def unit(vectors):
    wide = vectors.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def plainly(queries, gallery, query_keys, gallery_keys, own):
    """The rule in other words: exact integer scores, then one full sort per query; ranks, strict ranks and top 10."""
    grid = [np.rint(unit(vectors) * 2**25).astype(np.int64) for vectors in (queries, gallery)]
    rows = []
    for row, vector in enumerate(grid[0]):
        scores = grid[1] @ vector
        relevant = gallery_keys == query_keys[row]
        order = np.argsort(relevant - 2 * scores, kind="stable")
        rows.append((1 + np.argmax(relevant[order]), (scores >= scores[own[row]]).sum(), order[:10]))
    ranks, strict_ranks, top = zip(*rows, strict=True)
    return np.array(ranks), np.array(strict_ranks), np.array(top)


def assert_plain(queries, gallery, query_keys, gallery_keys, own):
    found = retrieve(queries, gallery, query_keys, gallery_keys, own)
    expected = plainly(np.asarray(queries), np.asarray(gallery), np.asarray(query_keys), np.asarray(gallery_keys), own)
    for got, wanted in zip((found.ranks, found.strict_ranks, found.top), expected, strict=True):
        assert got.dtype == np.int64
        np.testing.assert_array_equal(got, wanted)


def pairs(rng, size, dimensions, noise=2.0):
    gallery = rng.normal(size=(size, dimensions))
    return (gallery + noise * rng.normal(size=gallery.shape)).astype(np.float32), gallery.astype(np.float32)


def test_five_thousand_pairs_equal_a_plain_argsort():
    rng = np.random.default_rng(0)
    queries, gallery = pairs(rng, 5000, 16)
    keys = rng.integers(0, 4000, 5000)
    assert_plain(queries, gallery, keys, keys, np.arange(5000))


def test_rounding_moves_no_rank_past_a_visible_gap():
    queries, gallery = pairs(np.random.default_rng(0), 2000, 16)
    ranks = retrieve(queries, gallery, np.arange(2000), np.arange(2000)).ranks
    scores = unit(queries) @ unit(gallery).T
    own = np.diagonal(scores)[:, None]
    assert (ranks > (scores > own + 1e-7).sum(axis=1)).all()
    assert (ranks <= (scores >= own - 1e-7).sum(axis=1)).all()
    assert (ranks == (scores >= own).sum(axis=1)).mean() > 0.999


def test_ties_without_end_equal_a_plain_argsort():
    rng = np.random.default_rng(1)
    queries, gallery = rng.choice([-1.0, 1.0], (300, 6)), rng.choice([-1.0, 1.0], (900, 6))
    gallery_keys = rng.integers(0, 40, 900)
    own = rng.integers(0, 900, 300)
    assert_plain(queries, gallery, gallery_keys[own], gallery_keys, own)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 4), st.integers(1, 6), st.integers(0, 10**6))
def test_small_galleries_equal_a_plain_argsort(size, items, dimensions, captions, seed):
    rng = np.random.default_rng(seed)
    queries, gallery = rng.integers(1, 3, (size, dimensions)), rng.integers(1, 3, (items, dimensions))
    keys = rng.integers(0, captions, items)
    own = rng.integers(0, items, size)
    assert_plain(queries, gallery, keys[own], keys, own)


@pytest.mark.parametrize("several", ["queries", "gallery", "both"])
@pytest.mark.parametrize("block", [2**27, 8 * 300 * 7])
def test_the_largest_cosine_of_several_vectors_counts(several, block, monkeypatch):
    rng = np.random.default_rng(4)
    queries, gallery = (rng.choice([-1.0, 0.5, 1.0], (300, 3, 5)) for _ in range(2))
    if several != "both":
        queries, gallery = (queries, gallery[:, 0]) if several == "queries" else (queries[:, 0], gallery)
    keys = rng.integers(0, 100, 300)
    monkeypatch.setattr(retrieval, "_BLOCK_BYTES", block)
    found = retrieve(queries, gallery, keys, keys)
    ours, theirs = (
        np.rint(unit(each.reshape(-1, 5)) * 2**25).astype(np.int64).reshape(300, -1, 5) for each in (queries, gallery)
    )
    scores = np.einsum("qkd,gld->qgkl", ours, theirs).max(axis=(2, 3))
    for row, own in enumerate(np.diagonal(scores)):
        order = np.argsort((keys == keys[row]) - 2 * scores[row], kind="stable")
        assert found.ranks[row] == 1 + np.argmax((keys == keys[row])[order])
        assert found.strict_ranks[row] == (scores[row] >= own).sum()
        np.testing.assert_array_equal(found.top[row], order[:10])


def test_a_gallery_by_hand():
    gallery = [[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]]
    found = retrieve([[1, 0], [1, 0], [0, 2]], gallery, ["a", "b", "a"], ["a", "b", "b", "a"], own=[0, 2, 0])
    assert found.ranks.tolist() == [1, 2, 1]
    assert found.strict_ranks.tolist() == [1, 3, 4]
    assert found.top.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [3, 2, 1, 0]]


def test_a_model_that_sees_no_difference_comes_last():
    found = retrieve(np.ones((50, 8)), np.ones((50, 8)), np.arange(50), np.arange(50))
    assert (found.ranks == 50).all()
    assert (found.strict_ranks == 50).all()
    assert found.top[3].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]


def test_any_equal_caption_counts_but_not_strictly():
    keys = np.array([0] * 20 + [1] * 30)
    found = retrieve(np.ones((50, 8)), np.ones((50, 8)), keys, keys)
    assert found.ranks.tolist() == [31] * 20 + [21] * 30
    assert (found.strict_ranks == 50).all()


def test_blocks_order_and_scale_of_queries_change_nothing(monkeypatch):
    rng = np.random.default_rng(2)
    queries, gallery = pairs(rng, 700, 33)
    keys = rng.integers(0, 500, 700)
    own = np.arange(700)
    whole = retrieve(queries, gallery, keys, keys)
    shuffled = rng.permutation(700)
    monkeypatch.setattr(retrieval, "_BLOCK_BYTES", 8 * 700 * 37)
    blocks = retrieve(queries[shuffled] * 2.0**-60, gallery * 2.0**60, keys[shuffled], keys, own[shuffled])
    for name in ("ranks", "strict_ranks", "top"):
        np.testing.assert_array_equal(getattr(blocks, name), getattr(whole, name)[shuffled])
    alone = retrieve(queries[5:6], gallery, keys[5:6], keys, [5])
    assert (alone.ranks[0], alone.strict_ranks[0]) == (whole.ranks[5], whole.strict_ranks[5])


def test_ranks_agree_with_the_top_ten():
    rng = np.random.default_rng(3)
    queries, gallery = pairs(rng, 400, 8)
    keys = rng.integers(0, 200, 400)
    found = retrieve(queries, gallery, keys, keys)
    for rank, top, key in zip(found.ranks, found.top, keys, strict=True):
        relevant = np.flatnonzero(keys[top] == key)
        assert (relevant[0] + 1 == rank) if len(relevant) else rank > 10


GOOD = {"queries": np.eye(3), "gallery": np.eye(3), "query_keys": [0, 1, 2], "gallery_keys": [0, 1, 2]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": np.ones(3)}, "queries are no table of numbers"),
        ({"gallery": np.ones((0, 3))}, "gallery are no table of numbers"),
        ({"gallery": [["a"] * 3]}, "gallery are no table of numbers"),
        ({"gallery": np.ones((3, 2))}, "queries and gallery differ in dimension"),
        ({"queries": np.diag([1, np.nan, 1])}, "row 1: query is not finite"),
        ({"gallery": np.diag([1, 1, np.inf])}, "row 2: gallery item is not finite"),
        ({"gallery": np.diag([0, 1, 1])}, "row 0: gallery item has no direction"),
        ({"gallery": np.eye(9)[:, :3].reshape(3, 3, 3)}, "row 1: gallery item has no direction"),
        ({"queries": np.diag([1, 1, np.inf])[:, None]}, "row 2: query is not finite"),
        ({"queries": np.ones((3, 3, 2))}, "queries and gallery differ in dimension"),
        ({"queries": np.ones((3, 0, 3))}, "queries are no table of numbers"),
        ({"query_keys": [0, 1]}, r"query keys do not fit\n  expected: integers or text \(3,\)"),
        ({"gallery_keys": [0.0, 1.0, 2.0]}, "gallery keys do not fit"),
        ({"query_keys": ["0", "1", "2"]}, "query and gallery keys differ in type"),
        ({"own": [0, 1]}, "own items do not fit"),
        ({"own": [0.0, 1.0, 2.0]}, "own items do not fit"),
        ({"own": [0, 1, 3]}, r"row 2: own item is not in the gallery\n  expected: a row in \[0, 2\]\n  got: 3"),
        ({"own": [0, -1, 2]}, "row 1: own item is not in the gallery"),
        ({"own": [0, 2, 1]}, "row 1: own item has another key"),
        ({"gallery": np.eye(2, 3), "gallery_keys": [0, 1]}, "row 2: own item is not in the gallery"),
    ],
)
def test_damaged_input_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        retrieve(**(GOOD | change))


def test_every_damaged_row_is_listed():
    damaged = np.eye(3)
    damaged[0, 0] = damaged[2, 1] = np.nan
    with pytest.raises(InputError) as error:
        retrieve(damaged, np.zeros((3, 3)), [0, 1, 2], [0, 1, 2])
    assert [problem.path for problem in error.value.problems] == ["row 0", "row 2", "row 0", "row 1", "row 2"]


ONE = np.ones((4, 1), np.int32)
METRICS = [recall_at(1), recall_at(5), recall_at(10), mean_reciprocal_rank, median_rank]


def test_metrics_by_hand():
    samples = Ranked([1, 2, 8, 40], [1, 6, 8, 50])
    assert [metric(samples, ONE).tolist() for metric in METRICS] == [
        [0.25],
        [0.5],
        [0.75],
        [(1 + 1 / 2 + 1 / 8 + 1 / 40) / 4],
        [5.0],
    ]
    assert strict(recall_at(5))(samples, ONE).tolist() == [0.25]
    assert strict(median_rank)(samples, ONE).tolist() == [7.0]


@pytest.mark.parametrize("metric", [*METRICS, *map(strict, METRICS)])
def test_a_draw_is_the_queries_repeated(metric):
    rng = np.random.default_rng(4)
    ranks = rng.integers(1, 30, 60)
    samples = Ranked(ranks, ranks + rng.integers(0, 9, 60))
    counts = rng.integers(0, 4, (60, 25)).astype(np.int32)
    values = metric(samples, counts)
    assert values.shape == (25,)
    for draw, value in zip(counts.T, values, strict=True):
        repeated = Ranked(np.repeat(samples.ranks, draw), np.repeat(samples.strict_ranks, draw))
        assert metric(repeated, np.ones((len(repeated), 1), np.int32))[0] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_median_rank_is_numpys(size):
    ranks = np.random.default_rng(size).integers(1, 100, size)
    assert median_rank(Ranked(ranks, ranks), np.ones((size, 1), np.int32))[0] == np.median(ranks)


def test_the_order_of_queries_changes_no_bit():
    rng = np.random.default_rng(5)
    ranks, counts = rng.integers(1, 500, 300), rng.integers(0, 3, (300, 20)).astype(np.int32)
    order = rng.permutation(300)
    for metric in METRICS:
        values = metric(Ranked(ranks, ranks), counts)
        assert (metric(Ranked(ranks[order], ranks[order]), counts[order]) == values).all()


@pytest.mark.parametrize(
    ("ranks", "strict_ranks", "message"),
    [
        ([], [], "do not fit"),
        ([1, 2], [1], "do not fit"),
        ([[1]], [[1]], "do not fit"),
        ([1.0, 2.0], [1, 2], "ranks are no integers"),
        ([1, 0], [1, 1], r"row 1: rank is below 1\n  expected: an integer >= 1\n  got: 0"),
        ([1, 3], [1, 2], "row 1: strict rank is below the rank"),
    ],
)
def test_damaged_ranks_are_refused(ranks, strict_ranks, message):
    with pytest.raises(InputError, match=message):
        Ranked(ranks, strict_ranks)
