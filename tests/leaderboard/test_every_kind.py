"""The whole site of a suite with classification, retrieval and VQA tasks."""

import csv
import json
import re

import pytest

from submission_factory import World
from vlmed.leaderboard.build import build
from vlmed.leaderboard.chart import Axis


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    world = World(root / "world", all_kinds=True)
    for name, skill in (("strong", 2.0), ("weak", 0.2)):
        world.add(f"clip-{name}", skill, tasks=("chest",))
        world.add(f"finder-{name}", skill, tasks=("figures", "median"), tracks=("retrieve",))
        world.add(f"speaker-{name}", skill, tasks=("questions",), tracks=("answer",))
    build(world.submissions, root / "site", world.suite, world.manifests)
    return root / "site"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("index.html", "Captions of figures"),
        ("tasks/figures-1.html", "R@5"),
        ("tasks/median-1.html", "Median rank"),
        ("tasks/questions-1.html", "Closed accuracy"),
        ("models/lab__finder-strong.html", "Captions of figures by median rank"),
    ],
)
def test_every_kind_has_its_tables(site, page, text):
    assert text in (site / page).read_text()


def test_no_page_shows_what_is_no_number(site):
    for page in site.rglob("*.html"):
        shown = re.sub(r"<script>.*?</script>", "", page.read_text(), flags=re.DOTALL)
        assert not re.search(r"\b(nan|inf|NaN|Infinity)\b", shown), page


def test_the_data_hold_every_number_of_every_kind(site):
    tables = json.loads((site / "data" / "leaderboard.json").read_text())["tables"]
    kinds = {table["task"]["id"]: (table["task"]["kind"], table["main_metric"]) for table in tables}
    assert kinds == {
        "chest@1": ("classification", "auc"),
        "figures@1": ("retrieval", "recall_at_1"),
        "median@1": ("retrieval", "median_rank"),
        "questions@1": ("vqa", "accuracy"),
    }
    rows = list(csv.DictReader((site / "data" / "results.csv").open()))
    named = {(row["task"], row["metric"]) for row in rows}
    assert {("figures@1", "text_to_image_recall_at_1"), ("figures@1", "strict_recall_at_1")} <= named
    assert ("questions@1", "open_rouge_l") in named


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ((1.0, 3.5), (1, 2, 3, 4)),
        ((1.0, 37.0), (0, 10, 20, 30, 40)),
        ((3.0, 4096.5), (0, 2000, 4000, 6000)),
        ((1.0, 2_000_000.0), (0, 500_000, 1_000_000, 1_500_000, 2_000_000)),
    ],
)
def test_an_axis_of_ranks_has_round_ticks_and_holds_all(values, ticks):
    axis = Axis.over(values)
    assert axis.ticks == ticks
    assert 0 <= axis.x(min(values)) <= axis.x(max(values)) <= 180
