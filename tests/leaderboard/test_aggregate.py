"""Places over many tasks: bounds that hold whatever is missing, so that leaving a task out never pays."""

import shutil

import numpy as np
import pytest

from submission_factory import World
from vlmed.leaderboard.aggregate import comparable, gain_bounds, standings
from vlmed.leaderboard.rank import current_rows, rank_tables
from vlmed.leaderboard.read import read_submissions

TASKS = ("chest", "organ", "waiting")
TRACK = "zero_shot@1"


def standing(world, entries=None):
    if entries is None:
        entries = read_submissions(world.submissions, world.suite, world.manifests, intervals=False).entries
    tables = comparable(world.suite, rank_tables(world.suite, current_rows(world.suite, entries), world.manifests))
    return {one.name[1]: one for one in standings(tables.get(TRACK, []))}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Every model runs a task in a run of its own, so that a test may leave any of them out."""
    world = World(tmp_path_factory.mktemp("aggregate") / "world")
    skills = np.random.default_rng(3).uniform(0.2, 2.5, (4, 3))
    for name, row in zip("abcd", skills, strict=True):
        for task, skill in zip(TASKS, row, strict=True):
            world.add(name, float(skill), tasks=(task,), run=task)
            world.blind("blank", name, 0.1, tasks=(task,), run=task)
            world.blind("swapped", name, 0.2, tasks=(task,), run=task)
    world.control("majority", 0.0, tasks=TASKS)
    world.add("a", 9.0, tasks=("minor", "phantom_side"), run="elsewhere")
    return world


@pytest.fixture(scope="module")
def entries(world):
    return read_submissions(world.submissions, world.suite, world.manifests, intervals=False).entries


def test_only_ranked_medical_tasks_count(world, entries):
    tables = comparable(world.suite, rank_tables(world.suite, current_rows(world.suite, entries), world.manifests))
    assert {track: [table.task.name for table in found] for track, found in tables.items()} == {TRACK: list(TASKS)}


def test_a_model_that_ran_everything_has_the_mean_of_its_rank_intervals(world, entries):
    tables = rank_tables(world.suite, current_rows(world.suite, entries), world.manifests)
    ranks = {
        name: np.mean([row.rank for table in tables for row in table.models if row.rank and row.entry.model == name], 0)
        for name in "bcd"
    }
    found = standing(world, entries)
    assert all(found[name].rank == pytest.approx(tuple(mean), abs=1e-6) for name, mean in ranks.items())
    assert all(one.run == one.tasks == 3 for one in found.values())
    assert [one.rank[1] for one in found.values()] == sorted(one.rank[1] for one in found.values())


@pytest.mark.parametrize("model", "abcd")
@pytest.mark.parametrize("task", TASKS)
def test_nobody_gains_by_leaving_a_task_out(world, entries, model, task):
    before = standing(world, entries)
    left = [entry for entry in entries if (entry.model, entry.run) != (model, task)]
    after = standing(world, left)
    assert after[model].run == 2
    assert after[model].rank[1] >= before[model].rank[1]
    assert after[model].gain[0] <= before[model].gain[0]
    assert list(after).index(model) >= list(before).index(model)
    for other in set(before) - {model}:
        assert after[other].rank[1] <= before[other].rank[1], "who stays is not pushed down"


@pytest.mark.parametrize("kind", ["blank", "swapped"])
def test_nobody_gains_by_leaving_a_control_out(world, entries, kind):
    before = standing(world, entries)
    after = standing(world, [entry for entry in entries if entry.model != f"{kind}-a"])
    assert after["a"].gain[0] <= before["a"].gain[0]
    assert after["a"].rank == before["a"].rank


def test_what_is_missing_is_no_zero(world, entries):
    """A missing task leaves the better bound at the best there is."""
    found = standing(world, [entry for entry in entries if (entry.model, entry.run) != ("d", "chest")])["d"]
    whole = standing(world, entries)["d"]
    assert found.rank[0] <= whole.rank[0]
    assert found.gain[1] >= whole.gain[1]


def test_places_hold_whatever_the_missing_units_turn_out_to_be(world, entries):
    whole = standing(world, entries)
    order = sorted(whole, key=lambda name: whole[name].rank)
    partial = standing(world, [entry for entry in entries if (entry.model, entry.run) != ("b", "organ")])
    low, high = partial["b"].place
    assert low <= order.index("b") + 1 <= high


def test_a_model_far_below_its_control_cannot_hide_that_control(tmp_path):
    """Without the strict control its gain would look better than it is."""
    world = World(tmp_path / "world")
    world.add("a", 0.1)
    world.control("majority", 0.0)
    world.blind("swapped", "a", 0.0)
    before = world.blind("blank", "a", 2.0)
    with_it = standing(world)["a"].gain
    assert with_it == (-1.0, -1.0)
    shutil.rmtree(before.parent)
    after = standing(world)["a"].gain
    assert after[0] == -1.0 < after[1]


def test_no_row_may_be_anything():
    assert gain_bounds(None) == (-1.0, 1.0)


def test_without_controls_there_is_no_gain(tmp_path):
    world = World(tmp_path / "world")
    world.add("a", 1.0)
    (one,) = standing(world).values()
    assert (one.gain, one.rank, one.place) == (None, (1.0, 1.0), (1, 1))


def test_no_table_gives_no_standing():
    assert standings([]) == []
