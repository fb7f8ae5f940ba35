import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vlmed.errors import UsageError
from vlmed.leakage import near
from vlmed.leakage.near import pairs_within

HASHES = st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 3, 2**63, 2**64 - 1]), max_size=40)


def brute_force(a, b, radius):
    other = a if b is None else b
    distance = np.array([[int(x ^ y).bit_count() for y in other.tolist()] for x in a.tolist()]).reshape(
        len(a), len(other)
    )
    chosen = distance <= radius
    i, j = np.nonzero(np.triu(chosen, 1) if b is None else chosen)
    return i.tolist(), j.tolist(), distance[i, j].tolist() if len(i) else []


def found(a, b, radius):
    return tuple(part.tolist() for part in pairs_within(a, b, radius=radius))


def clustered(rng, count, flips):
    """Random hashes of which a third are copies of others with up to `flips` bits changed."""
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    for target in rng.choice(count, count // 3, replace=False):
        value = hashes[rng.integers(count)]
        for bit in rng.integers(0, 64, rng.integers(0, flips + 1)):
            value ^= np.uint64(1) << np.uint64(bit)
        hashes[target] = value
    return hashes


@settings(max_examples=60, deadline=None)
@given(HASHES, st.none() | HASHES, st.integers(0, 64))
@example([5, 5, 5], None, 0)
@example([], [], 64)
def test_the_pairs_are_those_of_brute_force(a, b, radius):
    a, b = np.array(a, np.uint64), None if b is None else np.array(b, np.uint64)
    assert found(a, b, radius) == brute_force(a, b, radius)


@pytest.mark.parametrize("radius", [0, 1, 3, 8, 12])
@pytest.mark.parametrize("blocks", [3, 4, 7])
def test_every_division_into_blocks_is_exact(monkeypatch, radius, blocks):
    """Small sets would be searched by brute force, so that each division is forced here, and each run cut in parts."""
    cost, widths = near._Block.cost, (64 // blocks, -(-64 // blocks))
    forced = lambda block, n_a, n_b: cost(block, n_a, n_b) if len(block.bits) in widths else 1e30  # noqa: E731
    monkeypatch.setattr(near._Block, "cost", forced)
    monkeypatch.setattr(near, "_CHUNK", 37)
    rng = np.random.default_rng(radius)
    hashes, others = clustered(rng, 300, 14), clustered(rng, 200, 14)
    others[:60] = hashes[:60] ^ np.uint64(0b101 << 40)
    assert found(hashes, None, radius) == brute_force(hashes, None, radius)
    assert found(hashes, others, radius) == brute_force(hashes, others, radius)


def test_a_large_set_is_exact_against_brute_force():
    hashes = clustered(np.random.default_rng(0), 4000, 16)
    i, j, distance = pairs_within(hashes, radius=12)
    every = np.bitwise_count(hashes[:, None] ^ hashes[None])
    expected = np.nonzero(np.triu(every <= 12, 1))
    assert len(i) > 1000
    np.testing.assert_array_equal((i, j), expected)
    np.testing.assert_array_equal(distance, every[expected])


def test_types_of_the_result():
    i, j, distance = pairs_within(np.array([1, 1], np.uint64), radius=0)
    assert (i.dtype, j.dtype, distance.dtype) == (np.int64, np.int64, np.uint8)


@pytest.mark.parametrize("hashes", [[], [7]])
def test_no_hash_and_one_hash_have_no_pairs(hashes):
    assert found(np.array(hashes, np.uint64), None, 64) == ([], [], [])


def test_an_empty_other_set_has_no_pairs():
    empty, some = np.array([], np.uint64), np.arange(5, dtype=np.uint64)
    assert found(some, empty, 12) == found(empty, some, 12) == ([], [], [])


def test_two_sets_pair_an_index_with_itself():
    a = np.array([9, 10], np.uint64)
    assert found(a, a.copy(), 0) == ([0, 1], [0, 1], [0, 0])


def test_hashes_that_share_a_whole_block_are_still_exact():
    """All in one bucket of the first block, as hashes of very similar pictures are."""
    low = np.random.default_rng(0).integers(0, 2**20, 3000, dtype=np.uint64)
    every = np.bitwise_count(low[:, None] ^ low[None])
    i, j, _ = pairs_within(low, radius=2)
    np.testing.assert_array_equal((i, j), np.nonzero(np.triu(every <= 2, 1)))


def test_a_million_equal_hashes_are_refused_and_not_multiplied_out():
    with pytest.raises(UsageError, match=r"too many pairs(.|\n)*at most 1,000,000(.|\n)*raise max_pairs"):
        pairs_within(np.zeros(1_000_000, np.uint64), radius=4, max_pairs=1_000_000)


def test_the_limit_counts_pairs_exactly():
    equal = np.full(5, 3, np.uint64)
    assert len(pairs_within(equal, radius=0, max_pairs=10)[0]) == 10
    with pytest.raises(UsageError, match="too many pairs"):
        pairs_within(equal, radius=0, max_pairs=9)


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros(3, np.int64), np.zeros((2, 2), np.uint64), [1, 2], None])
def test_other_arrays_are_refused(bad):
    good = np.zeros(2, np.uint64)
    with pytest.raises(UsageError, match=r"a is not an array of hashes\n  expected: uint64, shape \(N,\)"):
        pairs_within(bad, good, radius=1)
    if bad is not None:
        with pytest.raises(UsageError, match="b is not an array of hashes"):
            pairs_within(good, bad, radius=1)


@pytest.mark.parametrize("radius", [-1, 65, 2.0, "3", None, True])
def test_other_radii_are_refused(radius):
    with pytest.raises(UsageError, match=r"not a Hamming distance\n  expected: a whole number 0\.\.64"):
        pairs_within(np.zeros(2, np.uint64), radius=radius)
