import json

import numpy as np
import pytest

from submission_factory import LEAKY
from vlmed.errors import InputError, MissingError
from vlmed.hashing import file_hash
from vlmed.leaderboard.build import build
from vlmed.leaderboard.draws import DRAWS, File, drawn_units
from vlmed.metrics.inputs import number_groups
from vlmed.metrics.intervals import bootstrap
from vlmed.metrics.table import METRICS
from vlmed.results.predictions import read_predictions
from vlmed.suite.load import load_suite


@pytest.fixture(scope="module")
def plain(full):
    """The site as it is built without anything kept."""
    return site(full, "plain")


def site(world, out="site", **more):
    build(world.submissions, world.root / out, world.suite, world.manifests, intervals=False, **more)
    return content(world.root / out)


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def files_of(run):
    units = json.loads((run / "result.json").read_text())["units"]
    made = [unit["predictions"] for unit in units]
    return [File(run / one["file"], one["sha256"]) for one in made]


def kept_files(folder):
    return sorted(folder.rglob("*.draws"))


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_is_kept_and_the_number_of_processes_change_no_byte(full, plain, tmp_path, jobs):
    cold = site(full, f"cold-{jobs}", kept=tmp_path, jobs=jobs)
    written = {path: path.stat().st_mtime_ns for path in kept_files(tmp_path / "draws")}
    warm = site(full, f"warm-{jobs}", kept=tmp_path, jobs=jobs)
    assert cold == plain
    assert warm == plain
    # Models' units alone are drawn: of three models with five, five and two of two seeds each.
    assert len(written) == 14
    assert {path: path.stat().st_mtime_ns for path in kept_files(tmp_path / "draws")} == written


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-8],
        lambda content: content + b"\0" * 8,
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content[:40] + b"x" + content[41:],
        lambda content: b"no draws at all",
    ],
    ids=["empty", "short", "long", "flipped", "other head", "foreign"],
)
def test_what_is_kept_damaged_is_drawn_again_and_mended(full, plain, tmp_path, damage):
    site(full, "damaged", kept=tmp_path)
    whole = content(tmp_path / "draws")
    for path in kept_files(tmp_path / "draws"):
        path.write_bytes(damage(path.read_bytes()))
    assert site(full, "damaged", kept=tmp_path) == plain
    assert content(tmp_path / "draws") == whole


def test_draws_are_those_of_the_main_metric_on_the_clean_samples(world):
    (file,) = files_of(world.add("m"))
    task = world.suite.task("chest")
    (drawn,) = drawn_units(task, [file], world.manifests)
    predictions = read_predictions(file.path, task)
    clean = np.arange(LEAKY, world.samples)
    members = number_groups([predictions.groups[index] for index in clean], len(clean))
    samples = predictions.samples(clean)[""]
    expected = bootstrap(lambda counts: METRICS["auc"].function(samples, counts)[None], members, DRAWS)[0]
    assert np.array_equal(drawn.draws, expected)
    assert drawn.outcome.confusion.sum() == len(clean)


def test_what_is_kept_needs_no_prediction_file(world, tmp_path):
    (file,) = files_of(world.add("m"))
    task = world.suite.task("chest")
    (made,) = drawn_units(task, [file], world.manifests, tmp_path)
    file.path.unlink()
    (kept,) = drawn_units(task, [file], world.manifests, tmp_path)
    assert np.array_equal(kept.draws, made.draws)
    assert (kept.key, kept.basis) == (made.key, made.basis)
    assert np.array_equal(kept.outcome.confusion, made.outcome.confusion)
    assert np.array_equal(kept.outcome.bins, made.outcome.bins)


def test_nothing_is_kept_for_another_file_or_another_task(world, tmp_path):
    (file,) = files_of(world.add("m"))
    (other,) = files_of(world.add("other", 2.0))
    task = world.suite.task("chest")
    (one,) = drawn_units(task, [file], world.manifests, tmp_path)
    (two,) = drawn_units(task, [other], world.manifests, tmp_path)
    (world.root / "other.yaml").write_text(world.tasks_file.read_text().replace("metric: auc", "metric: accuracy"))
    changed = load_suite(world.root / "other.yaml").task("chest")
    (three,) = drawn_units(changed, [file], world.manifests, tmp_path)
    assert not np.array_equal(one.draws, two.draws)
    assert not np.array_equal(one.draws, three.draws)
    assert len(kept_files(tmp_path)) == 3


def test_units_come_back_in_their_order_kept_or_not(world, tmp_path):
    files = [file for index in range(3) for file in files_of(world.add(f"m{index}", index))]
    task = world.suite.task("chest")
    (middle,) = drawn_units(task, files[1:2], world.manifests, tmp_path)
    found = drawn_units(task, [*files, files[0]], world.manifests, tmp_path)
    assert np.array_equal(found[1].draws, middle.draws)
    assert np.array_equal(found[0].draws, found[3].draws)
    assert found[0].draws.mean() < found[1].draws.mean() < found[2].draws.mean()


def test_an_undefined_metric_has_no_draws_and_spoils_no_other(world, tmp_path):
    whole = world.add("whole", tasks=("waiting",))
    half = world.add("half", tasks=("waiting",), samples=slice(0, None, 2))  # one class alone
    for kept in (None, tmp_path, tmp_path):
        known, undefined = drawn_units(
            world.suite.task("waiting"), files_of(whole) + files_of(half), world.manifests, kept
        )
        assert (len(known.draws), len(undefined.draws), undefined.basis) == (DRAWS, 0, None)
        assert undefined.outcome.confusion.sum() == 60
        assert known.key != undefined.key


def test_a_missing_and_a_damaged_prediction_file_are_named(world, tmp_path):
    (file,) = files_of(world.add("m"))
    task = world.suite.task("chest")
    file.path.write_bytes(b"no parquet")
    with pytest.raises(InputError, match=file.path.name):
        drawn_units(task, [File(file.path, file_hash(file.path))], world.manifests, tmp_path)
    file.path.unlink()
    with pytest.raises(MissingError, match=file.path.name):
        drawn_units(task, [file], world.manifests, tmp_path)
    assert kept_files(tmp_path) == []


def changes(before, after):
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_a_new_submission_changes_only_what_it_must(world, tmp_path):
    world.add("x", 2.0)
    world.add("y", 1.0, tasks=("organ",))
    world.control("majority", tasks=("chest",))
    before = site(world, kept=tmp_path)
    inodes = {path: path.stat().st_ino for path in (world.root / "site").rglob("*") if path.is_file()}
    world.add("z", 0.5)
    after = site(world, kept=tmp_path)
    changed = changes(before, after)
    assert changed == {
        "index.html",
        "tasks/chest-1.html",
        "models/lab__x.html",  # its rank is one of two now
        "models/lab__z.html",
        "badges/lab__x/chest-1.zero_shot-1.svg",
        "badges/lab__z/chest-1.zero_shot-1.svg",
        "compare.html",
        "answers.html",
        "feed.atom",
        "data/leaderboard.json",
        "data/results.csv",
        "data/results.parquet",
        "runs/lab__z/1/result.json",
        "runs/lab__z/1/predictions/chest-1.zero_shot-1.0.1.parquet",
        "site.json",
    } | {name for name in changed if name.startswith("data/") and "lab__z" in name}
    # What did not change was not even written.
    same = {path for path, inode in inodes.items() if path.exists() and path.stat().st_ino == inode}
    assert {path.relative_to(world.root / "site").as_posix() for path in same} == before.keys() - changed


def test_a_submission_that_goes_takes_its_files_along(world, tmp_path):
    world.add("x", 2.0)
    world.add("y", 1.0, tasks=("organ",))
    before = site(world, kept=tmp_path)
    run = world.add("z", 0.5)
    site(world, kept=tmp_path)
    run.rename(world.root / "gone")
    run.parent.rmdir()
    assert site(world, kept=tmp_path) == before
