"""A model's page: which classes are taken for which, how sure to be right, and who ran the model again."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from submission_factory import LEAKY, LORA, World, add_audit, sample_id
from vlmed.leaderboard.board import board
from vlmed.leaderboard.build import build
from vlmed.leaderboard.confusion import Outcome
from vlmed.leaderboard.outcomes import WIDEST, pictures
from vlmed.leaderboard.read import read_submissions
from vlmed.metrics.classification import ece
from vlmed.results.classified import ClassificationPredictions

TEXT = "<img src=x onerror=alert(1)>"


def site(world: World, out: str = "site") -> Path:
    return build(world.submissions, world.root / out, world.suite, world.manifests, intervals=False).page.parent


def page_of(world: World, name: str) -> str:
    return (site(world) / f"models/lab__{name}.html").read_text("utf-8")


def classified(probabilities: Any, targets: list[int]) -> ClassificationPredictions:
    rows = np.array(probabilities, np.float64)
    ids = [sample_id(index) for index in range(len(rows))]
    return ClassificationPredictions(ids, ids, np.array(targets), rows, np.empty((len(rows), 0, rows.shape[1])))


# Counts


def test_a_matrix_holds_targets_by_predictions_and_ties_go_to_the_first_class() -> None:
    found = Outcome.of(classified([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.4, 0.4, 0.2], [0, 0, 1]], [0, 0, 1, 2]))
    assert found.confusion.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_samples_can_be_left_out() -> None:
    found = Outcome.of(classified([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]], [0, 0, 1]), {sample_id(1)})
    assert found.confusion.tolist() == [[1, 0], [0, 1]]
    assert found.bins[:, 0].sum() == 2


def test_no_sample_at_all_gives_empty_counts() -> None:
    found = Outcome.of(classified([[0.9, 0.1]], [0]), {sample_id(0)})
    assert found.confusion.tolist() == [[0, 0], [0, 0]]
    assert not found.bins.any()


@pytest.mark.parametrize("classes", [2, 3, 11])
def test_bins_give_the_calibration_error_of_the_metric_and_the_matrix_its_accuracy(classes: int) -> None:
    random = np.random.default_rng(classes)
    made = classified(random.dirichlet(np.ones(classes), 500), random.integers(0, classes, 500).tolist())
    found = Outcome.of(made)
    gaps = np.abs(found.bins[:, 1] - found.bins[:, 2]).sum() / 500
    assert gaps == pytest.approx(ece(made.probabilities, made.targets))
    hits = [int(p.argmax() == t) for p, t in zip(made.probabilities, made.targets, strict=True)]
    assert np.trace(found.confusion) == sum(hits) == found.bins[:, 2].sum()
    assert found.confusion.sum(axis=1).tolist() == np.bincount(made.targets, minlength=classes).tolist()


def test_a_probability_on_an_edge_falls_into_the_lower_bin() -> None:
    found = Outcome.of(classified([[9 / 15, 6 / 15], [1.0, 0.0]], [0, 0]))
    assert np.flatnonzero(found.bins[:, 0]).tolist() == [8, 14]


# Pictures


def of(world: World, name: str) -> list[Any]:
    found = board(
        world.suite, read_submissions(world.submissions, world.suite, world.manifests, False), world.manifests
    )
    return list(pictures(found.models["lab", name]))


def test_seeds_are_added_up_on_the_samples_that_decide(world: World) -> None:
    world.add("m", tasks=("chest", "waiting"), seeds=(0, 1))
    chest, waiting = of(world, "m")
    assert sum(line.samples for line in chest.lines) == 2 * (120 - LEAKY) == sum(one.samples for one in chest.bins)
    assert sum(line.samples for line in waiting.lines) == 2 * 120
    units = chest.row.units
    assert chest.calibration_error == pytest.approx(
        np.mean([unit["scores"]["metrics"]["clean"]["ece"]["value"] for unit in units])
    )


def test_shares_belong_to_the_true_class_and_shade_its_cells(world: World) -> None:
    world.add("m", 2.0, tasks=("organ",))
    (organ,) = of(world, "m")
    for line in organ.lines:
        assert sum(cell.share for cell in line.cells) == pytest.approx(1)
        own = next(cell for cell in line.cells if cell.name == line.name)
        assert (own.share, own.shade) == (line.right, f"plus{3 if line.right < 0.75 else 4}")
        assert all(cell.shade in ("", "minus1", "minus2") for cell in line.cells if cell is not own)
        assert own not in line.taken_for
        assert [cell.samples for cell in line.taken_for] == sorted((c.samples for c in line.taken_for), reverse=True)


def test_the_matrix_stands_in_the_page_as_a_table(world: World) -> None:
    world.add("m", tasks=("organ",))
    (organ,) = of(world, "m")
    page = page_of(world, "m")
    matrix = page[page.index("heat confusion") :].split("</table>")[0]
    shown = [int(number) for number in re.findall(r"<td[^>]*>(\d+)", matrix)]
    assert shown == [
        number for line in organ.lines for number in (*(cell.samples for cell in line.cells), line.samples)
    ]
    assert matrix.count('scope="row"') == 3


def test_many_classes_are_told_class_by_class(world: World) -> None:
    world.add("m", tasks=("organ",))
    (organ,) = of(world, "m")
    assert organ.whole
    assert not replace(organ, lines=list(organ.lines) * WIDEST).whole


def test_what_is_no_classification_has_no_picture(tmp_path: Path) -> None:
    world = World(tmp_path / "all", all_kinds=True)
    world.add("m", tasks=("questions",), tracks=("answer",))
    assert of(world, "m") == []
    assert 'id="outcomes"' not in page_of(world, "m")


# Audits


def verified_of(world: World, name: str) -> dict[str, set[int]]:
    """What all exports say of a model."""
    folder = site(world) / "data"
    parquet = {row["verified"] for row in pq.read_table(folder / "results.parquet").to_pylist() if row["model"] == name}
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        lines = {int(row["verified"]) for row in csv.DictReader(file) if row["model"] == name}
    tables = json.loads((folder / "leaderboard.json").read_text("utf-8"))["tables"]
    rows = {int(row["verified"]) for table in tables for row in table["rows"] if row["name"] == name}
    return {"parquet": parquet, "csv": lines, "json": rows}


def test_a_confirmed_run_is_verified_everywhere(world: World) -> None:
    add_audit(world.add("m"))
    world.add("other")
    assert verified_of(world, "m") == {"parquet": {1}, "csv": {1}, "json": {1}}
    assert verified_of(world, "other") == {"parquet": {0}, "csv": {0}, "json": {0}}
    page = page_of(world, "m")
    for text in ("Ada, vlmed", "2026-11-22", "64 samples", "0.02", "runs/lab__m/1/audits/2026-11-22-1.json"):
        assert text in page
    assert '<span class="verified">verified</span>' in page
    assert "Nobody has run this model again" in page_of(world, "other")


def test_the_record_stands_among_the_evidence(world: World) -> None:
    run = add_audit(world.add("m"))
    copied = site(world) / "runs/lab__m/1/audits/2026-11-22-1.json"
    assert copied.read_bytes() == (run / "audits/2026-11-22-1.json").read_bytes()


def test_a_contradiction_outweighs_a_confirmation_and_is_shown(world: World) -> None:
    add_audit(add_audit(world.add("m")), name="2026-11-23-2", differing=3)
    assert verified_of(world, "m")["json"] == {0}
    page = page_of(world, "m")
    assert '<strong class="mark">contradicted</strong>' in page
    assert '<span class="verified">verified</span>' not in page


def test_one_audited_seed_of_two_verifies_no_row(world: World) -> None:
    run = world.add("m", seeds=(0, 1))
    add_audit(run)
    file = run / "audits/2026-11-22-1.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"units": record["units"][:1]}))
    assert verified_of(world, "m") == {"parquet": {0, 1}, "csv": {0, 1}, "json": {0}}


def test_an_audit_of_another_result_leaves_the_run_out(world: World) -> None:
    add_audit(world.add("m"), result="0" * 64)
    read = read_submissions(world.submissions, world.suite, world.manifests, False)
    assert [refused.path for refused in read.refused] == ["lab__m/1"]


def test_hostile_texts_in_an_audit_stay_texts(world: World) -> None:
    run = add_audit(world.add("m"), auditor=TEXT, vlmed_version=TEXT + "\x1b[31m")
    file = run / "audits/2026-11-22-1.json"
    record = json.loads(file.read_text())
    record["units"][0]["reason"] = TEXT
    file.write_text(json.dumps(record))
    page = page_of(world, "m")
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") == 3
    assert "<img" not in page
    assert "\x1b" not in page


# Adapters


def test_adapters_below_stand_on_the_page_and_in_the_exports(world: World) -> None:
    below = [LORA | {"ref": "lab/first"}, LORA | {"ref": "=second()"}]
    world.add("m", adapter=LORA, adapters_below=below)
    page = page_of(world, "m")
    assert "<bdi>lab/first</bdi>" in page
    assert "on 2 more" in (world.root / "site/tasks/chest-1.html").read_text("utf-8")
    rows = pq.read_table(world.root / "site/data/results.parquet").to_pylist()
    assert {row["adapters_below"] for row in rows} == {f"lab/first@{'b' * 40} =second()@{'b' * 40}"}
    data = json.loads((world.root / "site/data/leaderboard.json").read_text("utf-8"))
    assert [one["ref"] for one in data["tables"][0]["rows"][0]["model"]["adapters_below"]] == ["lab/first", "=second()"]
