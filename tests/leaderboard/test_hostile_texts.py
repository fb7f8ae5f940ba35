"""Whatever a stranger writes stands in pages, data and exports as text; tests/browser asks a browser, too."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
import yaml

from hostile_submission import ADDRESS, HOST, TEXT, add_hostile, add_refused
from submission_factory import World
from vlmed.leaderboard.build import Leaderboard, build
from vlmed.leaderboard.every_eval import record, record_path
from vlmed.leaderboard.hub_export import card_front_matter
from vlmed.leaderboard.published_results import shown_runs
from vlmed.results.untrusted import printable
from vlmed.suite.load import schema_problems

SHOWN = printable(TEXT)
HOSTS = {"", "github.com", "example.org"}  # the project's and the data set's
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    world = World(tmp_path_factory.mktemp("hostile") / "world")
    world.add("plain", 2.0)
    add_hostile(world)
    add_refused(world)
    return build(world.submissions, world.root / "site", world.suite, world.manifests, intervals=False)


@pytest.fixture(scope="module")
def site(built: Leaderboard) -> Path:
    return built.page.parent


class Page(HTMLParser):
    """A page's start tags with their attributes, and the text that a reader may see."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += "" if self.cdata_elem else data


def test_the_hostile_run_is_shown_and_the_other_is_refused(built: Leaderboard) -> None:
    assert [entry.path for entry in built.submissions.entries] == ["lab__hostile/1", "lab__plain/1"]
    assert [run.path for run in built.submissions.refused] == ["lab__refused/1"]


def test_no_page_has_an_element_an_attribute_or_an_address_of_theirs(site: Path) -> None:
    for file in site.rglob("*.html"):
        for tag, attributes in Page(file).tags:
            assert tag not in ("img", "iframe", "object", "embed", "base"), file
            assert not [name for name in attributes if name.startswith("on")], file
            for name in ("href", "src", "action", "xlink:href"):
                address = urlsplit(attributes.get(name) or "")
                assert address.scheme in ("", "https", "data"), file
                assert address.netloc in HOSTS, file


def test_the_hostile_models_page_has_as_many_scripts_as_the_other(site: Path) -> None:
    hostile, plain = (Page(site / f"models/lab__{name}.html") for name in ("hostile", "plain"))
    for tag in ("script", "style", "svg", "title"):
        assert [one for one, _ in hostile.tags].count(tag) == [one for one, _ in plain.tags].count(tag)


def test_the_models_page_shows_every_text_whole(site: Path) -> None:
    """Architecture, family, adapter (three), companion, warning, one below (two), software, audit (three)."""
    text = Page(site / "models/lab__hostile.html").text
    assert text.count(SHOWN) == 13
    assert ADDRESS in text


def test_what_was_refused_is_named_in_its_own_words(site: Path) -> None:
    text = Page(site / "index.html").text
    assert "HYPERLINK" in text[text.index("Left out") :]


@pytest.mark.parametrize("name", ["index.html", "compare.html", "answers.html"])
def test_the_data_of_a_page_can_neither_close_nor_open_an_element(site: Path, name: str) -> None:
    page = (site / name).read_text("utf-8")
    _, block = page.split('<script type="application/json" id="data">')
    block = block[: block.index("</script>")]
    assert not set("<>&") & set(block)
    assert name != "index.html" or f"{SHOWN} {SHOWN}" in [model["adapter"] for model in json.loads(block)["models"]]


def test_feed_and_badges_are_well_formed_and_lead_nowhere_else(site: Path) -> None:
    files = [site / "feed.atom", *(site / "badges").glob("*/*.svg")]
    assert len(files) == 3
    for file in files:
        elements = list(ElementTree.fromstring(file.read_bytes()).iter())
        assert not [element for element in elements if element.tag.endswith("script")]
        assert not [name for element in elements for name in element.attrib if name.startswith("on")]
        assert not any(urlsplit(element.get("href", "")).netloc for element in elements)


def test_no_cell_of_the_csv_is_a_formula_and_the_parquet_file_has_the_text(site: Path) -> None:
    with (site / "data/results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    texts = {cell for row in rows for name, cell in row.items() if name not in ("value", "low", "high", "gain")}
    assert f"'{SHOWN}" in texts
    assert not [text for text in texts if text.startswith(FORMULA)]
    assert SHOWN in pq.read_table(site / "data/results.parquet")["adapter"].to_pylist()


def test_the_data_hold_the_text_and_follow_their_schema(site: Path) -> None:
    data: dict[str, Any] = json.loads((site / "data/leaderboard.json").read_text("utf-8"))
    assert schema_problems(data, "leaderboard.schema.json", "leaderboard.json") == []
    model = next(row["model"] for row in data["tables"][0]["rows"] if row["name"] == "hostile")
    assert (model["name"], model["adapter"]["ref"], model["ref"]) == (SHOWN, SHOWN, ADDRESS)
    for file in (site / "data/croissant").glob("*.json"):
        assert HOST not in file.read_text("utf-8")


def strings(value: Any) -> list[str]:
    """Every text in JSON."""
    if isinstance(value, dict | list):
        return [text for one in (value.values() if isinstance(value, dict) else value) for text in strings(one)]
    return [value] if isinstance(value, str) else []


def test_exports_keep_text_as_text_and_lie_where_they_should(built: Leaderboard, site: Path) -> None:
    (run,) = shown_runs(site, "lab/hostile")
    card = card_front_matter([run], built.suite)
    (index,) = yaml.safe_load(card.strip().strip("-"))["model-index"]
    assert index["name"] == "lab/hostile"
    made = record(run, built.suite, 1_790_000_000)
    assert SHOWN in strings(made)
    assert re.fullmatch(r"data/vlmed/lab/hostile/[0-9a-f-]{36}\.json", record_path(run))
