"""The paired tests of one table, from prediction files alone, so that any process can run them."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlmed.leaderboard.confusion import Outcome
from vlmed.leaderboard.draws import Drawn, File, drawn_units
from vlmed.leaderboard.seeds import SeedError
from vlmed.leaderboard.separate import deviates_of, metric_reaches, ranks_of, separated
from vlmed.metrics.table import METRICS
from vlmed.suite.types import Task

PAIRS = 100  # models of a table of which all pairs are kept; their number grows with the square


@dataclass(frozen=True)
class Entrant:
    """A model in one table.

    Attributes:
        files: Of each seed.
        value: Its score; None if it is not to be ranked.
    """

    files: Sequence[File]
    value: float | None


@dataclass(frozen=True)
class Contest:
    """A table's models."""

    task: Task
    entrants: Sequence[Entrant]


@dataclass(frozen=True, eq=False)
class Ranks:
    """What came out.

    Attributes:
        outcomes: Of each entrant of a classification, its seeds added up; else None.
        paired: The M entrants that were ranked, best first.
        ranks: Lowest and highest rank of these.
        reach: (K, K), K = min(M, 100), how far the 95 % interval of each difference between the best K reaches to
            either side; maybe inf.
        separated: (K, K) bool, which of these are significant after the correction over all pairs of the M.
    """

    outcomes: Sequence[Outcome | None]
    paired: Sequence[int]
    ranks: Sequence[tuple[int, int]]
    reach: NDArray[np.float64]
    separated: NDArray[np.bool_]


def decide(contests: Sequence[Contest], manifests: Path, kept: Path | None = None, jobs: int = 1) -> Iterator[Ranks]:
    """The ranks of every table, in order.

    Args:
        kept: As for `drawn_units`.
        jobs: Number of processes.
    """
    work = partial(_decide, manifests=manifests, kept=kept)
    if jobs == 1 or len(contests) < 2:
        yield from map(work, contests)
        return
    # Forked workers would inherit the locks of Arrow's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(contests)), context) as pool:
        yield from pool.map(work, contests)


def _decide(contest: Contest, manifests: Path, kept: Path | None) -> Ranks:
    files = [file for entrant in contest.entrants for file in entrant.files]
    units = iter(drawn_units(contest.task, files, manifests, kept))
    drawn = [[next(units) for _ in entrant.files] for entrant in contest.entrants]
    paired = _paired(contest, drawn)
    if not paired:
        return Ranks(_outcomes(drawn), (), (), np.empty((0, 0)), np.empty((0, 0), bool))
    return _rank(contest, drawn, paired)


def _paired(contest: Contest, drawn: Sequence[Sequence[Drawn]]) -> list[int]:
    """The entrants that scored the samples that most did; a frozen manifest makes sure that all do.

    It does not hold which questions are closed and what may be answered to them, so that here most votes decide.
    """
    keys = {
        index: _samples_key(seeds)
        for index, (entrant, seeds) in enumerate(zip(contest.entrants, drawn, strict=True))
        if entrant.value is not None
    }
    usual = max(Counter(keys.values()).items(), key=lambda item: (bool(item[0]), item[1], item[0]), default=("", 0))[0]
    return [index for index, key in keys.items() if key and key == usual]


def _rank(contest: Contest, drawn: Sequence[Sequence[Drawn]], paired: Sequence[int]) -> Ranks:
    metric, basis = METRICS[contest.task.main_metric], drawn[paired[0]][0].basis
    assert basis is not None
    draws = [np.stack([seed.draws for seed in drawn[at]]) for at in paired]
    values = np.array([contest.entrants[at].value for at in paired])
    means = np.stack([seeds.mean(axis=0) for seeds in draws])
    reach = metric_reaches(metric, means, basis, [SeedError.of(seeds) for seeds in draws])
    apart = separated(deviates_of(values, reach))
    ranks = ranks_of(values, apart, metric.higher_is_better)
    order = np.argsort(-values if metric.higher_is_better else values, kind="stable")
    best = np.ix_(order[:PAIRS], order[:PAIRS])
    return Ranks(
        _outcomes(drawn), [paired[at] for at in order], [ranks[at] for at in order], reach.half[best], apart[best]
    )


def _outcomes(drawn: Sequence[Sequence[Drawn]]) -> list[Outcome | None]:
    found = ([seed.outcome for seed in seeds if seed.outcome] for seeds in drawn)
    return [Outcome.sum(outcomes) if outcomes else None for outcomes in found]


def _samples_key(seeds: Sequence[Drawn]) -> str:
    """The seeds' key; empty where they scored different samples."""
    keys = {seed.key for seed in seeds}
    return keys.pop() if len(keys) == 1 else ""
