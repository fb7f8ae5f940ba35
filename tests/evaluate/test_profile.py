"""Where a run's time went: told while somebody asks, in a folder that no submission holds, and never in the numbers."""

from __future__ import annotations

import gzip
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from vlmed.cli import main
from vlmed.data.load import DataLoader
from vlmed.evaluate.profile import Spent
from vlmed.evaluate.run import Runner
from vlmed.evaluate.stages import accounted, stage
from vlmed.evaluate.units import RunFolder, plan
from vlmed.models.load import load_model
from vlmed.models.numerics import Numerics
from vlmed.results.submit import submit
from vlmed.results.validate import validate_run
from vlmed.suite.types import Suite

STAGES = {"load model", "data tables", "forward", "text features", "metrics and intervals", "writing", "import"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def call(monkeypatch: pytest.MonkeyPatch, cache: Path, *words: object) -> int:
    """The exit code of `vlmed` with these words."""
    monkeypatch.setenv("VLMED_CACHE", str(cache))
    monkeypatch.setattr(sys, "argv", ["vlmed", *map(str, words)])
    try:
        main()
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def run(suite: Suite, model: Path, out: Path, cache: Path, numerics: Numerics = Numerics()) -> dict[str, Any]:  # noqa: B008
    """A zero-shot result."""
    runner = Runner(suite, load_model(f"dir:{model}", numerics=numerics), DataLoader(cache=cache), batch_size=16)
    result = runner.run(plan(suite, ["lesion"], ["zero_shot"]), RunFolder(out), lambda *_: None)
    content: dict[str, Any] = json.loads(result.read_text())
    return content


def test_a_profiled_run_tells_its_stages_and_changes_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cache: Path,
    small_suite: Path,
    suite: Suite,
    open_clip_model: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    words = ("run", "--suite", small_suite, "--tasks", "lesion", "--model", f"dir:{open_clip_model}", "--out", out)
    assert call(monkeypatch, cache, *words, "--batch-size", 16, "--profile") == 0
    shown = capsys.readouterr().out
    account = json.loads((out / "profile" / "account.json").read_text())
    assert account["foreground"].keys() >= STAGES
    assert account["background"].keys() >= {"decode", "preprocess"}
    assert all(seconds >= 0 for seconds in account["foreground"].values())
    assert sum(account["foreground"].values()) <= account["wall"] + 0.01
    assert all(name in shown for name in (*STAGES, "peak memory", "trace.json.gz"))
    trace = json.loads(gzip.decompress((out / "profile" / "trace.json.gz").read_bytes()))
    assert any("linear" in event.get("name", "") for event in trace["traceEvents"])
    assert not list((out / "profile").glob(".*"))
    plain = run(suite, open_clip_model, tmp_path / "plain", tmp_path / "cache")
    assert [unit["predictions"] for unit in plain["units"]] == [
        unit["predictions"] for unit in json.loads((out / "result.json").read_text())["units"]
    ]
    report = validate_run(out, suite)
    assert report.accepted
    assert not (submit(report, "org", "tiny", "run", tmp_path / "submissions") / "profile").exists()


def test_only_this_process_can_be_profiled(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cache: Path,
    small_suite: Path,
    open_clip_model: Path,
    tmp_path: Path,
) -> None:
    words = ("run", "--suite", small_suite, "--tasks", "lesion", "--model", f"dir:{open_clip_model}", "--profile")
    assert call(monkeypatch, cache, *words, "--executor", "ray", "--out", tmp_path / "run") == 2
    assert "--executor local" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_bf16_stays_within_the_interval_and_says_so(
    suite: Suite, open_clip_model: Path, tmp_path: Path, cache: Path
) -> None:
    exact = run(suite, open_clip_model, tmp_path / "exact", cache)
    fast = run(suite, open_clip_model, tmp_path / "fast", cache, Numerics("bf16"))
    assert exact["environment"]["precision"] == "fp32"
    assert fast["environment"]["precision"] == "bf16"
    assert exact["units"][0]["predictions"]["sha256"] != fast["units"][0]["predictions"]["sha256"]
    for name, one in exact["units"][0]["scores"]["metrics"]["all"].items():
        other = fast["units"][0]["scores"]["metrics"]["all"][name]
        if one["low"] is not None:
            # A tenth of the interval is what its own rounding to a printed digit already hides.
            assert abs(one["value"] - other["value"]) <= 0.1 * (one["high"] - one["low"]), name
    assert validate_run(tmp_path / "fast", suite).accepted


def test_features_of_other_numerics_are_not_mixed(suite: Suite, open_clip_model: Path, cache: Path) -> None:
    keys = set()
    for numerics in (Numerics(), Numerics("bf16"), Numerics(channels_last=True)):
        runner = Runner(suite, load_model(f"dir:{open_clip_model}", numerics=numerics), DataLoader(cache=cache))
        view = runner.cache()
        assert view is not None
        keys.add(tuple(view.model_key))
    assert len(keys) == 3


def test_inner_stages_count_and_outer_ones_do_not() -> None:
    with accounted() as account:
        with stage("outer"):
            time.sleep(0.02)
            with stage("inner"):
                time.sleep(0.05)
        worker = threading.Thread(target=lambda: _spend("loader", 0.03))
        worker.start()
        worker.join()
    assert account.foreground["inner"] >= 0.05
    assert 0.02 <= account.foreground["outer"] < account.foreground["inner"] + 0.02
    assert account.background.keys() == {"loader"}
    with stage("afterwards"):
        pass
    assert "afterwards" not in account.foreground


def test_what_fails_is_counted_too() -> None:
    with accounted() as account:
        with pytest.raises(ValueError, match="oh"), stage("failing"):
            raise ValueError("oh")
        with stage("next"):
            pass
    assert account.foreground.keys() == {"failing", "next"}
    assert account.foreground["failing"] >= 0


def test_an_account_adds_up() -> None:
    spent = Spent(10.0, {"a": 2.0, "b": 5.0}, {"c": 1.0}, 2**30, 0)
    lines = spent.lines()
    assert [name for name, *_ in lines] == ["b", "a", "other", "all", "c, in the background", "peak memory"]
    assert lines[0][1:] == ("5.00", "50.0%")
    assert lines[2][1:] == ("3.00", "30.0%")
    assert lines[-1][1] == "1,024 MiB"


def _spend(name: str, seconds: float) -> None:
    with stage(name):
        time.sleep(seconds)
