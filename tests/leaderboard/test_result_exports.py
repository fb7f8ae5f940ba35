"""Results for other collections: model cards of the Hub, Every Eval Ever, and Croissant for the tasks."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from typer.testing import CliRunner

from submission_factory import LORA, World
from vlmed.cli.leaderboard import app
from vlmed.errors import InputError, MissingError, UsageError
from vlmed.leaderboard.build import build
from vlmed.leaderboard.croissant import croissant
from vlmed.leaderboard.every_eval import record, record_path
from vlmed.leaderboard.hub_export import card_front_matter
from vlmed.leaderboard.published_results import Shown, shown_runs
from vlmed.suite.frozen_rows import COLUMNS
from vlmed.suite.load import load_suite
from vlmed.suite.manifest import read_manifest

HOSTILE = "x: y\n- !!python/object:os.system <script>"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("exports") / "world", all_kinds=True)
    world.add("m", 2.0, tasks=("chest", "waiting"), seeds=(0, 1))
    world.add("m", 2.0, run="2", tasks=("median",), tracks=("retrieve",))
    world.add("answers", tasks=("questions",), tracks=("answer",), adapter=LORA, adapters_below=[LORA])
    world.add("odd", ref=HOSTILE, name=HOSTILE, family=HOSTILE)
    world.control("oracle", 30.0)
    build(world.submissions, world.root / "site", world.suite, world.manifests, intervals=False)
    return world


@pytest.fixture(scope="module")
def runs(world: World) -> list[Shown]:
    return shown_runs(world.root / "site")


def of(runs: list[Shown], path: str) -> Shown:
    return next(run for run in runs if f"{run.name}/{run.run}" == path)


# What is shown


def test_every_ranked_run_is_read_back_and_no_control(runs: list[Shown]) -> None:
    assert [(run.name, run.run, len(run.units)) for run in runs] == [
        ("lab/answers", "1", 1), ("lab/m", "1", 4), ("lab/m", "2", 1), ("lab/odd", "1", 1),
    ]  # fmt: skip


def test_one_model_can_be_chosen_and_an_unknown_one_is_told_the_nearest(world: World) -> None:
    assert [run.run for run in shown_runs(world.root / "site", "lab/m")] == ["1", "2"]
    with pytest.raises(UsageError) as refused:
        shown_runs(world.root / "site", "lab/answer")
    assert "lab/answers" in str(refused.value)


@pytest.mark.parametrize(
    ("model", "repository"),
    [
        ({"ref": "openai/clip"}, "openai/clip"),
        ({"ref": "hf:openai/clip@main"}, "openai/clip"),
        ({"ref": "open_clip:ViT-B-16/laion2b"}, "lab/m"),
        ({"ref": "dir:/home/me/model"}, "lab/m"),
        ({"ref": "openai/clip", "adapter": LORA}, "lab/chest-lora"),
    ],
)
def test_the_repository_is_that_of_the_weights(model: dict[str, Any], repository: str) -> None:
    assert Shown("lab", "m", "1", {"model": {"adapter": None} | model}, "", []).repository == repository


def test_no_site_and_a_changed_one_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no built site"):
        shown_runs(tmp_path)
    site = Path(shutil.copytree(world.root / "site", tmp_path / "site"))
    file = site / "data/leaderboard.json"
    file.write_text(file.read_text().replace('"value": 0.', '"value": 1.'))
    with pytest.raises(InputError, match="not as it was built"):
        shown_runs(site)


# Every Eval Ever


@pytest.fixture(scope="module")
def records(world: World, runs: list[Shown]) -> dict[str, dict[str, Any]]:
    return {f"{run.name}/{run.run}": record(run, world.suite, 1_790_000_000) for run in runs}


def texts(value: Any) -> Iterator[tuple[str, Any]]:
    """Every entry of every `additional_details` and `details`."""
    if isinstance(value, list):
        for one in value:
            yield from texts(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from one.items() if key in ("additional_details", "details") else texts(one)


def test_records_have_what_the_schema_requires(records: dict[str, dict[str, Any]]) -> None:
    """The rules of its version 0.3.0, stated here again."""
    for made in records.values():
        assert made["schema_version"] == "0.3.0"
        assert re.fullmatch(r"\d+", made["retrieved_timestamp"])
        assert made["source_metadata"]["source_type"] in ("documentation", "evaluation_run")
        assert made["source_metadata"]["evaluator_relationship"] in (
            "first_party",
            "third_party",
            "collaborative",
            "other",
        )
        assert {"name", "version"} <= made["eval_library"].keys()
        about = made["model_info"]
        assert {"name", "id", "additional_details"} <= about.keys()
        assert about["additional_details"]["deployment_type"] in ("self_deployed", "externally_managed", "unknown")
        assert about["additional_details"]["model_availability"] in ("open_weights", "closed_weights", "unknown")
        assert all(isinstance(text, str) for _, text in texts(made))
        assert len({one["evaluation_result_id"] for one in made["evaluation_results"]}) == len(
            made["evaluation_results"]
        )
        json.dumps(made, allow_nan=False)


def test_every_score_lies_within_its_bounds(records: dict[str, dict[str, Any]]) -> None:
    results = [one for made in records.values() for one in made["evaluation_results"]]
    for one in results:
        metric, score = one["metric_config"], one["score_details"]
        assert metric["score_type"] == "continuous"
        low, high = (math.inf if end == "Infinity" else end for end in (metric["min_score"], metric["max_score"]))
        assert low <= score["score"] <= high
        interval = score["uncertainty"].get("confidence_interval")
        if interval:
            assert low <= interval["lower"] <= interval["upper"] <= high
        assert one["source_data"]["source_type"] == "url"
        assert one["source_data"]["url"]
    medians = [one["metric_config"] for one in results if one["metric_config"]["metric_kind"] == "median_rank"]
    assert {(one["max_score"], one["lower_is_better"], one["metric_unit"]) for one in medians} == {
        ("Infinity", True, "rank")
    }


def test_the_numbers_are_those_of_the_result(world: World, records: dict[str, dict[str, Any]]) -> None:
    result = json.loads((world.submissions / "lab__m/1/result.json").read_text())
    made = {one["evaluation_result_id"]: one for one in records["lab/m/1"]["evaluation_results"]}
    assert len(made) == 4 * 4
    for unit in result["units"]:
        part = "all" if unit["task"] == "waiting@1" else "clean"
        for name, found in unit["scores"]["metrics"][part].items():
            details = made[f"{unit['unit']}/{name}"]["score_details"]
            assert details["score"] == found["value"]
            assert details["uncertainty"]["num_samples"] == unit["scores"]["n"][part]
            interval = details["uncertainty"].get("confidence_interval", {"lower": None, "upper": None})
            assert (interval["lower"], interval["upper"]) == (found["low"], found["high"])
            assert details["details"]["predictions_sha256"] == unit["predictions"]["sha256"]
    auc = made["chest-1.zero_shot-1.1.1/auc"]
    assert (auc["metric_config"]["metric_id"], auc["evaluation_name"]) == ("auroc", "vlmed.chest.zero_shot")
    assert auc["generation_config"]["additional_details"]["seed"] == "1"


def test_a_record_names_its_adapters(records: dict[str, dict[str, Any]]) -> None:
    about = records["lab/answers/1"]["model_info"]
    assert about["id"] == "lab/chest-lora"
    assert about["additional_details"]["adapters"] == f"lab/chest-lora@{'b' * 40} lab/chest-lora@{'b' * 40}"


def test_places_in_the_datastore_are_uuids_that_never_change(runs: list[Shown]) -> None:
    places = [record_path(run) for run in runs]
    assert len(set(places)) == len(places)
    assert places == [record_path(run) for run in runs]
    for run, place in zip(runs, places, strict=True):
        assert place.startswith(f"data/vlmed/lab/{run.model}/")
        name = Path(place).stem
        assert (UUID(name).version, str(UUID(name))) == (4, name)


# Hub


def front_of(world: World, runs: list[Shown], name: str) -> dict[str, Any]:
    text = card_front_matter([run for run in runs if run.name == name], world.suite)
    assert text.startswith("---\n")
    assert text.endswith("\n---\n")
    front: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return front


def test_a_card_is_read_back_by_the_hubs_own_library(world: World, runs: list[Shown]) -> None:
    from huggingface_hub import ModelCard

    mine = [run for run in runs if run.name == "lab/m"]
    card = ModelCard(card_front_matter(mine, world.suite) + "\n# m\n")
    assert card.data.model_name == "lab/m"
    results = card.data.eval_results
    assert results
    tables = [(unit, table) for run in mine for unit, table in run.units]
    metrics = [unit["scores"]["metrics"][table["ranked_on"]] for unit, table in tables]
    assert len(results) == sum(found["value"] is not None for known in metrics for found in known.values())
    auc = next(one for one in results if (one.metric_type, one.dataset_config) == ("auc", "chest@1"))
    unit = next(unit for unit, table in tables if table["task"]["id"] == "chest@1")
    assert auc.metric_value == unit["scores"]["metrics"]["clean"]["auc"]["value"]
    assert (auc.task_type, auc.dataset_type) == ("zero-shot-image-classification", "radiographs")
    assert auc.source_url == "https://github.com/vlmed/vlmed/tree/main/submissions/lab__m/1"


def test_kinds_of_task_have_the_hubs_names(world: World, runs: list[Shown]) -> None:
    kinds = {
        result["task"]["type"]
        for name in ("lab/m", "lab/answers")
        for result in front_of(world, runs, name)["model-index"][0]["results"]
    }
    assert kinds == {"zero-shot-image-classification", "image-text-retrieval", "visual-question-answering"}


def test_hostile_texts_stay_texts_in_a_card_and_a_record(
    world: World, runs: list[Shown], records: dict[str, dict[str, Any]]
) -> None:
    assert front_of(world, runs, "lab/odd")["model-index"][0]["name"] == "lab/odd"
    made = records["lab/odd/1"]["model_info"]
    assert made["id"] == "lab/odd"
    assert "!!python" in made["name"]


# The command


def export(world: World, *more: str) -> Any:
    return CliRunner().invoke(app, ["export", *more, str(world.root / "site"), "--suite", str(world.tasks_file)])


def test_the_command_writes_a_file_per_model_or_run(world: World, tmp_path: Path) -> None:
    done = export(world, "hub", "--out", str(tmp_path / "hub"))
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "hub").iterdir()} == {"lab__answers.md", "lab__m.md", "lab__odd.md"}
    done = export(world, "every-eval-ever", "--out", str(tmp_path / "eee"), "--model", "lab/m")
    files = sorted((tmp_path / "eee/data/vlmed/lab/m").iterdir())
    assert len(files) == 2
    assert {Path(line) for line in done.stdout.split()} == set(files)
    assert {json.loads(file.read_text())["evaluation_id"] for file in files} == {"vlmed/lab/m/1", "vlmed/lab/m/2"}


def test_the_command_refuses_an_unknown_format(world: World) -> None:
    assert export(world, "xml").exit_code == 2


# Croissant


def test_every_task_page_has_valid_metadata_of_its_manifest(world: World) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    site = world.root / "site"
    files = sorted((site / "data/croissant").iterdir())
    assert {file.stem for file in files} == {page.stem for page in (site / "tasks").iterdir()}
    for file in files:
        known = mlcroissant.Dataset(jsonld=json.loads(file.read_text("utf-8"))).metadata
        assert known.ctx.issues.errors == set()
        task = world.suite.tasks[file.stem.replace("-", "@")]
        assert task.digest in known.description
        assert known.url.endswith(f"/docs/tasks/{task.name}.md")
        assert [one.sha256 for one in known.distribution] == ([] if task.pending else [task.manifest])
        assert f'href="../data/croissant/{file.name}"' in (site / f"tasks/{file.stem}.html").read_text("utf-8")


def test_croissants_reader_finds_the_samples_of_the_manifest(world: World, tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    task = world.suite.task("chest")
    shutil.copyfile(world.manifests / "chest-v1.csv", tmp_path / "chest-v1.csv")
    made = croissant(task)
    assert made["distribution"][0]["contentUrl"].startswith("https://")
    made["distribution"][0]["contentUrl"] = "chest-v1.csv"  # as if it were downloaded
    (tmp_path / "metadata.json").write_text(json.dumps(made))
    rows = list(islice(mlcroissant.Dataset(jsonld=tmp_path / "metadata.json").records("samples"), 200))
    frozen = read_manifest(task, world.manifests).rows
    assert [row["samples/sample_id"].decode() for row in rows] == [row.sample_id for row in frozen]
    assert [row["samples/target"].decode() for row in rows] == [row.target for row in frozen]


def test_every_column_of_a_manifest_is_described() -> None:
    for task in load_suite().tasks.values():
        fields = [field for part in croissant(task).get("recordSet", []) for field in part["field"]]
        assert [field["name"] for field in fields] == ([] if task.pending else list(COLUMNS))


# Fairness and calibration


def test_the_csv_has_calibration_worst_subgroup_and_gap(world: World) -> None:
    with (world.root / "site/data/results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    chest = [row for row in rows if (row["model"], row["task"]) == ("m", "chest@1")]
    assert {row["calibration_error"] for row in chest if row["metric"] == "ece"} == {
        row["value"] for row in chest if row["metric"] == "ece"
    }
    asked = next(row for row in rows if row["model"] == "answers")
    result = json.loads((world.submissions / "lab__answers/1/result.json").read_text())
    groups = result["units"][0]["scores"]["subgroups"]
    field, _, worst = asked["worst_subgroup"].partition("=")
    assert groups[field]["worst"] == worst
    assert float(asked["subgroup_gap"]) == max(one["gap"] for one in groups.values() if one["gap"] is not None)
