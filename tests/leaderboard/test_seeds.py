"""Several seeds: their mean ranks, their spread is shown, and it widens what is not known."""

import math
import statistics

import numpy as np
import pytest

from submission_factory import LEAKY, World
from vlmed.leaderboard.rank import current_rows, rank_tables
from vlmed.leaderboard.read import read_submissions
from vlmed.leaderboard.seeds import draws_of_mean, reach, spread


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "world")


def table_of(world):
    found = read_submissions(world.submissions, world.suite, world.manifests, intervals=False)
    assert found.refused == []
    (table,) = rank_tables(world.suite, found.entries, world.manifests)
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


def test_seeds_that_disagree_leave_the_mean_less_sure():
    """The same draws over samples four times, once all alike and once far apart with the same mean."""
    samples = np.random.default_rng(0).normal(0.8, 0.02, 1000)
    alike = draws_of_mean(np.stack([samples] * 4), range(4))
    apart = draws_of_mean(np.stack([samples + shift for shift in (-0.1, -0.02, 0.02, 0.1)]), range(4))
    assert alike.std() == pytest.approx(samples.std(), rel=1e-9)
    assert apart.mean() == pytest.approx(samples.mean(), abs=0.01)
    assert apart.std() > 2 * alike.std()


def test_drawn_seeds_show_the_variance_of_their_mean():
    shifts = np.random.default_rng(1).normal(0, 1, 6)
    drawn = draws_of_mean(np.repeat(shifts[:, None], 20_000, axis=1), range(6))
    assert drawn.std() == pytest.approx(shifts.std(ddof=1) / math.sqrt(6), rel=0.03)


def test_the_same_seeds_meet_the_same_draws_and_others_do_not():
    values = np.random.default_rng(2).random((3, 50))
    assert np.array_equal(draws_of_mean(values, (0, 1, 2)), draws_of_mean(values, (0, 1, 2)))
    assert not np.array_equal(draws_of_mean(values, (0, 1, 2)), draws_of_mean(values, (3, 4, 5)))
    assert np.isfinite(draws_of_mean(values, (2**53 - 1, 0, 7))).all()


def test_undefined_draws_stay_undefined():
    values = np.array([[0.5, math.nan], [0.5, 0.6]])
    assert np.isnan(draws_of_mean(values, (0, 1))).tolist() == [False, True]


def test_reaches_add_like_the_sides_of_a_right_angle():
    assert reach(0.03, [0.5]) == 0.03
    assert reach(0.0, [0.4, 0.6]) == pytest.approx(1.959964 * statistics.stdev([0.4, 0.6]) / math.sqrt(2), rel=1e-4)
    assert spread([0.25]) is None


def test_only_the_whole_training_split_ranks_and_fractions_stay_known(world):
    world.add("a", 1.0, seeds=(0, 1))
    world.add("b", 1.2, run="1")
    world.add("b", 0.8, run="2", fraction=0.1)
    found = read_submissions(world.submissions, world.suite, world.manifests, intervals=False)
    table = table_of(world)
    assert {row.entry.model: row.fraction for row in table.models} == {"a": 1, "b": 1}
    places = current_rows(found.entries)
    assert ("lab", "b", "chest@1", "zero_shot@1", 0.1) in places
    assert places["lab", "b", "chest@1", "zero_shot@1", 0.1].entry.run == "2"
    assert table.models[0].n("clean") == 120 - LEAKY
