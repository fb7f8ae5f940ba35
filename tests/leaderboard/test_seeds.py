"""Several seeds: their mean ranks, their spread is shown, and it widens what is not known."""

import math
import statistics

import numpy as np
import pytest

from submission_factory import LEAKY
from vlmed.leaderboard.rank import current_rows, rank_tables
from vlmed.leaderboard.read import read_submissions
from vlmed.leaderboard.seeds import SeedError, reach, spread
from vlmed.leaderboard.separate import reaches


def table_of(world):
    found = read_submissions(world.submissions, world.suite, world.manifests, intervals=False)
    assert found.refused == []
    (table,) = rank_tables(world.suite, current_rows(world.suite, found.entries), world.manifests)
    return table


def test_a_row_has_mean_spread_and_every_seed(world):
    world.add("a", 1.0, seeds=(2, 0, 1))
    (row,) = table_of(world).models
    values = row.seed_values("auc", "clean")
    assert [unit["seed"] for unit in row.units] == [0, 1, 2]
    assert row.value == pytest.approx(statistics.mean(values), abs=1e-12)
    assert row.spread("auc", "clean") == pytest.approx(statistics.stdev(values), abs=1e-6)
    assert row.spread("auc", "all") != row.spread("auc", "clean")


def test_one_seed_has_no_spread_and_keeps_its_own_interval(world):
    world.add("a", 1.0)
    (row,) = table_of(world).models
    auc = row.units[0]["scores"]["metrics"]["clean"]["auc"]
    assert (row.low, row.high, row.spread("auc", "clean")) == (auc["low"], auc["high"], None)


def test_seeds_widen_the_interval_of_their_mean(world):
    world.add("a", 1.0, seeds=range(5))
    (row,) = table_of(world).models
    lows = [unit["scores"]["metrics"]["clean"]["auc"]["low"] for unit in row.units]
    assert row.low < statistics.mean(lows) < row.value < row.high <= 1


def test_an_undefined_seed_leaves_mean_and_spread_undefined(world):
    world.add("a", 1.0, tasks=("waiting",), samples=slice(0, 120, 2), seeds=(0, 1))
    (row,) = table_of(world).models
    assert (row.value, row.low, row.high, row.spread("auc", "all")) == (None, None, None, None)


def test_the_error_of_seeds_is_that_of_their_mean():
    samples = np.random.default_rng(0).normal(0.8, 0.02, 1000)
    shifts = np.array([-0.1, -0.02, 0.02, 0.1])
    error = SeedError.of(samples + shifts[:, None])
    assert error.variance == pytest.approx(statistics.variance(shifts) / 4)
    assert error.freedom == 3


def test_one_seed_and_seeds_that_agree_show_no_error():
    samples = np.random.default_rng(0).normal(0.8, 0.02, 1000)
    assert SeedError.of(samples[None]) == SeedError(0.0, 0)
    assert SeedError.of(np.stack([samples] * 4)) == SeedError(0.0, 3)


def test_undefined_draws_say_nothing_of_seeds():
    assert SeedError.of(np.array([[0.5, math.nan], [0.7, 0.6]])).variance == pytest.approx(0.02 / 2)
    assert SeedError.of(np.full((2, 3), math.nan)) == SeedError()


def test_seeds_that_disagree_leave_differences_less_sure():
    rng = np.random.default_rng(0)
    samples = rng.normal(0.8, 0.02, (2, 1000))
    alone = reaches(samples, 200, 200)
    few, many = (reaches(samples, 200, 200, [SeedError(1e-4, freedom)] * 2) for freedom in (1, 9))
    assert alone.half[0, 1] < many.half[0, 1] < few.half[0, 1]
    # Welch's: two variances of 1e-4 on one degree each beside that of the samples on 199.
    of_samples = np.var(samples[0] - samples[1], ddof=1) * 200 / 199
    welch = (of_samples + 2e-4) ** 2 / (of_samples**2 / 199 + 2 * 1e-8)
    assert few.freedom[0, 1] == pytest.approx(welch)
    assert alone.freedom == pytest.approx(199)


def test_reaches_add_like_the_sides_of_a_right_angle():
    assert reach(0.03, [0.5]) == 0.03
    # Student's quantile at one degree of freedom.
    assert reach(0.0, [0.4, 0.6]) == pytest.approx(12.706205 * statistics.stdev([0.4, 0.6]) / math.sqrt(2), rel=1e-4)
    assert spread([0.25]) is None


def test_only_the_whole_training_split_ranks_and_fractions_stay_known(world):
    world.add("a", 1.0, seeds=(0, 1))
    world.add("b", 1.2, run="1")
    world.add("b", 0.8, run="2", fraction=0.1)
    found = read_submissions(world.submissions, world.suite, world.manifests, intervals=False)
    table = table_of(world)
    assert {row.entry.model: row.fraction for row in table.models} == {"a": 1, "b": 1}
    places = current_rows(world.suite, found.entries)
    assert ("lab", "b", "chest@1", "zero_shot@1", 0.1) in places
    assert places["lab", "b", "chest@1", "zero_shot@1", 0.1].entry.run == "2"
    assert table.models[0].n("clean") == 120 - LEAKY
