from dataclasses import replace

import pytest

from forgery import edit, rewrite
from submission_factory import OPEN, World
from vlmed.leaderboard.rank import current_rows, rank_tables
from vlmed.leaderboard.read import read_submissions
from vlmed.results.predictions import read_predictions
from vlmed.results.score import score
from vlmed.suite.manifest import read_manifest


def ranked(world):
    found = read_submissions(world.submissions, world.suite, world.manifests, intervals=False)
    assert found.refused == []
    return {
        (t.task.name, t.track.name): t
        for t in rank_tables(world.suite, current_rows(world.suite, found.entries), world.manifests)
    }


@pytest.fixture(scope="module")
def tables(full):
    entries = read_submissions(full.submissions, full.suite, full.manifests, intervals=False).entries
    return {t.task.name: t for t in rank_tables(full.suite, current_rows(full.suite, entries), full.manifests)}


def test_tables_stand_in_the_suites_order(tables):
    assert list(tables) == ["chest", "organ", "waiting", "minor", "phantom_side"]


def test_the_best_model_stands_alone_and_near_equals_share(tables):
    ranks = {row.entry.model: row.rank for row in tables["chest"].models}
    assert ranks == {"strong": (1, 1), "middle": (2, 3), "weak": (2, 3)}
    assert [row.entry.model for row in tables["chest"].leaders] == ["strong"]


def test_controls_are_shown_and_never_ranked(tables):
    assert [(row.entry.model, row.rank) for row in tables["chest"].controls] == [("oracle", None), ("random", None)]
    assert all(not row.entry.control for table in tables.values() for row in table.models)


def test_clean_samples_decide_where_the_manifest_is_frozen(tables):
    row = tables["chest"].models[0]
    assert (tables["chest"].part, row.n("clean"), row.n("all")) == ("clean", 110, 120)
    assert row.value == row.units[0]["scores"]["metrics"]["clean"]["auc"]["value"]


def test_a_pending_task_is_ranked_on_all(tables):
    row = tables["waiting"].models[0]
    assert (tables["waiting"].part, row.n("clean"), row.rank) == ("all", None, (1, 1))
    assert row.value == row.units[0]["scores"]["metrics"]["all"]["auc"]["value"]
    assert row.metric("auc", "clean") is None


def test_a_task_that_is_not_ranked_has_no_ranks(tables):
    assert [row.rank for row in tables["minor"].models] == [None, None]
    assert tables["minor"].leaders == []


def test_seeds_are_averaged(tables):
    row = next(row for row in tables["chest"].models if row.entry.model == "weak")
    values = [unit["scores"]["metrics"]["clean"]["auc"]["value"] for unit in row.units]
    assert [unit["seed"] for unit in row.units] == [0, 1]
    assert row.value == pytest.approx(sum(values) / 2, abs=1e-12)
    assert row.low < row.value < row.high


def test_equal_predictions_share_every_rank(world):
    world.add("one", 1.0, org="a")
    folder = world.submissions / "b__two"
    (world.submissions / "a__one").rename(folder)
    world.add("one", 1.0, org="a")
    (folder / "1" / "result.json").write_bytes((world.submissions / "a__one/1/result.json").read_bytes())
    file = "predictions/chest-1.zero_shot-1.0.1.parquet"
    (folder / "1" / file).write_bytes((world.submissions / "a__one/1" / file).read_bytes())
    (table,) = ranked(world).values()
    assert [(row.entry.org, row.rank) for row in table.models] == [("a", (1, 2)), ("b", (1, 2))]


def test_a_later_run_replaces_an_earlier_one_only_where_both_stand(world):
    world.add("a", 0.5, run="9", tracks=("zero_shot", "linear_probe"))
    world.add("a", 2.0, run="10")
    tables = ranked(world)
    assert [row.entry.run for row in tables["chest", "zero_shot"].models] == ["10"]
    assert [row.entry.run for row in tables["chest", "linear_probe"].models] == ["9"]


def test_units_on_a_fraction_of_the_training_split_are_not_ranked(world):
    world.add("a", fraction=0.1)
    assert ranked(world) == {}


def test_other_samples_of_a_pending_task_are_not_ranked_with_the_rest(world):
    world.add("a", 1.0, tasks=("waiting",))
    world.add("b", 2.0, tasks=("waiting",))
    world.add("cherry-picker", 9.0, tasks=("waiting",), samples=slice(0, 40))
    (table,) = ranked(world).values()
    assert {row.entry.model: (row.rank is not None, row.note) for row in table.models} == {
        "cherry-picker": (False, "scored other samples"),
        "b": (True, ""),
        "a": (True, ""),
    }


def test_a_score_that_is_undefined_is_shown_last_and_unranked(world):
    world.add("good", 1.0, tasks=("waiting",))
    world.add("one-class", 1.0, tasks=("waiting",), samples=slice(0, 120, 2))
    (table,) = ranked(world).values()
    assert [(row.entry.model, row.value is None, row.rank, row.note) for row in table.models] == [
        ("good", False, (1, 1), ""),
        ("one-class", True, None, "undefined"),
    ]


def test_no_submission_gives_no_table(world):
    assert ranked(world) == {}


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("kinds") / "world", all_kinds=True)
    for tasks, track in ((("figures", "median"), "retrieve"), (("questions", "closed"), "answer")):
        for name, skill in (("strong", 2.5), ("middle", 0.4), ("near", 0.41)):
            world.add(f"{name}-{track}", skill, tasks=tasks, tracks=(track,), seeds=range(4))
        world.control(f"random-{track}", 0.0, tasks=tasks, tracks=(track,))
    return ranked(world)


@pytest.mark.parametrize(
    ("task", "track"),
    [("figures", "retrieve"), ("median", "retrieve"), ("questions", "answer"), ("closed", "answer")],
)
def test_every_kind_of_task_is_ranked(every_kind, task, track):
    table = every_kind[task, track]
    assert {row.entry.model: row.rank for row in table.models} == {
        f"strong-{track}": (1, 1),
        f"middle-{track}": (2, 3),
        f"near-{track}": (2, 3),
    }
    assert table.models[0].entry.model == f"strong-{track}"
    assert [row.entry.model for row in table.controls] == [f"random-{track}"]
    assert all(row.note == "" and row.low <= row.value <= row.high for row in table.models)


def test_a_lower_median_rank_stands_above_a_higher_one(every_kind):
    values = [row.value for row in every_kind["median", "retrieve"].models]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_who_claims_that_open_questions_are_closed_is_not_ranked_with_the_rest(tmp_path):
    world = World(tmp_path / "world", all_kinds=True)
    for name in ("a", "b", "c"):
        folder = world.add(name, 0.5, tasks=("questions",), tracks=("answer",))
    task = world.suite.task("questions")

    def narrow(predictions):
        """All open questions become closed ones with one wrong candidate, which a forger would like."""
        pairs = [tuple(sorted({target, OPEN[0 if target != OPEN[0] else 1]})) for target in predictions.targets]
        candidates = [names or pair for names, pair in zip(predictions.candidates, pairs, strict=True)]
        closed = predictions.closed | True
        return replace(predictions, candidates=candidates, closed=closed)

    rewrite(world, folder, narrow)
    (file,) = (folder / "predictions").iterdir()
    frozen = read_manifest(task, world.manifests).by_id()
    edit(folder, "units/0/scores", score(task, read_predictions(file, task), frozen))
    (table,) = ranked(world).values()
    assert {row.entry.model: (row.rank is not None, row.note) for row in table.models} == {
        "a": (True, ""),
        "b": (True, ""),
        "c": (False, "scored other samples"),
    }
