"""Medical minus general, reported beside recomputed, and advice: from models that have a card."""

import json
import re

import pytest
import yaml

import submission_factory
from submission_factory import World
from vlmed.leaderboard import answers
from vlmed.leaderboard.answers import advice, cost_charts, curve_charts
from vlmed.leaderboard.board import board
from vlmed.leaderboard.build import build
from vlmed.leaderboard.gaps import gap_maps
from vlmed.leaderboard.read import read_submissions
from vlmed.leaderboard.reported import paper_tables, reported
from vlmed.models.cards import find_card
from vlmed.suite.load import load_suite

BIOMEDCLIP = "hf:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
CLIP = "openai/clip-vit-base-patch16"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """CheXpert, whose modality BiomedCLIP saw, and PAPILA, whose modality it did not."""
    with pytest.MonkeyPatch.context() as patch:
        tasks = {f"{name}@1": submission_factory.task(name, data) for name, data in _TASKS.items()}
        patch.setattr(submission_factory, "TASKS", tasks)
        patch.setattr(submission_factory, "PENDING", set())
        world = World(tmp_path_factory.mktemp("answers") / "world")
    tree = yaml.safe_load(world.tasks_file.read_text("utf-8"))
    for old, new in (("radiographs", "chexpert"), ("agreed", "papila")):
        tree["datasets"][new] = tree["datasets"].pop(old)
    for name, entry in tree["tasks"].items():
        entry["dataset"] = name.split("@")[0]
    (world.root / "renamed.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), "utf-8")
    world.suite = load_suite(world.root / "renamed.yaml")
    both = ("zero_shot", "linear_probe")
    world.add("medical", 1.6, ref=BIOMEDCLIP, tasks=tuple(_TASKS), tracks=both)
    world.add("general", 1.0, ref=CLIP, tasks=tuple(_TASKS), tracks=both)
    world.add("stranger", 9.0, tasks=tuple(_TASKS), tracks=both)
    world.add("medical", 0.8, ref=BIOMEDCLIP, run="tenth", tasks=("chexpert",), tracks=both[1:], fraction=0.1)
    return world


_TASKS = {"chexpert": "radiographs", "papila": "agreed"}


@pytest.fixture(scope="module")
def found(world):
    submissions = read_submissions(world.submissions, world.suite, world.manifests, intervals=False)
    assert submissions.refused == []
    return board(world.suite, submissions, world.manifests, find_card)


def score(found, model, task, track):
    table = next(one for one in found.tables if (one.task.name, one.track.name) == (task, track))
    return next(row.value for row in table.models if row.entry.model == model)


@pytest.mark.parametrize(
    ("question", "task", "medical", "general"),
    [
        ("RQ1", "chexpert", "zero_shot", "zero_shot"),
        ("RQ2", "chexpert", "zero_shot", "linear_probe"),
        ("RQ3", "papila", "linear_probe", "linear_probe"),
    ],
)
def test_each_question_compares_its_tracks_where_the_modality_was_seen_or_not(found, question, task, medical, general):
    maps = {asked.name: matrices for asked, matrices in gap_maps(found)}
    ours, papers = maps[question]
    assert (ours.reported, papers.reported) == (False, True)
    ((name, cells),) = ours.rows
    expected = score(found, "medical", task, medical) - score(found, "general", task, general)
    assert name == "lab/medical"
    shown = dict(zip(ours.tasks, cells, strict=True))
    assert float(shown[task].text.replace("−", "-")) == pytest.approx(expected, abs=5.1e-4)
    assert [cell for other, cell in shown.items() if other != task] == [None]


def test_the_reported_maps_hold_the_papers_differences(found):
    papers = {asked.name: matrices[-1] for asked, matrices in gap_maps(found)}["RQ1"]
    values = {(one["model"], one["task"]): one["value"] for one in reported()["results"] if one["table"] == "1"
              and one["track"] == "zero_shot" and one["metric"] == "auc" and one["task"] == "chexpert"}  # fmt: skip
    expected = values["biomedclip", "chexpert"] - max(values["clip", "chexpert"], values["blip2", "chexpert"])
    cells = dict(papers.rows)["BiomedCLIP"]
    shown = float(cells[papers.tasks.index("chexpert")].text.replace("−", "-"))
    assert shown == pytest.approx(expected / 100, abs=5.1e-4)


def test_recomputed_numbers_stand_beside_reported_ones_of_the_same_model_task_and_track(found):
    table = next(iter(paper_tables(found)))
    cells = {tuple(labels[:2]): dict(zip(table.columns, line, strict=True)) for labels, line in table.lines}
    ours = cells["chexpert", "BiomedCLIP"]["Linear probe, AUC"]
    assert ours[1] == pytest.approx(100 * score(found, "medical", "chexpert", "linear_probe"))
    assert ours[2] == "lab/medical"
    assert cells["chexpert", "MedCLIP"]["Linear probe, AUC"][1] is None
    assert cells["ham10000", "BiomedCLIP"]["Linear probe, AUC"][1] is None


def test_every_reported_number_stands_in_a_table_once(found):
    shown = [value for table in paper_tables(found) for _, cells in table.lines for value, _, _ in cells]
    known = sorted(one["value"] for one in reported()["results"])
    assert sorted(value for value in shown if value is not None) == known
    assert {one["model"] for one in reported()["results"]} <= set(reported()["models"])


def test_reported_models_never_enter_ranks_or_data(world):
    page = build(world.submissions, world.root / "site", world.suite, world.manifests, False, find_card).page
    data = json.loads((page.parent / "data/leaderboard.json").read_text("utf-8"))
    assert {row["name"] for table in data["tables"] for row in table["rows"]} == {"medical", "general", "stranger"}
    assert not re.search("reported", (page.parent / "data/results.csv").read_text("utf-8"))


def test_advice_orders_nothing_that_a_reader_cannot_have(found):
    options = advice(found)["options"]
    tenth = [one for one in options if one[3] == 0.1]
    assert [one[2] for one in tenth] == ["Linear probe"]
    assert {(one[2], one[5]) for one in options} == {("Zero-shot", 0), ("Linear probe", 1)}
    assert all(one[4] == 0 for one in options if one[5] == 0)


def test_charts_lie_inside_their_axes_and_join_what_belongs_together(found):
    (curve,) = curve_charts(found)
    assert [[point.values[0] for point in line] for line in curve.lines] == [["10 %", "100 %"]]
    costs = list(cost_charts(found))
    assert len(costs) == 2
    for chart in (curve, *costs):
        assert all(50 <= point.x <= 500 and 14 <= point.y <= 230 for point in chart.points)


def test_charts_of_many_results_keep_the_best_and_what_nothing_cheaper_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "_POINTS", 2)
    world = World(tmp_path)
    for name, ability in (("a", 2.0), ("b", 1.8), ("c", 1.6), ("d", 0.4)):
        world.add(name, ability, tracks=("linear_probe",) if name != "d" else ("zero_shot", "linear_probe"))
    read = read_submissions(world.submissions, world.suite, world.manifests, intervals=False)
    shown = board(world.suite, read, world.manifests)
    chart = next(cost_charts(shown))
    costs = [(point.name.split(",")[0], point.values[0]) for point in chart.points]
    scores = {row.entry.model: row.value for table in shown.tables for row in table.models}
    best = sorted(scores, key=scores.get)[-2:]
    assert {name for name, cost in costs if cost != "0"} == set(best)
    assert [name for name, cost in costs if cost == "0"] == ["d"]
    assert (len(chart.points), chart.left_out) == (3, 2)
    text = " ".join(answers.answers_page(shown).split())
    assert "3 results: the best, and those that nothing cheaper beats. 2 more stand in" in text
