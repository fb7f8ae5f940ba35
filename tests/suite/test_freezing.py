"""What is frozen stays so: manifests, the ledger, and the proof of both."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import pytest

from submission_factory import World
from vlmed.errors import InputError, MissingError
from vlmed.hashing import target_digest
from vlmed.suite.check import check_suite
from vlmed.suite.frozen_rows import Row
from vlmed.suite.ledger import LEDGER, freeze, read_ledger
from vlmed.suite.load import load_suite
from vlmed.suite.manifest import manifest_path, read_manifest, write_manifest
from vlmed.suite.splits import assign_split, bucket
from vlmed.suite.types import SplitRule, Task


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def ledger(world: World) -> Path:
    path = world.root / "ledger.jsonl"
    freeze(world.suite, path)
    return path


def edit(world: World, old: str, new: str) -> None:
    """Change the task file and load it again."""
    text = world.tasks_file.read_text()
    assert old in text
    world.tasks_file.write_text(text.replace(old, new, 1))
    load_suite.cache_clear()
    world.suite = load_suite(world.tasks_file)


def whats(world: World, ledger: Path) -> list[str]:
    return [str(problem) for problem in check_suite(world.suite, world.manifests, ledger)]


def test_the_shipped_suite_is_proved() -> None:
    assert check_suite(load_suite()) == []


def test_a_frozen_suite_has_no_problems(world: World, ledger: Path) -> None:
    assert whats(world, ledger) == []
    assert freeze(world.suite, ledger) == []


def test_a_changed_prompt_without_a_new_version_is_found(world: World, ledger: Path) -> None:
    edit(world, "an image of pneumonia", "an image of Pneumonia")
    (problem,) = whats(world, ledger)
    assert "$.tasks.chest@1" in problem
    assert "without a new version" in problem
    assert "chest@2" in problem


def test_a_changed_definition_is_never_frozen_over(world: World, ledger: Path) -> None:
    before = ledger.read_text()
    edit(world, "an image of pneumonia", "an image of Pneumonia")
    with pytest.raises(InputError, match="chest@1"):
        freeze(world.suite, ledger)
    assert ledger.read_text() == before


def test_a_ledger_line_that_goes_or_changes_is_found(world: World, ledger: Path) -> None:
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[1:]))
    assert any("this is not frozen" in problem for problem in whats(world, ledger))
    ledger.write_text("".join([*lines, lines[0].replace("chest@1", "gone@1")]))
    assert any("something frozen is gone" in problem for problem in whats(world, ledger))
    ledger.write_text("".join([*lines, lines[0].replace('"definition": "', '"definition": "0')]))
    assert any("written again" in problem for problem in whats(world, ledger))


def test_a_pending_manifest_may_be_frozen_once(world: World, ledger: Path) -> None:
    task = world.suite.task("waiting")
    hash_ = write_manifest(manifest_path(task, world.manifests), [row("s0", "test"), row("s1", "train", image="1")])
    edit(world, "manifest: pending", f"manifest: {hash_}")
    assert any("waiting@1" in problem for problem in whats(world, ledger))
    assert freeze(world.suite, ledger) == ["tasks.waiting@1"]
    assert [line.id for line in read_ledger(ledger)].count("tasks.waiting@1") == 2
    edit(world, hash_, "f" * 64)
    with pytest.raises(InputError, match="without a new version"):
        freeze(world.suite, ledger)


def test_a_bad_ledger_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"id": "a@1"}\n')
    with pytest.raises(InputError, match="line 1"):
        read_ledger(path)


def row(name: str, split: str, image: str = "0", group: str = "", **more: str) -> Row:
    return Row(name, split, image * 32, group or name, more.pop("target", "0" * 16), **more)


def tampered(world: World, old: str, new: str) -> Task:
    task = world.suite.task("chest")
    path = manifest_path(task, world.manifests)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return task


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("s00003,", "s00001,", "row 5"),
        ("s00003,test", "s00003,tset", "row 5"),
        ("\ns00003", "\n\ns00003", "chest-v1.csv"),
        ("sample_id,split", "split,sample_id", "chest-v1.csv"),
    ],
)
def test_a_tampered_manifest_is_refused_with_its_place(world: World, old: str, new: str, place: str) -> None:
    task = tampered(world, old, new)
    with pytest.raises(InputError) as caught:
        read_manifest(task, world.manifests)
    assert "not the frozen manifest" in str(caught.value)
    assert place in str(caught.value)


def test_a_swapped_target_that_is_no_class_is_found_without_data(world: World, ledger: Path) -> None:
    path = manifest_path(world.suite.task("chest"), world.manifests)
    line = path.read_text().splitlines()[4]
    path.write_text(path.read_text().replace(line, line.replace(line.split(",")[4], "f" * 16)))
    assert any("not the frozen manifest" in problem for problem in whats(world, ledger))


def test_a_missing_manifest_says_what_to_do(world: World) -> None:
    with pytest.raises(MissingError, match="vlmed data freeze waiting"):
        read_manifest(world.suite.task("waiting"), world.manifests)
    manifest_path(world.suite.task("chest"), world.manifests).unlink()
    with pytest.raises(MissingError, match="gone"):
        read_manifest(world.suite.task("chest"), world.manifests)


def test_a_value_that_makes_a_manifest_hard_to_diff_is_refused(tmp_path: Path) -> None:
    for bad in ("a,b", 'a"b', "a\nb"):
        with pytest.raises(InputError, match="comma, quote or line end"):
            write_manifest(tmp_path / "m.csv", [row("s", "test", group=bad)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([row("a", "test"), row("b", "train")], "shares its image with train"),
        ([row("a", "test", "1", "g"), row("b", "val", "2", "g")], "shares its group with val"),
    ],
)
def test_a_leak_that_is_not_marked_is_found_without_data(
    world: World, ledger: Path, rows: list[Row], says: str
) -> None:

    known = target_digest("waiting", "normal")
    rows = [Row(r.sample_id, r.split, r.image, r.group, known, r.subgroups, r.leaks) for r in rows]
    path = manifest_path(world.suite.task("waiting"), world.manifests)
    edit(world, "manifest: pending", f"manifest: {write_manifest(path, rows)}")
    freeze(world.suite, ledger)
    assert any(says in problem for problem in whats(world, ledger))
    marked = [Row(r.sample_id, r.split, r.image, r.group, known, "", "pixels" * (r.split == "test")) for r in rows]
    edit(world, world.suite.task("waiting").manifest, write_manifest(path, marked))
    assert not any(says in problem for problem in whats(world, ledger))


@pytest.mark.parametrize(
    ("marked", "says"),
    [
        (("test", "group"), "marked as a leak of its group, which train and val lack"),
        (("test", "group;near"), "marked as a leak of its group, which train and val lack"),
        (("train", "near"), "only a test sample can leak"),
    ],
)
def test_a_mark_that_the_manifest_refutes_is_found(
    world: World, ledger: Path, marked: tuple[str, str], says: str
) -> None:
    split, leaks = marked
    target = target_digest("waiting", "normal")
    rows = [row("a", split, "1", target=target, leaks=leaks), row("b", "train", "2", target=target)]
    path = manifest_path(world.suite.task("waiting"), world.manifests)
    edit(world, "manifest: pending", f"manifest: {write_manifest(path, rows)}")
    freeze(world.suite, ledger)
    (problem,) = whats(world, ledger)
    assert says in problem


def test_hash_splits_are_fixed_and_in_proportion() -> None:
    rule = SplitRule("hash", "papila@1", test=0.2, val=0.1)
    splits = [assign_split(rule, "", f"patient-{number}") for number in range(20_000)]
    assert abs(splits.count("test") / 20_000 - 0.2) < 0.01
    assert abs(splits.count("val") / 20_000 - 0.1) < 0.01
    # SHA-256("papila@1\0patient-1") starts with these bits on every machine.
    assert bucket("papila@1", "patient-1") == 0.6095035499039396


def test_official_split_may_take_val_from_trains_groups() -> None:
    rule = SplitRule("official", "s", val=0.3)
    names = [f"p{number}" for number in range(1000)]
    assert {assign_split(rule, "test", name) for name in names} == {"test"}
    taken = [name for name in names if assign_split(rule, "train", name) == "val"]
    assert taken == [name for name in names if bucket("s", name) < 0.3]
    assert assign_split(rule, "", "p1") is None


def test_the_ledger_of_every_commit_starts_with_that_of_the_one_before() -> None:
    repository = Path(__file__).parents[2]
    name = LEDGER.relative_to(repository) if LEDGER.is_relative_to(repository) else None
    if name is None or not (repository / ".git").exists():
        pytest.skip("not a clone")

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", repository, *arguments], capture_output=True, text=True, check=True).stdout

    commits = git("log", "--reverse", "--format=%H", "--diff-filter=AM", "--", str(name)).split()
    contents = [git("show", f"{commit}:{name}") for commit in commits] + [LEDGER.read_text()]
    for older, newer in itertools.pairwise(contents):
        assert newer.startswith(older)
