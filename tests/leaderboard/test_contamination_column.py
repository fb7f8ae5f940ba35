"""What the leaderboard says of a model's training: by its card, never for controls."""

import csv
import json
import re

import pytest
import yaml
from typer.testing import CliRunner

from submission_factory import LORA, World
from vlmed.cli.leaderboard import app
from vlmed.leaderboard.build import build
from vlmed.models.cards import find_card
from vlmed.suite.load import load_suite

PUBMEDCLIP = "hf:flaviagiammarino/pubmed-clip-vit-base-patch32"
RESNET = "microsoft/resnet-50"
ROCO = "exposed", ["roco", "roco_radiology"]


@pytest.fixture
def world(tmp_path):
    """A world whose radiographs are called ROCO."""
    world = World(tmp_path / "world")
    tree = yaml.safe_load(world.tasks_file.read_text("utf-8"))
    tree["datasets"]["roco_radiology"] = tree["datasets"].pop("radiographs")
    for task in tree["tasks"].values():
        if task["dataset"] == "radiographs":
            task["dataset"] = "roco_radiology"
    (world.root / "roco.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), "utf-8")
    world.suite = load_suite(world.root / "roco.yaml")
    return world


def site(world, **more):
    return build(world.submissions, world.root / "site", world.suite, world.manifests, intervals=False, **more).page


def task_page(world):
    return (site(world, find_card=find_card).parent / "tasks/chest-1.html").read_text("utf-8")


def verdicts(world, **more):
    """Model -> (verdict, path) of the first table."""
    data = json.loads((site(world, **more).parent / "data/leaderboard.json").read_text("utf-8"))
    return {
        row["name"]: row["contamination"] and (row["contamination"]["status"], row["contamination"]["path"])
        for row in data["tables"][0]["rows"]
    }


def test_every_verdict_by_the_card_of_the_reference(world):
    world.add("exposed", 2.0, ref=PUBMEDCLIP)
    world.add("at-a-revision", ref=f"{PUBMEDCLIP}@{'a' * 40}")
    world.add("stranger", ref="hf:lab/new")
    world.add("folder", ref="dir:./flaviagiammarino/pubmed-clip-vit-base-patch32")
    world.add("web", ref="openai/clip-vit-base-patch32")
    world.add("clean", ref=RESNET)
    assert verdicts(world, find_card=find_card) == {
        "exposed": ROCO,
        "at-a-revision": ROCO,
        "stranger": ("unknown", []),
        "folder": ("unknown", []),
        "web": ("unknown", ["wit_400m"]),
        "clean": ("clean", []),
    }


def test_controls_have_no_verdict(world):
    world.control("random")
    world.control("oracle", 30.0)
    assert verdicts(world, find_card=find_card) == {"oracle": None, "random": None}


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        (PUBMEDCLIP, ("exposed", ["pubmedclip", "roco", "roco_radiology"])),
        (RESNET, ("unknown", [])),
        ("hf:lab/new", ("unknown", [])),
    ],
)
def test_an_adapter_inherits_and_is_never_clean_by_its_base_alone(world, ref, expected):
    world.add("adapted", ref=ref, adapter=LORA)
    assert verdicts(world, find_card=find_card) == {"adapted": expected}


def test_the_verdict_is_of_the_tables_data_set(world):
    world.add("a", ref=PUBMEDCLIP, tasks=("chest", "phantom_side"))
    data = json.loads((site(world, find_card=find_card).parent / "data/leaderboard.json").read_text("utf-8"))
    assert [table["rows"][0]["contamination"]["status"] for table in data["tables"]] == ["exposed", "unknown"]


@pytest.mark.parametrize("ref", ["ftp:model", "a b", "\u202e"])
def test_a_text_that_is_no_reference_is_unknown(world, ref):
    world.add("a", ref=ref, adapter=LORA | {"ref": ref})
    assert verdicts(world, find_card=find_card) == {"a": ("unknown", [])}


def test_without_cards_everything_is_unknown(world):
    world.add("a", ref=PUBMEDCLIP)
    assert verdicts(world) == {"a": ("unknown", [])}


def test_contamination_does_not_touch_the_rank(world):
    world.add("exposed", 3.0, ref=PUBMEDCLIP)
    world.add("clean", 0.5, ref=RESNET)
    world.add("unknown", 0.5, ref="hf:lab/new")
    with_cards, without = verdicts(world, find_card=find_card), verdicts(world)
    assert list(with_cards) == list(without)


def test_the_page_shows_the_word_and_the_way(world):
    world.add("exposed", 2.0, ref=PUBMEDCLIP)
    world.add("clean", ref=RESNET)
    world.control("random")
    page = task_page(world)
    cells = re.findall(r'<td data-value="(exposed|clean|unknown)" title="([^"]*)">(.*?)</td>', page)
    assert cells == [
        (
            "exposed",
            "certain: the model was trained on roco; roco contains roco_radiology (roco → roco_radiology)",
            '<span class="mark">exposed</span>',
        ),
        ("clean", "no way leads from imagenet_1k to roco_radiology", "clean"),
    ]


def test_rows_and_header_have_as_many_cells(world):
    world.add("a", ref=PUBMEDCLIP)
    world.control("random")
    page = task_page(world)
    table = page[page.index('<table class="rows">') : page.index("</table>", page.index('<table class="rows">'))]
    head, *rows = (len(re.findall(r"<t[hd][ >]", row)) for row in table.split("<tr")[1:])
    span = int(re.search(r'colspan="(\d+)"', table)[1])
    assert [head, span] == [rows[0], rows[2]]
    assert rows == [head, 1, head]


def test_a_hostile_reference_stays_text_in_the_reason(world):
    world.add("a", ref='"><script>alert(1)</script>', adapter=LORA)
    assert task_page(world).count("<script") == 1


def test_the_csv_has_a_verdict_for_every_run(world):
    world.add("a", run="1", ref="hf:lab/new")
    world.add("a", run="2", ref=PUBMEDCLIP, tasks=("chest", "phantom_side"))
    world.control("random")
    text = (site(world, find_card=find_card).parent / "data/results.csv").read_text("utf-8")
    found = {(row["model"], row["run"], row["task"]): row["contamination"] for row in csv.DictReader(text.splitlines())}
    assert found == {
        ("a", "1", "chest@1"): "unknown",
        ("a", "2", "chest@1"): "exposed",
        ("a", "2", "phantom_side@1"): "unknown",
        ("random", "1", "chest@1"): "",
    }


def test_the_command_knows_the_cards(world):
    world.add("a", ref=PUBMEDCLIP, tasks=("waiting",))
    arguments = [str(world.submissions), "--out", str(world.root / "site"), "--suite", str(world.root / "roco.yaml")]
    table = CliRunner().invoke(app, ["build", *arguments, "--no-intervals"])
    data = CliRunner().invoke(app, ["build", *arguments, "--no-intervals", "--json"])
    assert (table.exit_code, data.exit_code) == (0, 0)
    assert "exposed" in table.stdout
    assert json.loads(data.stdout)["tables"][0]["rows"][0]["contamination"]["path"] == ROCO[1]
