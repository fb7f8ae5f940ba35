"""The gain of a model over the controls that could not look."""

import pytest

from submission_factory import LORA, World
from vlmed.leaderboard.blind import control_kind, share_of_way
from vlmed.leaderboard.rank import current_rows, rank_tables
from vlmed.leaderboard.read import read_submissions

LARGE = LORA | {"revision": "c" * 40}


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "world", all_kinds=True)


def tables(world):
    found = read_submissions(world.submissions, world.suite, world.manifests, intervals=False)
    assert found.refused == []
    return rank_tables(world.suite, current_rows(world.suite, found.entries), world.manifests)


def gains(world):
    (table,) = tables(world)
    return {row.entry.model: row.gain for row in table.models}


def test_without_controls_all_are_said_to_be_missing(world):
    world.add("a")
    found = gains(world)["a"]
    assert (found.value, found.share, found.control) == (None, None, "")
    assert found.missing == ("majority", "blank", "swapped")
    assert not found.whole


def test_the_best_of_all_controls_counts(world):
    world.add("a", 2.0)
    world.control("majority", 0.0)
    world.blind("blank", "a", 0.5)
    world.blind("swapped", "a", 0.1)
    (table,) = tables(world)
    (row,) = table.models
    blank = next(control for control in table.controls if control.entry.model == "blank-a")
    assert blank.value == max(control.value for control in table.controls)
    assert (row.gain.control, row.gain.score, row.gain.missing) == ("blank", blank.value, ())
    assert row.gain.value == pytest.approx(row.value - blank.value, abs=1e-6)
    assert row.gain.share == pytest.approx((row.value - blank.value) / (1 - blank.value), abs=1e-5)
    assert row.gain.whole


def test_a_model_worse_than_its_controls_loses(world):
    world.add("a", 0.0)
    world.blind("blank", "a", 2.0)
    found = gains(world)["a"]
    assert found.value < 0
    assert found.missing == ("majority", "swapped")


@pytest.mark.parametrize(
    "other",
    [
        {"revision": "d" * 40},
        {"adapter": LORA},
        {"ref": "control:blank/lab/b"},
        {"ref": "control:blankish/lab/a"},
        {"ref": "lab/a"},
    ],
)
def test_controls_of_other_weights_do_not_count(world, other):
    world.add("a", 2.0)
    world.add("blank-a", 1.0, **{"ref": "control:blank/lab/a", "family": "control"} | other)
    assert gains(world)["a"].control == ""


def test_an_adapters_control_is_not_its_bases(world):
    world.add("a", 2.0, adapter=LORA)
    world.blind("blank", "a", 0.5, adapter=LARGE)
    assert gains(world)["a"].control == ""
    world.blind("blank", "a", 0.5, adapter=LORA, run="2")
    assert gains(world)["a"].control == "blank"


@pytest.mark.parametrize("ref", ["lab/a", "hf:lab/a", "hf:lab/a@main", "lab/a@" + "a" * 40])
def test_the_reference_may_be_spelt_in_any_way(world, ref):
    world.add("a", 2.0, ref=ref)
    world.blind("blank", "a", 0.5)
    assert gains(world)["a"].control == "blank"


def test_equal_content_is_the_same_wherever_it_lay(world):
    content = "sha256:" + "e" * 64
    world.add("a", 2.0, ref="dir:/here/model", revision=content)
    world.blind("swapped", "a", 0.5, revision=content)
    assert gains(world)["a"].control == "swapped"


def test_the_oracle_and_random_are_no_blind_control_that_must_be_run(world):
    world.add("a", 2.0)
    world.control("oracle", 30.0)
    world.control("random", 0.0)
    found = gains(world)["a"]
    assert (found.control, found.missing) == ("random", ("majority", "blank", "swapped"))
    assert found.value > 0


def test_controls_of_another_task_do_not_count(world):
    world.add("a", 2.0)
    world.control("majority", 0.0, tasks=("organ",))
    first, _ = tables(world)
    assert first.models[0].gain.control == ""


def test_a_lower_median_rank_is_a_gain(world):
    world.add("a", 2.0, tasks=("median",), tracks=("retrieve",))
    world.control("random", 0.0, tasks=("median",), tracks=("retrieve",))
    (table,) = tables(world)
    (row,), (control,) = table.models, table.controls
    assert row.value < control.value
    assert row.gain.value == pytest.approx(control.value - row.value)
    assert 0 < row.gain.share <= 1


def test_controls_have_no_gain(world):
    world.control("majority", 0.0)
    world.control("oracle", 30.0)
    (table,) = tables(world)
    assert [row.gain for row in table.controls] == [None, None]
    assert [control_kind(row.entry) for row in table.controls] == ["oracle", "majority"]


@pytest.mark.parametrize(
    ("value", "control", "share"), [(1.0, 0.5, 1.0), (0.5, 0.5, 0.0), (0.0, 0.5, -1.0), (1.0, 1.0, None)]
)
def test_the_share_of_the_way_to_perfection(value, control, share):
    assert share_of_way("auc", value, control) == share
