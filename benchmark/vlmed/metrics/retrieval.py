"""Retrieval: exact ranks by cosine similarity in blocks, and metrics of ranks over many bootstrap draws at once.

What a prediction file has to hold for each query, and all that the metrics need of it: `ranks`, `strict_ranks` and the
ids of `top`. A reader can check them against each other: where the rank is within `top`, the first item there whose key
equals the query's stands at that rank; where it is not, none does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmed.errors import InputError, Problem
from vlmed.metrics.classification import Counts, Values
from vlmed.metrics.inputs import row_problems
from vlmed.metrics.tally import mean, tally

TOP = 10
# Unit vectors are rounded to multiples of 2**-25. Twice the product of two is then an integer below 2**52, and so is
# every partial sum: float64 holds them all, and no order of summation, block or thread can change a score.
_GRID = 2.0**25
_BLOCK_BYTES = 2**27
_CHUNKS = 64

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Retrieved:
    """What each query found.

    Attributes:
        ranks: int64 (N,), 1 + the number of wrong items that score at least as high as the best relevant one.
        strict_ranks: int64 (N,), the same where the query's own item alone is relevant; never below `ranks`.
        top: int64 (N, min(10, M)), rows of the gallery from the best down. Where scores tie, wrong items come before
            relevant ones, then lower rows before higher ones.
    """

    ranks: Integers
    strict_ranks: Integers
    top: Integers


def retrieve(
    queries: ArrayLike, gallery: ArrayLike, query_keys: ArrayLike, gallery_keys: ArrayLike, own: ArrayLike | None = None
) -> Retrieved:
    """Ranks the gallery for each query by cosine similarity, of unit vectors rounded to multiples of 2**-25.

    A query or an item may be K vectors, as an image is for BLIP-2 (Li et al. 2023, section 3.1): then the largest of
    their cosines is the similarity.

    Ties go against the model. The outcome for a query depends on nothing but its vector and the gallery, to the last
    bit. Beside two float64 copies of the gallery it takes 0.2 GiB of memory, or 0.35 where there are several vectors,
    so that 100,000 x 100,000 fit 4 GiB up to K * D = 1024.

    Args:
        queries: Numbers (N, D) or (N, K, D), vectors of any length but 0.
        gallery: Numbers (M, D) or (M, K, D), likewise; K need not be the same.
        query_keys: (N,) text or integers. An item is relevant to a query if their keys are equal, so that any equal
            caption counts.
        gallery_keys: (M,) likewise.
        own: (N,) the row of the query's own item in the gallery; the query's own row if None.

    Raises:
        InputError: Shapes do not fit, a vector has no direction, or an own item is missing or not relevant; lists
            every row.
    """
    vectors, items = np.asarray(queries), np.asarray(gallery)
    _refuse(_shape_problems(vectors, items))
    wanted, held, mine = np.asarray(query_keys), np.asarray(gallery_keys), _own(own, len(vectors))
    _refuse(_key_problems(wanted, held, mine, len(vectors), len(items)))
    vectors, items = (each.reshape(len(each), -1, each.shape[-1]) for each in (vectors, items))
    _refuse([*_vector_problems("query", vectors), *_vector_problems("gallery item", items)])
    relevant = _Relevant.of(wanted, held)
    found = Retrieved(
        np.empty(len(vectors), np.int64),
        np.empty(len(vectors), np.int64),
        np.empty((len(vectors), min(TOP, len(items))), np.int64),
    )
    for first, scores in _scores(vectors, items):
        for row, row_scores in enumerate(scores, start=first):
            _rank(row_scores, relevant[row], int(mine[row]), found, row)
    return found


def _scores(queries: NDArray[Any], gallery: NDArray[Any]) -> Iterator[tuple[int, Floats]]:
    """The first row of each block of queries, and their scores: even integers, float64 (b, M), gone with the next."""
    items = _on_grid(gallery)
    step = min(len(queries), max(1, _BLOCK_BYTES // (8 * len(gallery))))
    pairs = list(itertools.product(range(queries.shape[1]), range(gallery.shape[1])))
    buffers = [np.empty((step, len(gallery))) for _ in pairs[:2]]
    for first in range(0, len(queries), step):
        block = 2 * _on_grid(queries[first : first + step])
        scores, *spare = (buffer[: len(block)] for buffer in buffers)
        for number, (ours, theirs) in enumerate(pairs):
            product = np.matmul(block[:, ours], items[:, theirs].T, out=spare[0] if number else scores)
            if number:
                np.maximum(scores, product, out=scores)
        yield first, scores


def _on_grid(vectors: NDArray[Any]) -> Floats:
    """Unit vectors (..., D) in multiples of 2**-25."""
    given = vectors.astype(np.float64)
    # Else squares may overflow or vanish.
    given /= np.maximum(given.max(axis=-1, keepdims=True), -given.min(axis=-1, keepdims=True))
    given *= _GRID / np.sqrt(np.square(given).sum(axis=-1, keepdims=True))
    return np.rint(given, out=given)


def _rank(scores: Floats, relevant: Integers, own: int, found: Retrieved, row: int) -> None:
    # Scores are even, so 1 less puts a relevant item behind every wrong one that ties with it, and before no other.
    scores[relevant] -= 1
    best, mine = scores[relevant].max(), scores[own]
    rank = 1 + np.count_nonzero(scores > best)
    found.ranks[row] = rank
    # Nothing but relevant items can equal the best of them, which saves a second pass over all scores.
    tied = np.count_nonzero(scores[relevant] == best)
    found.strict_ranks[row] = rank - 1 + tied if mine == best else np.count_nonzero(scores >= mine)
    found.top[row] = _top(scores, found.top.shape[1])


def _top(scores: Floats, size: int) -> Integers:
    """The rows of the highest scores, lower rows first where they tie."""
    rows = _candidates(scores, size)
    candidates = scores[rows]
    least = np.partition(candidates, -size)[-size]
    above = rows[candidates > least]
    best = np.concatenate([above, np.sort(rows[candidates == least])[: size - len(above)]])
    return best[np.lexsort((best, -scores[best]))]


def _candidates(scores: Floats, size: int) -> Integers:
    """Rows that hold all of the highest scores, and all that tie with the least of them."""
    width = len(scores) // _CHUNKS
    if width <= size:
        return np.arange(len(scores))
    # Chunk i holds rows i, i + width, i + 2 * width, ...: their maxima are those of whole rows, fast in NumPy.
    peaks = scores[: width * _CHUNKS].reshape(_CHUNKS, width).max(axis=0)
    # That many chunks have a score this high, so none below it is among the highest.
    chunks = np.flatnonzero(peaks >= np.partition(peaks, -size)[-size])
    return np.concatenate(
        [np.add.outer(np.arange(0, width * _CHUNKS, width), chunks).ravel(), np.arange(width * _CHUNKS, len(scores))]
    )


@dataclass(frozen=True, eq=False)
class _Relevant:
    """The rows of the gallery that are relevant to each query."""

    order: Integers
    first: Integers
    last: Integers

    @classmethod
    def of(cls, wanted: NDArray[Any], held: NDArray[Any]) -> _Relevant:
        order = np.argsort(held, kind="stable")
        ordered = held[order]
        return cls(order, np.searchsorted(ordered, wanted, "left"), np.searchsorted(ordered, wanted, "right"))

    def __getitem__(self, row: int) -> Integers:
        return self.order[self.first[row] : self.last[row]]


@dataclass(frozen=True, eq=False)
class Ranked:
    """Ranks of queries, checked once, as the metrics of retrieval take them.

    Attributes:
        ranks: int64 (N,), >= 1, as in `Retrieved`.
        strict_ranks: int64 (N,), >= `ranks`.

    Raises:
        InputError: They are not; lists every row.
    """

    ranks: Integers
    strict_ranks: Integers

    def __post_init__(self) -> None:
        ranks, strict = np.asarray(self.ranks), np.asarray(self.strict_ranks)
        _refuse(_rank_problems(ranks, strict))
        object.__setattr__(self, "ranks", ranks.astype(np.int64))
        object.__setattr__(self, "strict_ranks", strict.astype(np.int64))

    def __len__(self) -> int:
        return len(self.ranks)

    @property
    def strata(self) -> Integers:
        """All queries alike, (N,)."""
        return np.zeros(len(self), np.int64)

    @cached_property
    def strict(self) -> Ranked:
        """The same queries with only their own item counting."""
        return Ranked(self.strict_ranks, self.strict_ranks)


RankMetric = Callable[[Ranked, Counts], Values]


def recall_at(k: int) -> RankMetric:
    """The metric R@k: the share of queries with a rank of at most k, in [0, 1].

    >>> recall_at(5)(Ranked([1, 9, 5], [1, 9, 6]), np.ones((3, 1), np.int32))
    array([0.66666667])
    """
    return lambda samples, counts: mean(samples.ranks <= k, counts)


def mean_reciprocal_rank(samples: Ranked, counts: Counts) -> Values:
    """The mean of 1 / rank, in (0, 1]. Voorhees, TREC-8 (1999).

    >>> mean_reciprocal_rank(Ranked([1, 4], [1, 4]), np.ones((2, 1), np.int32))
    array([0.625])
    """
    return mean(1 / samples.ranks, counts)


def median_rank(samples: Ranked, counts: Counts) -> Values:
    """The median rank, >= 1; the mean of the two middle ones where their number is even.

    >>> median_rank(Ranked([1, 9, 4, 8], [1, 9, 4, 8]), np.ones((4, 1), np.int32))
    array([6.])
    """
    ranks, held = tally(samples.ranks, counts)
    reached = np.cumsum(held, axis=0)
    total = reached[-1]
    # The n-th best query has the first rank by which n of them are reached.
    lower, upper = (ranks[(reached < nth).sum(axis=0)] for nth in ((total + 1) // 2, total // 2 + 1))
    middle: Values = (lower + upper) / 2
    return middle


def strict(metric: RankMetric) -> RankMetric:
    """The metric of strict ranks."""
    return lambda samples, counts: metric(samples.strict, counts)


def _own(own: ArrayLike | None, queries: int) -> NDArray[Any]:
    return np.arange(queries) if own is None else np.asarray(own)


def _refuse(problems: Iterable[Problem]) -> None:
    if listed := list(problems):
        raise InputError(listed)


def _shape_problems(queries: NDArray[Any], gallery: NDArray[Any]) -> Iterator[Problem]:
    for name, vectors in (("queries", queries), ("gallery", gallery)):
        if vectors.ndim not in (2, 3) or not vectors.size or vectors.dtype.kind not in "fiu":
            got = f"{vectors.dtype} {vectors.shape}"
            yield Problem(
                f"{name} are no table of numbers",
                expected="(items, dimensions) or (items, vectors, dimensions), none 0",
                got=got,
            )
        elif vectors.shape[-1:] != queries.shape[-1:]:
            expected, got = f"shape (items, {queries.shape[-1]})", f"shape {vectors.shape}"
            yield Problem("queries and gallery differ in dimension", expected=expected, got=got)


def _vector_problems(name: str, vectors: NDArray[Any]) -> Iterator[Problem]:
    rows = vectors.reshape(len(vectors), -1)
    damaged = ~np.isfinite(rows)
    zero: NDArray[np.bool_] = np.all(vectors == 0, axis=2).any(axis=1)
    shown = rows[np.arange(len(rows)), damaged.argmax(axis=1)]
    yield from row_problems(f"{name} is not finite", damaged.any(axis=1), "finite numbers", shown)
    yield from row_problems(f"{name} has no direction", zero, "a vector other than 0", np.zeros(len(zero)))


def _key_problems(
    wanted: NDArray[Any], held: NDArray[Any], own: NDArray[Any], queries: int, items: int
) -> Iterator[Problem]:
    given = (
        ("query keys", wanted, queries, "iuU"),
        ("gallery keys", held, items, "iuU"),
        ("own items", own, queries, "iu"),
    )
    wrong = [entry for entry in given if entry[1].shape != (entry[2],) or entry[1].dtype.kind not in entry[3]]
    for name, array, size, _ in wrong:
        expected = f"integers{' or text' if array is not own else ''} ({size},)"
        yield Problem(f"{name} do not fit", expected=expected, got=f"{array.dtype} {array.shape}")
    if wrong:
        return
    outside = (own < 0) | (own >= items)
    yield from row_problems("own item is not in the gallery", outside, f"a row in [0, {items - 1}]", own)
    if (wanted.dtype.kind == "U") != (held.dtype.kind == "U"):
        yield Problem("query and gallery keys differ in type", expected=str(held.dtype), got=str(wanted.dtype))
    else:
        differs: NDArray[np.bool_] = np.asarray(wanted != held[np.where(outside, 0, own)]) & ~outside
        yield from row_problems("own item has another key", differs, "the key of the query", wanted)


def _rank_problems(ranks: NDArray[Any], strict_ranks: NDArray[Any]) -> Iterator[Problem]:
    if ranks.ndim != 1 or not len(ranks) or ranks.shape != strict_ranks.shape:
        got = f"shapes {ranks.shape} and {strict_ranks.shape}"
        yield Problem("ranks and strict ranks do not fit", expected="one of each for every query, (N,)", got=got)
    elif ranks.dtype.kind not in "iu" or strict_ranks.dtype.kind not in "iu":
        yield Problem("ranks are no integers", expected="integers >= 1", got=f"{ranks.dtype}, {strict_ranks.dtype}")
    else:
        yield from row_problems("rank is below 1", ranks < 1, "an integer >= 1", ranks)
        below = strict_ranks < ranks
        yield from row_problems("strict rank is below the rank", below, "at least the rank", strict_ranks)
