import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from submission_factory import LORA, TASKS, World, full_world
from vlmed.cli.leaderboard import app
from vlmed.errors import MissingError, UsageError
from vlmed.leaderboard.build import build
from vlmed.leaderboard.export import CSV_COLUMNS
from vlmed.leaderboard.page import PHANTOM, Axis

HOSTILE = [
    "<script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnp.exe",
    '=HYPERLINK("http://evil.example","click")',
]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "world")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return full_world(tmp_path_factory.mktemp("full") / "world")


def site(world, out="site", **more):
    return build(world.submissions, world.root / out, world.suite, world.manifests, **more)


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def built(full):
    return site(full)


@pytest.fixture(scope="module")
def page(built):
    return built.page.read_text("utf-8")


class Elements(HTMLParser):
    """Every start tag with its attributes, and whether the tags nest."""

    VOID = frozenset({"meta", "link", "input", "br", "path", "circle"})

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


def test_the_page_nests_and_every_link_leads_somewhere(built, page):
    elements = Elements(page)
    assert elements.open == []
    ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in elements.tags:
        target = attributes.get("href", "") if tag == "a" else ""
        if target.startswith("#"):
            assert target[1:] in ids
        elif target and not target.startswith("https://"):
            assert (built.page.parent / target).is_file(), target


def test_nothing_is_loaded_from_anywhere(page):
    tags = Elements(page).tags
    policy = next(attributes["content"] for tag, attributes in tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    for tag, attributes in tags:
        assert "src" not in attributes
        assert not (tag == "link" and not attributes["href"].startswith("data:"))
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)


def test_tables_have_captions_and_headers_with_scope(page):
    assert page.count("<table") == page.count("<caption")
    assert all("scope" in attributes for tag, attributes in Elements(page).tags if tag == "th")
    labels = [attributes["aria-label"] for tag, attributes in Elements(page).tags if attributes.get("role") == "img"]
    assert labels
    assert all(re.fullmatch(r"[\d.]+, 95 % interval [\d.]+ to [\d.]+", label) for label in labels)


def test_phantom_and_unranked_tasks_stand_apart(page):
    headings = re.findall(r"<h[23] id=\"([^\"]+)\"", page)
    assert headings == [
        "overview", "reading", "medical", "task-chest-1", "task-organ-1", "task-waiting-1",
        "unranked", "task-minor-1", "phantom", "task-phantom_side-1", "refused",
    ]  # fmt: skip
    assert f'<h2 id="phantom">{PHANTOM}</h2>' in page


def test_pending_manifests_are_marked(page):
    article = page[page.index('id="task-waiting-1"') : page.index('id="unranked"')]
    assert "manifest pending" in article
    assert "AUC on all samples" in article
    assert "manifest pending" not in page[: page.index('id="task-waiting-1"')]


def test_refused_runs_are_named_with_their_reasons(page):
    part = page[page.index('id="refused"') :]
    assert "lab__liar/1" in part
    assert "$.units[0].predictions.rows" in part
    assert "runs/lab__liar" not in page


def test_the_page_says_nothing_of_the_machine(full, built):
    for name, data in content(built.page.parent).items():
        assert str(full.root).encode() not in data, name


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_texts(world, text):
    adapter = LORA | {"ref": text, "peft_type": text}
    world.add("a", ref=text, name=text, family=text, architecture=text, adapter=adapter, warnings=[text])
    plain_tags = [tag for tag, _ in Elements(site(world, "hostile").page.read_text("utf-8")).tags]
    world.add("a", run="2", adapter=LORA)
    assert plain_tags == [tag for tag, _ in Elements(site(world, "plain").page.read_text("utf-8")).tags]


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


def test_no_submission_gives_a_page_that_says_so(world):
    page = site(world).page.read_text("utf-8")
    assert "No validated submission yet." in page
    assert "chest" in page
    Elements(page)


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
