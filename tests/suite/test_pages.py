"""The pages of the tasks say what the definitions and manifests say, and the committed ones are current."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from submission_factory import World, task
from vlmed.cli import app
from vlmed.errors import InputError
from vlmed.hashing import target_digest
from vlmed.suite.frozen_rows import Row
from vlmed.suite.load import load_suite
from vlmed.suite.manifest import manifest_path, write_manifest
from vlmed.suite.pages import suite_pages
from vlmed.suite.types import Task

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
WRITTEN = [DOCS / "design.md", DOCS / "add-a-task.md", DOCS / "method-changelog.md", DOCS / "tasks" / "README.md"]
WRITTEN += [REPOSITORY / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def row(name: str, split: str, label: str, **more: str) -> Row:
    fields = {"image": "0" * 31 + name, "group": f"p{name}"} | more
    return Row(name, split, target=target_digest("chest", label), **fields)


SICK, WELL = "pneumonia", "normal"
ROWS = [
    row("1", "train", SICK),
    row("2", "train", SICK, image="0" * 31 + "1", group="p1"),
    row("3", "train", WELL),
    row("4", "val", WELL),
    row("5", "test", SICK),
    row("6", "test", WELL, leaks="group;pixels"),
    row("7", "test", WELL, leaks="near", group="p6"),
    row("8", "test", SICK),
]


def pages_of(world: World) -> dict[str, str]:
    """The pages of the suite as its file now stands."""
    load_suite.cache_clear()
    world.suite = load_suite(world.tasks_file)
    return suite_pages(world.suite, world.manifests)


def page(world: World, rows: list[Row]) -> str:
    """The page of a task whose manifest has these rows."""
    old = world.suite.task("chest")
    digest = write_manifest(manifest_path(old, world.manifests), rows)
    world.tasks_file.write_text(world.tasks_file.read_text().replace(old.manifest, digest))
    return pages_of(world)["chest.md"]


def test_the_committed_pages_are_what_the_generator_gives() -> None:
    made = suite_pages(load_suite())
    committed = {path.name: path.read_text("utf-8") for path in (DOCS / "tasks").iterdir()}
    hint = "run `vlmed tasks pages docs/tasks`, and delete the pages of tasks that are gone"
    assert sorted(committed) == sorted(made), hint
    assert [name for name in made if committed[name] != made[name]] == [], hint


@pytest.mark.parametrize("task", load_suite().current_tasks(), ids=lambda task: task.name)
def test_a_page_tells_what_one_must_know(task) -> None:
    text = (DOCS / "tasks" / f"{task.name}.md").read_text("utf-8")
    shown = re.sub(r"\\(.)", r"\1", text)
    dataset = task.dataset
    for fact in (dataset.licence, dataset.homepage, dataset.layout.strip(), dataset.identity, task.digest[:12]):
        assert fact in shown
    for prompts in task.prompts.values():
        for spec in task.classes:
            listed = "\n".join(f"{number}. {prompt}" for number, prompt in enumerate(prompts[spec.name], start=1))
            assert f"*{spec.name}*\n\n{listed}\n" in shown
    for name in (*task.metrics, *task.tracks):
        assert f"`{name}" in shown
    assert "**main**" in next(line for line in shown.splitlines() if line.startswith(f"| `{task.main_metric}`"))


def test_counts_by_hand(world: World) -> None:
    lines = page(world, ROWS).splitlines()
    assert "|  | train | val | test | clean test |" in lines
    assert "| samples | 3 | 1 | 4 | 2 |" in lines
    assert "| distinct images | 2 | 1 | 4 | 2 |" in lines
    assert "| distinct groups | 2 | 1 | 3 | 2 |" in lines
    assert "| normal | 1 | 1 | 2 | 0 |" in lines
    assert "| pneumonia | 2 | 0 | 2 | 2 |" in lines


def test_leaks_by_kind_the_most_certain_first(world: World) -> None:
    text = page(world, ROWS)
    assert "2 of 4 test samples meet a sample of train or val; 2 are clean." in text
    assert re.findall(r"^\| `(pixels|group|near|text)` \|.*\| (\d+) \|$", text, re.M) == [
        ("pixels", "1"),
        ("group", "1"),
        ("near", "1"),
    ]


def test_a_task_without_leaks_says_so(world: World) -> None:
    assert "No test sample meets" in page(world, [row for row in ROWS if not row.leaks])


def test_a_manifest_without_images_says_that_pixels_were_never_compared(world: World) -> None:
    told = "pixels were never compared"
    assert told not in page(world, ROWS)
    text = page(world, [row("1", "train", SICK, image=""), row("2", "test", SICK, image="")])
    assert told in text
    assert "distinct images" not in text
    assert re.search(r"^\| \[`chest@1`\].* 1 \| 1 † \|", pages_of(world)["README.md"], re.M)


def page_of(world: World, changed: Task, rows: list[Row]) -> str:
    """The page of a task that the task file need not have."""
    frozen = replace(changed, manifest=write_manifest(manifest_path(changed, world.manifests), rows))
    return suite_pages(replace(world.suite, tasks={frozen.id: frozen}), world.manifests)[f"{frozen.name}.md"]


def test_texts_that_could_not_be_compared_are_told(world: World) -> None:
    captions = replace(world.suite.task("chest"), kind="retrieval", classes=())
    rows = [Row("a", "train", "", "1", ""), Row("b", "val", "", "2", "0" * 16), Row("c", "test", "", "3", "0" * 16)]
    assert "The texts of 1 of the 2 samples of train and val were not at hand" in page_of(world, captions, rows)
    assert "were not at hand" not in page_of(world, captions, rows[1:])


@pytest.mark.parametrize("identity", ["image", "patient"])
def test_images_that_are_their_own_groups_come_with_a_warning(world: World, identity: str) -> None:
    chest = world.suite.task("chest")
    grouped = replace(chest, dataset=replace(chest.dataset, identity=identity))
    assert ("each image counts as its own group" in page_of(world, grouped, ROWS)) == (identity == "image")


def test_a_pending_task_has_no_counts(world: World) -> None:
    pages = suite_pages(world.suite, world.manifests)
    assert "**pending**" in pages["waiting.md"]
    assert "samples |" not in pages["waiting.md"]
    assert re.search(r"^\| \[`waiting@1`\].* pending \| pending \|", pages["README.md"], re.M)
    assert re.search(r"^\| \[`chest@1`\].* 120 \| 110 \|", pages["README.md"], re.M)


def test_the_newest_version_has_the_page(world: World) -> None:
    text = world.tasks_file.read_text().replace("  waiting@1:", "  chest@2:")
    world.tasks_file.write_text(text)
    pages = pages_of(world)
    assert "`chest@2`" in pages["chest.md"]
    assert "`chest@1`" not in pages["README.md"]


def test_a_task_without_tracks_is_not_said_to_run(world: World) -> None:
    world.tasks_file.write_text(
        world.tasks_file.read_text().replace("    tracks:\n    - zero_shot\n    - linear_probe\n", "    tracks: []\n")
    )
    text = pages_of(world)["chest.md"]
    assert "vlmed run --model" not in text
    assert "None yet" in text


def test_what_is_unranked_is_marked(world: World) -> None:
    pages = suite_pages(world.suite, world.manifests)
    assert "not ranked" in pages["minor.md"]
    assert "not ranked" not in pages["chest.md"]


@pytest.mark.parametrize("name", ["a | b", "a *b* `c`", "<b>a</b>", "[a](javascript:b)"])
def test_names_are_shown_and_not_taken_for_markup(world: World, name: str) -> None:
    old = task("Pneumonia in chest radiographs", "radiographs")["title"]
    text = world.tasks_file.read_text()
    assert old in text
    world.tasks_file.write_text(text.replace(old, f"'{name}'"))
    pages = pages_of(world)
    line = next(line for line in pages["README.md"].splitlines() if "`chest@1`" in line)
    assert len(re.findall(r"(?<!\\)\|", line)) == 9
    assert not re.search(r"(?<!\\)[*<]|(?<!\\)`c|(?<!\\)\[a", line.split("|", 2)[2].rsplit("|", 3)[0])


def test_a_tampered_manifest_gives_no_page(world: World) -> None:
    path = manifest_path(world.suite.task("chest"), world.manifests)
    path.write_text(path.read_text().replace("s00003,test", "s00003,train"))
    with pytest.raises(InputError, match="not the frozen manifest"):
        suite_pages(world.suite, world.manifests)


def test_the_command_writes_them(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ["tasks", "pages", str(tmp_path / "pages")])
    assert outcome.exit_code == 0, outcome.output
    made = {path.name: path.read_text("utf-8") for path in (tmp_path / "pages").iterdir()}
    assert made == suite_pages(load_suite())


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_links_between_files_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text("utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_commands_that_are_named_exist(path: Path) -> None:
    group = typer.main.get_command(app)
    known = {name: getattr(command, "commands", {}) for name, command in group.commands.items()}
    for name, then in re.findall(r"`vlmed ([a-z]+)(?: ([a-z]+))?", path.read_text("utf-8")):
        assert name in known
        assert not known[name] or not then or then in known[name]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_files_that_are_named_exist(path: Path) -> None:
    text = path.read_text("utf-8")
    places = (REPOSITORY, REPOSITORY / "benchmark" / "vlmed")
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|yaml|json|jsonl|md))`", text)
    assert [name for name in named if not any((place / name).exists() for place in places)] == []
