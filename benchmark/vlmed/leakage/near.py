"""All pairs of 64-bit hashes within a Hamming distance, exact, for a million hashes and more.

Multi-index hashing (Norouzi, Punjani, Fleet 2012): cut the 64 bits into m blocks and give block k a radius r_k, so
that the sum of all (r_k + 1) is radius + 1. Two hashes within the radius then differ by at most r_k bits in at least
one block k, since otherwise they would differ by more than the radius in total. So for each block, sort the hashes by
their bits in it, look up for each hash the ones at most r_k bits away, and compare those in full.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmed.errors import UsageError

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]

BITS = 64
MAX_PAIRS = 1 << 25
# Candidates that one worker compares at a time; bounds the temporary arrays whatever the hashes look like.
_CHUNK = 1 << 17
_NONE = np.empty(0, np.int64)
_WORKERS = min(8, os.cpu_count() or 1)
# Blocks of more bits would need a table of first positions of more than 64 MiB.
_MAX_BLOCK_BITS = 24
# Nanoseconds, measured: one flip, one hash looked up, one candidate compared. They decide only the speed.
_PASS, _LOOKUP, _CANDIDATE = 60_000.0, 8.0, 3.0


def pairs_within(
    a: Hashes, b: Hashes | None = None, *, radius: int, max_pairs: int = MAX_PAIRS
) -> tuple[Indices, Indices, NDArray[np.uint8]]:
    """Every pair of hashes whose Hamming distance is at most `radius`; none is missed.

    Args:
        a: Hashes, shape (N,), uint64.
        b: Hashes to compare `a` with, shape (M,), uint64; if None, `a` is compared with itself.
        radius: Largest distance, 0..64.
        max_pairs: Refuse to return more pairs than this; a million equal hashes alone make 5e11.

    Returns:
        i: Indices into `a`, shape (P,), int64.
        j: Indices into `b`, or into `a` with i < j, shape (P,), int64. Pairs are sorted by (i, j).
        distance: uint8, shape (P,), 0..radius.

    Raises:
        UsageError: An array is not one-dimensional uint64, the radius is out of range, or there are too many pairs.

    >>> i, j, distance = pairs_within(np.array([0b0000, 0b0111, 0b0001], np.uint64), radius=1)
    >>> i.tolist(), j.tolist(), distance.tolist()
    ([0], [2], [1])
    """
    _check_hashes(a, "a")
    _check_hashes(a if b is None else b, "b")
    if isinstance(radius, bool) or not isinstance(radius, int | np.integer) or not 0 <= radius <= BITS:
        raise UsageError("the radius is not a Hamming distance", expected=f"a whole number 0..{BITS}", got=repr(radius))
    i, j = _search(a, b, int(radius), max_pairs)
    order = np.lexsort((j, i))
    i, j = i[order], j[order]
    return i, j, np.bitwise_count(a[i] ^ (a if b is None else b)[j])


def _check_hashes(hashes: Any, name: str) -> None:
    dtype, shape = getattr(hashes, "dtype", type(hashes).__name__), getattr(hashes, "shape", ())
    if dtype != np.uint64 or len(shape) != 1:
        raise UsageError(f"{name} is not an array of hashes", expected="uint64, shape (N,)", got=f"{dtype}, {shape}")


def _too_many(found: int, max_pairs: int) -> UsageError:
    return UsageError(
        "too many pairs of hashes lie within the radius",
        expected=f"at most {max_pairs:,}",
        got=f"{found:,} or more",
        hint="lower the radius, leave out flat images, search smaller sets, or raise max_pairs",
    )


@dataclass(frozen=True)
class _Block:
    """The bits of one block, and how many of them may differ."""

    bits: tuple[int, ...]
    radius: int

    @cached_property
    def mask(self) -> np.uint64:
        return np.uint64(sum(1 << bit for bit in self.bits))

    def keys(self, hashes: Hashes) -> NDArray[np.int32]:
        """The block's bits of each hash, moved together, shape (N,)."""
        keys = np.zeros(len(hashes), np.int32)
        for position, bit in enumerate(self.bits):
            keys |= ((hashes >> np.uint64(bit)) & np.uint64(1)).astype(np.int32) << position
        return keys

    def flips(self) -> Iterator[int]:
        """Every difference of two keys of at most `radius` bits."""
        for count in range(self.radius + 1):
            for chosen in combinations(range(len(self.bits)), count):
                yield sum(1 << bit for bit in chosen)

    def cost(self, n_a: int, n_b: int) -> float:
        """Nanoseconds, roughly, if the hashes were random."""
        probes = sum(comb(len(self.bits), count) for count in range(self.radius + 1))
        return probes * (_PASS + n_a * (_LOOKUP + _CANDIDATE * n_b / (1 << len(self.bits))))


def _plan(n_a: int, n_b: int, radius: int) -> list[_Block]:
    """The cheapest division of the bits into blocks; a single block of no bits is brute force.

    Neighbouring bits of a perceptual hash are alike, so a block takes every m-th bit and not a run of them.
    """
    fewest = -(-BITS // _MAX_BLOCK_BITS)
    plans = [[_Block((), 0)]]
    for m in range(fewest, min(BITS, max(fewest, radius + 1)) + 1):
        each, more = divmod(radius + 1, m)
        # With fewer than m to share out, the last blocks get radius -1: nobody has to look there.
        plans.append([_Block(tuple(range(k, BITS, m)), each - (k >= more)) for k in range(m)])
    return min(plans, key=lambda blocks: sum(block.cost(n_a, n_b) for block in blocks))


def _search(a: Hashes, b: Hashes | None, radius: int, max_pairs: int) -> tuple[Indices, Indices]:
    """The pairs within the radius, unsorted."""
    found: list[tuple[Indices, Indices]] = [(_NONE, _NONE)]
    total = 0
    blocks = _plan(len(a), len(a if b is None else b), radius)
    for n, block in enumerate(blocks):
        probe = _Probe(a, b, block, tuple(blocks[:n]), radius, max_pairs)
        pool = ThreadPoolExecutor(_WORKERS)
        try:
            for i, j in pool.map(probe, block.flips()):
                total += len(i)
                if total > max_pairs:
                    raise _too_many(total, max_pairs)
                if len(i):
                    found.append((i, j))
        finally:
            pool.shutdown(cancel_futures=True)
    return np.concatenate([i for i, _ in found]), np.concatenate([j for _, j in found])


class _Probe:
    """Finds the pairs whose keys in one block differ by exactly a given flip, and which no earlier block has found."""

    def __init__(
        self, a: Hashes, b: Hashes | None, block: _Block, earlier: tuple[_Block, ...], radius: int, max_pairs: int
    ) -> None:
        self.earlier, self.radius, self.max_pairs = earlier, radius, max_pairs
        self.itself = b is None
        self.order_a, self.keys, self.a = _by_key(a, block)
        self.order_b, keys_b, self.b = (self.order_a, self.keys, self.a) if b is None else _by_key(b, block)
        sizes = np.bincount(keys_b, minlength=1 << len(block.bits))
        self.first = np.concatenate([[0], np.cumsum(sizes)])
        self.filled = sizes > 0
        self.everyone = np.arange(len(self.keys))
        # Of a set with itself, look from one side only: the side whose key lacks the highest bit of the flip.
        bits = range(len(block.bits) if self.itself else 0)
        self.lookers = [np.flatnonzero(self.keys >> bit & 1 == 0) for bit in bits]

    def __call__(self, flip: int) -> tuple[Indices, Indices]:
        """Indices into a and b (or a and a, i < j) of the pairs; raises UsageError if they are too many."""
        found_i, found_j, total = [_NONE], [_NONE], 0
        for left, start, size in self._buckets(flip):
            near_left, near_right = self._compare(left, start, size)
            total += len(near_left)
            if total > self.max_pairs:
                raise _too_many(total, self.max_pairs)
            found_i.append(self.order_a[near_left])
            found_j.append(self.order_b[near_right])
        i, j = np.concatenate(found_i), np.concatenate(found_j)
        return (np.minimum(i, j), np.maximum(i, j)) if self.itself else (i, j)

    def _buckets(self, flip: int) -> Iterator[tuple[Indices, Indices, Indices]]:
        """Positions in the sorted a, each with the run in the sorted b whose keys differ by `flip`; part by part."""
        if self.itself and not flip:  # within a bucket, each looks at those behind it
            left, start, end = self.everyone, self.everyone + 1, self.first[self.keys + 1]
        else:
            left = self.lookers[flip.bit_length() - 1] if self.itself else self.everyone
            partner = self.keys[left] ^ flip
            # Where most buckets are empty, asking a small table first spares two look-ups in a large one.
            looking = np.flatnonzero(self.filled[partner])
            left, partner = left[looking], partner[looking]
            start, end = self.first[partner], self.first[partner + 1]
        size = end - start
        ends = np.cumsum(size)
        cuts = np.searchsorted(ends, np.arange(_CHUNK, ends[-1] if len(ends) else 0, _CHUNK))
        for low, high in pairwise([0, *cuts.tolist(), len(left)]):
            yield left[low:high], start[low:high], size[low:high]

    def _compare(self, left: Indices, start: Indices, size: Indices) -> tuple[Indices, Indices]:
        """Of position left[n] in a with the positions start[n].. in b, size[n] of them: those within the radius."""
        ends = np.cumsum(size)
        right = np.repeat(start - ends + size, size)
        right += np.arange(len(right))
        difference = np.repeat(self.a[left], size)
        difference ^= self.b[right]
        near = np.flatnonzero(np.bitwise_count(difference) <= self.radius)
        for block in self.earlier:
            near = near[np.bitwise_count(difference[near] & block.mask) > block.radius]
        return left[np.searchsorted(ends, near, side="right")], right[near]


def _by_key(hashes: Hashes, block: _Block) -> tuple[Indices, NDArray[np.int32], Hashes]:
    """The order of the hashes by their keys, the sorted keys, the sorted hashes."""
    keys = block.keys(hashes)
    order = np.argsort(keys, kind="stable")
    return order, keys[order], hashes[order]
