"""Plausible typing errors and wrong orders of commands: each is refused with a message that says the next step."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Said, Vlmed

from submission_factory import World

# What is typed in an empty folder, exit code, and what the message must say beside a next step.
TYPED = [
    ("taks", 2, "'tasks'"),
    ("leaderboard bild", 2, "'build'"),
    ("tasks breastmnist", 2, "'show'"),
    ("tasks show", 2, "'name'"),
    ("tasks show brestmnist", 2, "'breastmnist'"),
    ("tasks show breastmnist@9", 2, "'breastmnist@1'"),
    ("tasks check --suite nowhere.yaml", 3, "nowhere.yaml"),
    ("tasks --json show breastmnist", 2, "vlmed tasks show"),
    ("--json tasks", 2, "--json"),
    ("run", 2, "--model"),
    ("run control:majority phantom_lesion", 2, "--model"),
    ("run --model control:majority", 2, "--tasks"),
    ("run --modell control:majority --tasks phantom_lesion", 2, "--model"),
    ("run --model control:majorty --tasks phantom_lesion", 2, "'majority'"),
    ("run --model hug:org/name --tasks phantom_lesion", 2, "'hf'"),
    ("run --model ./checkpoint --tasks phantom_lesion", 2, "dir:./checkpoint"),
    ("run --model dir:nowhere --tasks phantom_lesion", 2, "nowhere"),
    ("run --model endpoint:localhost --tasks phantom_lesion", 2, "http://"),
    ("run --model control:majority --tasks brestmnist", 2, "'breastmnist'"),
    ("run --model control:majority --tasks 'foo*'", 2, "vlmed tasks"),
    ("run --model control:majority --tasks phantom_lesion --tracks zeroshot", 2, "'zero_shot'"),
    ("run --model control:majority --tasks phantom_lesion --tracks zero_shot_vqa", 2, "linear_probe"),
    ("run --model control:majority --tasks phantom_lesion --tracks lora --fractions 5", 2, "(0, 1]"),
    ("run --model control:majority --tasks phantom_lesion --seeds one", 2, "whole numbers"),
    ("run --model control:majority --tasks phantom_lesion --batch-size 0", 2, "--batch-size"),
    ("run --model control:majority --adapter dir:x --tasks phantom_lesion", 2, "--adapter"),
    ("run --model control:majority,control:random --tasks phantom_lesion --out both", 2, "--out"),
    ("run --model control:majority --tasks phantom_lesion --price-per-hour 2", 2, "--plan"),
    ("run --model control:majority --tasks phantom_lesion --plan --price-per-hour -2", 2, "--price-per-hour"),
    ("run --model control:majority --tasks papila", 3, "figshare"),
    ("run --model control:majority --tasks papila --data-root nowhere", 2, "--data-root"),
    ("data prepare", 2, "'task'"),
    ("data verify chexpert", 3, "valid.csv"),
    ("models show clip", 2, "vlmed models"),
    ("leakage", 2, "vlmed leakage breastmnist"),
    ("leakage --across --all", 2, "--across"),
    ("fingerprint images", 2, "--out"),
    ("fingerprint check nowhere.parquet", 3, "nowhere.parquet"),
    ("demo --epochs 0", 2, "--epochs"),
    # What a browser, a shell or another tool has taught:
    ("run --model https://huggingface.co/vinid/plip --tasks phantom_lesion", 2, "write vinid/plip"),
    ("run --model hf.co/vinid/plip/tree/v1 --tasks phantom_lesion", 2, "write vinid/plip@v1"),
    ("run --model hf:huggingface.co/vinid/plip --tasks phantom_lesion", 2, "write vinid/plip"),
    ("run --model vinid/plip --adapter www.hf.co/lab/lora --tasks phantom_lesion", 2, "write lab/lora"),
    ("models inspect https://huggingface.co/vinid/plip/blob/main/config.json", 2, "write vinid/plip@main"),
    ("run --model vinid/plip@ --tasks phantom_lesion", 2, "branch, tag or commit"),
    ("run --model majority --tasks phantom_lesion", 2, "control:majority"),
    ("run --model cache --tasks phantom_lesion", 2, "dir:cache"),
    ("run --model control:majority --tasks breastmnist papila", 2, "commas"),
    ("run --model control:majority --tasks organamnist_224.csv organcmnist.csv", 2, "quotes"),
    ("run --model control:majority --tasks phantom_lesion --seeds 0-2", 2, "--seeds 0,1,2"),
    ("run --model control:majority --tasks phantom_lesion --fractions 5%", 2, "--fractions 0.05"),
    ("run --model control:majority --tasks phantom_lesion --fractions 0,05", 2, "(0, 1]"),
    ("run --model control:majority --tasks phantom_lesion --tracks zero_shoot", 2, "'zero_shot'"),
    ("run --model control:majority --task phantom_lesion", 2, "--tasks"),
    ("run --model control:majority --tasks phantom_lesion --precision float16", 2, "fp16"),
    ("tasks check --suite .", 2, "--suite tasks.yaml"),
    ("data verify phantom", 2, "'phantom_lesion'"),
    ("data verify breastmnist --data-root nowhere", 2, "--data-root"),
    ("submit --trained-on PMC-15M --licence mit --org lab --model mine run", 2, "run"),
    ("leaderboard serve site", 3, "vlmed leaderboard build"),
    ("leaderboard export huggingface", 2, "'hub'"),
    # Before there is a run:
    ("validate runs/mine", 2, "runs/mine"),
    ("submit runs/mine --org lab --model mine", 2, "runs/mine"),
    ("submit runs/mine --org lab", 2, "--model"),
    ("compare runs/mine runs/theirs", 3, "runs/mine"),
    ("compare runs/mine", 2, "'run_b'"),
    ("results runs", 2, "runs"),
    ("errors runs/mine", 3, "runs/mine"),
    ("judge runs/mine --judge gpt", 3, "runs/mine"),
    ("plot runs/mine", 2, "runs/mine"),
    ("leaderboard build", 3, "submissions"),
    ("submissions show lab__mine/1", 2, "vlmed submissions list"),
]
# The same with a run of the majority control in `run`, in the order in which somebody may try them.
AFTER_A_RUN = [
    ("run --model control:random --tasks phantom_lesion --out run", 2, "--out"),
    ("run --model control:majority --tasks phantom_lesion --out run/result.json", 2, "--out run"),
    ("run --model dir:run --tasks phantom_lesion --out other", 2, "config.json"),
    ("submit run/result.json --org lab --model mine --licence mit --trained-on PMC-15M", 2, "'pmc_15m'"),
    ("submit run --org lab --model mine --trained-on none", 2, "--licence"),
    ("plot run/result.json", 2, "--tracks lora"),
    ("plot run", 2, "--tracks lora"),
    ("judge run --judge gpt", 2, "zero_shot_vqa"),
    ("errors run", 2, "zero_shot_vqa"),
    ("results run --json --csv", 2, "exclude each other"),
    ("compare run run --metric acuracy", 2, "'accuracy'"),
    ("submit run --org my/lab --model mine", 2, "my/lab"),
    ("submissions retract lab__mine/1 --reason typo", 2, "vlmed submissions list"),
    ("leaderboard build run --out run", 2, "--out"),
    ("fingerprint check run/result.json", 2, "Parquet"),
]


def check(said: Said, code: int, word: str) -> None:
    told = " ".join(re.sub("[│╭╮╰╯─]", " ", said.err).split())
    assert said.code == code, said.err
    assert word in told
    assert re.search(r"next: \S|Try 'vlmed", told), "no next step"
    assert "Traceback" not in told


@pytest.mark.parametrize(("typed", "code", "word"), TYPED, ids=[typed for typed, *_ in TYPED])
def test_a_mistake_is_told_with_the_next_step(
    vlmed: Vlmed, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, typed: str, code: int, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    cache.mkdir()
    monkeypatch.setenv("COLUMNS", "200")
    check(vlmed(*shlex.split(typed)), code, word)
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []


def test_mistakes_after_a_run(
    vlmed: Vlmed, phantom_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    suite = ["--suite", str(phantom_suite)]
    assert vlmed("run", "--model", "control:majority", "--tasks", "lesion", "--out", "run", *suite).code == 0
    for typed, code, word in AFTER_A_RUN:
        check(vlmed(*shlex.split(typed), *_suite(typed, suite)), code, word)


def _suite(typed: str, suite: list[str]) -> list[str]:
    return suite if typed.split()[0] in {"judge", "errors", "compare", "submit", "leaderboard"} else []


def test_a_run_where_only_the_core_is_installed(tmp_path: Path, phantom_suite: Path, clip: Path) -> None:
    words = ["vlmed", "run", "--model", f"dir:{clip}", "--tasks", "lesion", "--suite", str(phantom_suite)]
    code = f"import sys; sys.modules['torch'] = None; sys.argv = {words}\nfrom vlmed.cli import main; main()"
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    check(Said(said.returncode, said.stdout, said.stderr), 3, "pip install 'vlmed[run]'")


def test_a_submission_is_made_once(
    vlmed: Vlmed, phantom_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    suite = ["--suite", str(phantom_suite)]
    assert vlmed("run", "--model", "control:majority", "--tasks", "lesion", "--out", "run", *suite).code == 0
    submit = ["submit", "run", "--org", "lab", "--model", "mine", *suite]
    assert vlmed(*submit).code == 0
    check(vlmed(*submit), 2, "another --run name")


@pytest.mark.parametrize("command", ["validate {}", "results {}", "compare {} {}", "submit {} --org lab --model mine"])
def test_a_run_that_was_stopped_can_go_on(
    vlmed: Vlmed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "mine"
    (run / "units").mkdir(parents=True)
    (run / "run.json").write_text('{"model": {"ref": "control:random"}}')
    (run / "units" / "lesion.json").write_text("{}")
    said = vlmed(*command.format("runs/mine", "runs/mine").split())
    check(said, 2, "stopped before its end")
    assert "1 finished units, which are kept" in said.err
    assert "`vlmed run` with the same arguments as before goes on from there" in said.err


def test_a_stopped_run_among_others_is_told(vlmed: Vlmed, world: World) -> None:
    world.add("model", 1.5, tasks=("waiting",))
    stopped = world.submissions / "stopped"
    stopped.mkdir()
    (stopped / "run.json").write_text("{}")
    said = vlmed("validate", world.submissions, "--no-intervals", "--suite", world.tasks_file)
    assert said.code == 0
    assert f"{stopped}: left out, this run was stopped before its end" in said.err
