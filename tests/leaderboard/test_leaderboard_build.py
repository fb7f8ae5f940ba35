import csv
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from submission_factory import LORA, TASKS, World
from vlmed.cli.leaderboard import app
from vlmed.errors import MissingError, UsageError
from vlmed.leaderboard.build import build
from vlmed.leaderboard.chart import Axis, LogAxis
from vlmed.leaderboard.export import CSV_COLUMNS
from vlmed.leaderboard.overview import PHANTOM
from vlmed.results.untrusted import printable
from vlmed.suite.load import schema_problems

HOSTILE = [
    "<script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnp.exe",
    '=HYPERLINK("http://evil.example","click")',
]


def site(world, out="site", **more):
    return build(world.submissions, world.root / out, world.suite, world.manifests, **more)


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def built(full):
    return site(full)


@pytest.fixture(scope="module")
def pages(built):
    """Every page by its place in the site."""
    folder = built.page.parent
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*.html")}


class Elements(HTMLParser):
    """Every start tag with its attributes, and whether the tags nest."""

    VOID = frozenset({"meta", "link", "input", "br"})

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.open = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_site_holds_page_data_and_the_evidence_it_rests_on(full, built):
    files = content(built.page.parent)
    assert {"index.html", "data/leaderboard.json", "data/results.csv", "site.json"} <= files.keys()
    evidence = {name.removeprefix("runs/"): data for name, data in files.items() if name.startswith("runs/")}
    accepted = {name: data for name, data in content(full.submissions).items() if not name.startswith("lab__liar")}
    assert evidence == accepted


def test_equal_submissions_give_equal_bytes(full, built):
    again = site(full, "again")
    assert content(again.page.parent) == content(built.page.parent)


def test_a_build_into_its_own_site_changes_nothing(full, built):
    before = content(built.page.parent)
    site(full)
    assert content(built.page.parent) == before


def test_a_new_submission_changes_only_its_own_tables(world):
    world.add("a", tasks=("chest", "organ"))
    before = json.loads((site(world, "one").page.parent / "data/leaderboard.json").read_text())
    world.add("b", tasks=("organ",))
    after = json.loads((site(world, "two").page.parent / "data/leaderboard.json").read_text())
    assert after["tables"][0] == before["tables"][0]
    assert len(after["tables"][1]["rows"]) == 2


def test_there_is_a_page_for_every_task_track_and_model(pages):
    assert set(pages) == {
        "index.html", "compare.html", "answers.html", "about.html",
        "tasks/chest-1.html", "tasks/organ-1.html", "tasks/waiting-1.html", "tasks/minor-1.html",
        "tasks/phantom_side-1.html", "models/lab__strong.html", "models/lab__middle.html", "models/lab__weak.html",
    }  # fmt: skip


def test_pages_nest_and_every_link_leads_somewhere(built, pages):
    known = {name: Elements(page) for name, page in pages.items()}
    ids = {name: [of["id"] for _, of in found.tags if "id" in of] for name, found in known.items()}
    for name, elements in known.items():
        assert elements.open == []
        assert len(ids[name]) == len(set(ids[name])), name
        for tag, attributes in elements.tags:
            target = attributes.get("href", "") if tag == "a" else ""
            if not target.startswith(("https://", "http://")) and target:
                check_link(built.page.parent, name, target, ids)


def check_link(folder, page, target, ids):
    place, _, anchor = target.partition("#")
    file = (folder / page).parent / place if place else folder / page
    assert file.is_file(), (page, target)
    if anchor and "=" not in anchor:
        assert anchor in ids[file.resolve().relative_to(folder.resolve()).as_posix()], (page, target)


def test_nothing_is_loaded_from_anywhere(pages):
    for name, page in pages.items():
        tags = Elements(page).tags
        policy = next(attributes["content"] for tag, attributes in tags if "http-equiv" in attributes)
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "unsafe" not in policy
        for tag, attributes in tags:
            assert "src" not in attributes
            assert tag not in ("iframe", "object", "embed", "img")
            assert not (tag == "link" and attributes["rel"] == "stylesheet")
            assert not any(key.startswith("on") or key == "style" for key in attributes), (name, tag, attributes)


def test_tables_have_headers_with_scope_and_charts_have_names(pages):
    for name, page in pages.items():
        tags = Elements(page).tags
        assert all("scope" in attributes for tag, attributes in tags if tag == "th"), name
        charts = [attributes for tag, attributes in tags if tag == "svg"]
        assert all("aria-label" in chart or "aria-hidden" in chart for chart in charts), name
        if "tasks/" in name:
            labels = [chart["aria-label"] for chart in charts if "interval" in chart.get("aria-label", "")]
            assert all(re.fullmatch(r"[\d.]+, 95 % interval [\d.]+ to [\d.]+", label) for label in labels)
            assert labels


def test_phantom_and_unranked_tasks_stand_apart(pages):
    page = pages["index.html"]
    found = re.findall(r'tasks/([a-z_]+)-1\.html"|<h2 id="tasks">|id="(medical|unranked|phantom)"', page)
    order = list(dict.fromkeys(one or other for one, other in found if one or other))
    assert order == ["medical", "chest", "organ", "waiting", "unranked", "minor", "phantom", "phantom_side"]
    assert PHANTOM in page
    assert "phantom: synthetic, never ranked with medical tasks" in pages["tasks/phantom_side-1.html"]
    assert "shown without ranks" in pages["tasks/minor-1.html"]


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_the_overview_puts_only_ranked_medical_tasks_together(pages, built):
    data = data_of(pages["index.html"])
    assert [task["name"] for task in data["tasks"]] == ["chest", "organ", "waiting"]
    assert {model["name"] for model in data["models"]} == {"strong", "middle", "weak"}
    weak = next(model for model in data["models"] if model["name"] == "weak")
    assert weak["cells"][2] is None
    row = next(row for row in built.tables[0].models if row.entry.model == "weak")
    assert weak["cells"][0][:5] == [*(round(end, 4) for end in (row.value, row.low, row.high)), *row.rank]


def test_the_comparison_has_every_pair_with_its_interval(pages, built):
    data = data_of(pages["compare.html"])
    (chest, *_), differences = data["tables"], built.tables[0].differences
    order = [next(i for i, row in enumerate(differences.rows) if row.value == value) for _, value, *_ in chest["rows"]]
    expected = [differences.reach[order[i], order[j]] for i, j in ((0, 1), (0, 2), (1, 2))]
    assert [one / 10_000 for one in chest["reach"]] == pytest.approx(expected, abs=5e-5)
    assert chest["apart"] == "110"


def test_pending_manifests_are_marked(pages):
    page = pages["tasks/waiting-1.html"]
    assert "manifest pending" in page
    assert "AUC on all samples" in page
    assert "manifest pending" not in pages["tasks/chest-1.html"]


def test_refused_runs_are_named_with_their_reasons(pages):
    part = pages["index.html"][pages["index.html"].index('id="refused"') :]
    assert "lab__liar/1" in part
    assert "$.units[0].predictions.rows" in part
    assert not any("runs/lab__liar" in page for page in pages.values())


def test_seeds_subgroups_and_provenance_stand_on_a_models_page(pages):
    page = pages["models/lab__middle.html"]
    for text in ("lab/chest-lora", "a" * 40, "b" * 40, "python", "1.2\u00a0M parameters"):
        assert text in page
    weak = pages["models/lab__weak.html"]
    assert re.search(r"0: 0\.\d{3}</span> <span class=\"seed\">1: 0\.\d{3}", weak)


def test_missing_controls_are_said_to_be_missing(pages):
    assert "majority, blank, swapped not run" in pages["tasks/chest-1.html"]
    assert ">not run<" in pages["tasks/organ-1.html"]


def test_the_page_says_nothing_of_the_machine(full, built):
    for name, data in content(built.page.parent).items():
        assert str(full.root).encode() not in data, name


def tags_of(folder):
    return {
        path.relative_to(folder).as_posix(): [tag for tag, _ in Elements(path.read_text("utf-8")).tags]
        for path in folder.rglob("*.html")
    }


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_texts(world, text):
    adapter = LORA | {"ref": text, "peft_type": text}
    more = {"warnings": [text], "companions": [text]}
    world.add("a", ref=text, name=text, family=text, architecture=text, adapter=adapter, **more)
    hostile = tags_of(site(world, "hostile").page.parent)
    world.add("a", run="2", adapter=LORA, warnings=["plain"], companions=["plain"])
    assert hostile == tags_of(site(world, "plain").page.parent)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_in_refused_runs_stay_texts(world, text):
    file = world.add("a") / "result.json"
    result = json.loads(file.read_text()) | {"suite": text}
    file.write_text(json.dumps(result))
    page = site(world).page.read_text("utf-8")
    assert [tag for tag, _ in Elements(page).tags].count("script") == 1
    assert "<img" not in page


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＠"])
def test_no_cell_of_the_csv_is_a_formula(world, start):
    world.add("a", adapter=LORA | {"ref": f"{start}cmd|' /C calc'!A0"})
    text = (site(world).page.parent / "data/results.csv").read_bytes().decode()
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == 8
    parquet = pq.read_table(site(world, "again").page.parent / "data/results.parquet").to_pylist()
    assert {row["adapter"] for row in parquet} == {printable(f"{start}cmd|' /C calc'!A0")}
    assert not any(row["adapter"].startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＠")) for row in rows)


def test_the_csv_has_every_number_of_every_unit(full, built):
    with (built.page.parent / "data/results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    weak = [row for row in rows if (row["model"], row["task"], row["samples"]) == ("weak", "chest@1", "clean")]
    assert [(row["seed"], row["metric"]) for row in weak] == [
        (seed, metric) for seed in "01" for metric in sorted(TASKS["chest@1"]["metrics"])
    ]
    result = json.loads((full.submissions / "lab__weak/1/result.json").read_text())
    unit = next(unit for unit in result["units"] if (unit["task"], unit["seed"]) == ("chest@1", 1))
    auc = unit["scores"]["metrics"]["clean"]["auc"]
    row = next(row for row in weak if (row["seed"], row["metric"]) == ("1", "auc"))
    assert [float(row["value"]), float(row["low"]), float(row["high"])] == [auc["value"], auc["low"], auc["high"]]
    assert (row["n"], row["current"], row["control"]) == ("110", "1", "0")


def test_the_parquet_file_holds_the_same_rows(built):
    folder = built.page.parent / "data"
    table = pq.read_table(folder / "results.parquet")
    assert tuple(table.column_names) == CSV_COLUMNS
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    texts = [{name: "" if value is None else str(value) for name, value in row.items()} for row in table.to_pylist()]
    assert texts == rows
    assert not any(math.isnan(value) for value in table["value"].to_pylist() if value is not None)


def test_calibration_rank_and_gain_are_columns(tmp_path):
    world = World(tmp_path / "world", all_kinds=True)
    world.add("a", 2.0, tasks=("questions",), tracks=("answer",))
    world.add("b", 0.5)
    world.control("majority", 0.0)
    rows = pq.read_table(site(world).page.parent / "data/results.parquet").to_pylist()
    b = next(row for row in rows if (row["model"], row["metric"], row["samples"]) == ("b", "ece", "clean"))
    assert (b["calibration_error"], b["rank_low"], b["rank_high"]) == (b["value"], 1, 1)
    assert (b["gain_over"], b["controls_missing"], b["frozen"], b["verified"]) == ("majority", "blank swapped", 1, 0)
    a = next(row for row in rows if row["model"] == "a")
    assert a["worst_subgroup"].split("=")[0] in ("organ", "question_type")
    assert a["subgroup_gap"] > 0
    assert (a["calibration_error"], a["gain"]) == (None, None)


def test_replaced_runs_stay_in_the_csv(world):
    world.add("a", run="1")
    world.add("a", run="2")
    text = (site(world).page.parent / "data/results.csv").read_text()
    current = {(row["run"], row["current"]) for row in csv.DictReader(text.splitlines())}
    assert current == {("1", "0"), ("2", "1")}


def test_the_json_has_every_rank(built):
    data = json.loads((built.page.parent / "data/leaderboard.json").read_text("utf-8"))
    chest = data["tables"][0]
    assert (chest["task"]["id"], chest["track"]["id"], chest["ranked_on"]) == ("chest@1", "zero_shot@1", "clean")
    assert [(row["name"], row["rank"]) for row in chest["rows"]] == [
        ("strong", {"low": 1, "high": 1}),
        ("weak", {"low": 2, "high": 3}),
        ("middle", {"low": 2, "high": 3}),
        ("oracle", None),
        ("random", None),
    ]
    assert [run["path"] for run in data["refused"]] == ["lab__liar/1"]


def test_the_json_follows_its_published_schema(built, world):
    data = json.loads((built.page.parent / "data/leaderboard.json").read_text("utf-8"))
    assert schema_problems(data, "leaderboard.schema.json", "leaderboard.json") == []
    empty = json.loads((site(world).page.parent / "data/leaderboard.json").read_text("utf-8"))
    assert schema_problems(empty, "leaderboard.schema.json", "leaderboard.json") == []
    data["tables"][0]["rows"][0]["control"] = "no"
    del data["standings"]
    problems = schema_problems(data, "leaderboard.schema.json", "leaderboard.json")
    assert {problem.path for problem in problems} == {"$", "$.tables[0].rows[0].control"}


def test_the_feed_is_atom_with_an_entry_for_every_run_of_a_model(built, world):
    atom = "{http://www.w3.org/2005/Atom}"
    feed = ElementTree.parse(built.page.parent / "feed.atom").getroot()
    assert feed.tag == f"{atom}feed"
    assert sorted(entry.findtext(f"{atom}title") for entry in feed.iter(f"{atom}entry")) == [
        "lab/middle", "lab/strong", "lab/weak",
    ]  # fmt: skip
    world.add("a", run="2026-11-02")
    world.add("b", run="2026-12-01")
    feed = ElementTree.parse(site(world).page.parent / "feed.atom").getroot()
    assert [entry.findtext(f"{atom}title") for entry in feed.iter(f"{atom}entry")] == ["lab/b", "lab/a"]
    assert feed.findtext(f"{atom}updated") == "2026-12-01T00:00:00Z"


def test_badges_are_pictures_of_ranks(built):
    folder = built.page.parent / "badges"
    badge = ElementTree.parse(folder / "lab__strong/chest-1.zero_shot-1.svg").getroot()
    assert badge.attrib["aria-label"] == f"vlmed chest@1: rank 1 of 3 · {built.tables[0].models[0].value:.3f}"
    assert len(list(folder.glob("*/*.svg"))) == sum(
        row.rank is not None for table in built.tables for row in table.models
    )
    assert not any("minor" in path.name or "oracle" in path.name for path in folder.rglob("*"))


def test_no_submission_gives_a_page_that_says_so(world):
    page = site(world).page.read_text("utf-8")
    assert "No validated submission yet." in page
    assert "chest" in page
    for path in (world.root / "site").rglob("*.html"):
        assert Elements(path.read_text("utf-8")).open == []


@pytest.mark.parametrize("out", ["submissions", "submissions/site"])
def test_the_site_never_stands_among_the_submissions(world, out):
    world.add("a")
    before = content(world.root)
    with pytest.raises(UsageError, match="among the submissions"):
        site(world, out)
    assert content(world.root) == before


def test_a_missing_folder_of_submissions_writes_nothing(world):
    with pytest.raises(MissingError):
        build(world.root / "absent", world.root / "site", world.suite, world.manifests)
    assert not (world.root / "site").exists()


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([], (0.0, 0.25, 0.5, 0.75, 1.0)),
        ([0.5], (0.5, 0.505)),
        ([0.0, 1.0], (0.0, 0.25, 0.5, 0.75, 1.0)),
        ([0.471, 1.0], (0.4, 0.6, 0.8, 1.0)),
        ([0.9899, 0.9951], (0.985, 0.99, 0.995, 1.0)),
    ],
)
def test_axes_hold_their_values_between_round_ticks(values, ticks):
    axis = Axis.over(values)
    assert axis.ticks == ticks
    assert all(axis.low <= value <= axis.high for value in values)


@pytest.mark.parametrize(
    ("values", "ticks"),
    [([], (1, 10)), ([0.0], (1, 10)), ([5, 100], (1, 10, 100)), ([1e3, 4e14], (1e3, 1e6, 1e9, 1e12, 1e15))],
)
def test_logarithmic_axes_have_few_powers_of_ten(values, ticks):
    axis = LogAxis.over(values, 0, 100)
    assert axis.ticks == ticks
    assert all(0 <= axis.x(value) <= 100 for value in values)


@pytest.fixture
def command(world):
    """Runs `vlmed leaderboard build` on the world's submissions to the task that needs no manifest."""
    world.add("strong", 3.0, tasks=("waiting",), adapter=LORA | {"ref": "[bold]not markup[/]"})
    world.add("weak", 0.2, tasks=("waiting",))
    world.control("oracle", 30.0, tasks=("waiting",))

    def run(*more):
        arguments = [str(world.submissions), "--out", str(world.root / "site"), "--suite", str(world.tasks_file), *more]
        return CliRunner().invoke(app, ["build", *arguments])

    return run


def test_the_command_prints_ranks_and_the_page(world, command):
    done = command("--no-intervals")
    assert done.exit_code == 0, done.output
    lines = [[cell.strip() for cell in re.split("[│┃]", line)] for line in done.stdout.splitlines()]
    cells = [line[1:3] for line in lines if len(line) > 3]
    assert cells[1:] == [["1", "lab/strong"], ["2", "lab/weak"], ["control", "vlmed/oracle"]]
    assert "[bold]not markup[/]" in done.stdout
    assert f"page: {world.root / 'site' / 'index.html'}" in done.stdout.replace("\n", "")


def test_the_command_names_what_it_leaves_out(world, command):
    (world.submissions / "lab__liar" / "No Run").mkdir(parents=True)
    done = command()
    assert done.exit_code == 0, done.output
    assert "lab__liar/No Run" in done.stderr
    assert "3 runs accepted, 1 left out" in done.stdout


def test_the_command_prints_json(world, command):
    data = json.loads(command("--json").stdout)
    assert data["page"] == str(world.root / "site" / "index.html")
    assert [row["name"] for row in data["tables"][0]["rows"]] == ["strong", "weak", "oracle"]


def test_the_command_refuses_a_folder_of_the_users(world, command):
    (world.root / "site").mkdir()
    (world.root / "site" / "thesis.txt").write_text("mine")
    done = command()
    assert isinstance(done.exception, UsageError)
    assert [path.name for path in (world.root / "site").iterdir()] == ["thesis.txt"]


def test_building_never_imports_torch():
    program = "import sys, vlmed.leaderboard.build, vlmed.cli.leaderboard; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
