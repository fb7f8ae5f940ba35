"""`vlmed leakage` from the outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from submission_factory import TASKS, TRACKS, dataset
from vlmed.cli import app
from vlmed.errors import MissingError, UsageError

LEAKS = {"exact": 3, "reencoded": 2}


@pytest.fixture
def suite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite of a leaky phantom, and of a data set that is nowhere."""
    monkeypatch.setenv("VLMED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VLMED_DATA", raising=False)
    kinds = ["none", "nodule", "cyst", "calcification", "mass"]
    entry = TASKS["phantom_side@1"] | {
        "classes": [{"name": name, "values": [name]} for name in kinds],
        "prompts": {"default": {name: [name] for name in kinds}},
    }
    phantom = dataset("phantom", medical=False) | {
        "access": "embedded",
        "options": {"patients": 30, "images_per_patient": 1, "leaks": LEAKS},
    }
    absent = dataset("absent") | {"source": "papila", "access": "agreement"}
    tree = {
        "suite": "2026.1",
        "datasets": {"phantom": phantom, "absent": absent},
        "tasks": {"leaky@1": entry, "absent@1": TASKS["chest@1"] | {"dataset": "absent"}},
        "tracks": TRACKS,
    }
    path = tmp_path / "tasks.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def vlmed(*arguments: object) -> tuple[str, str]:
    """Standard output and error of a command; what it raises passes through."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def test_a_task_is_reported_as_json(suite_file: Path) -> None:
    out, _ = vlmed("leakage", "leaky", "--json", "--suite", suite_file)
    (summary,) = json.loads(out)
    assert (summary["task"], summary["pixels"], summary["leaked"]) == ("leaky@1", 5, 5)
    assert summary["clean"] == summary["test"] - 5


def test_the_table_has_the_same_numbers(suite_file: Path) -> None:
    out, _ = vlmed("leakage", "leaky@1", "--suite", suite_file)
    cells = next(line for line in out.splitlines() if "leaky@1" in line).replace("│", " ").split()
    assert (cells[0], cells[2], cells[-2]) == ("leaky@1", "5", "5")


def test_reports_go_into_a_folder_and_json_stays_json(suite_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "reports"
    out, err = vlmed("leakage", "leaky", "--out", folder, "--json", "--suite", suite_file)
    assert sorted(path.name for path in folder.iterdir()) == ["leaky@1.html", "leaky@1.json"]
    assert json.loads((folder / "leaky@1.json").read_text())["summary"] == json.loads(out)[0]
    assert str(folder) in err


def test_all_leaves_out_what_is_not_at_hand_and_says_so(suite_file: Path) -> None:
    out, err = vlmed("leakage", "--all", "--json", "--suite", suite_file)
    assert [summary["task"] for summary in json.loads(out)] == ["leaky@1"]
    assert "absent@1: left out" in err


def test_a_named_task_without_data_is_an_error(suite_file: Path) -> None:
    with pytest.raises(MissingError, match="absent"):
        vlmed("leakage", "leaky", "absent", "--suite", suite_file)


def test_ids_only_needs_no_images_and_finds_no_pixels(suite_file: Path, tmp_path: Path) -> None:
    out, _ = vlmed("leakage", "leaky", "--ids-only", "--json", "--out", tmp_path / "out", "--suite", suite_file)
    assert json.loads(out)[0]["leaked"] == 0
    assert "<img" not in (tmp_path / "out" / "leaky@1.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name tasks, or give one of --all and --across"),
        (("leaky", "--all"), "name tasks, or give one of --all and --across"),
        (("--all", "--across"), "name tasks, or give one of --all and --across"),
        (("leaky", "--across"), "name tasks, or give one of --all and --across"),
        (("--across", "--out", "x"), "(?s)reads manifests alone.*--out"),
        (("--across", "--ids-only"), "(?s)reads manifests alone.*--ids-only"),
        (("leeky",), "(?s)unknown task 'leeky'.*'leaky'"),
    ],
)
def test_what_does_not_fit_together_is_refused(suite_file: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        vlmed("leakage", *arguments, "--suite", suite_file)


def test_across_needs_no_data_and_no_torch() -> None:
    code = (
        "import sys; from vlmed.cli import app; app(['leakage', '--across', '--json'], standalone_mode=False);"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={})
    rows = json.loads(run.stdout)
    assert {"roco_radiology@1", "ham10000@1"} <= {row["task_a"] for row in rows}
    assert all(row["shared"] or row["reason"] for row in rows)


def test_across_prints_a_table() -> None:
    out, _ = vlmed("leakage", "--across")
    assert "test in train" in out
    assert "81,807" in out


def test_across_says_so_where_nothing_is_shared(suite_file: Path) -> None:
    out, _ = vlmed("leakage", "--across", "--suite", suite_file)
    assert out == "What tasks share with one another: nothing to show\n"
