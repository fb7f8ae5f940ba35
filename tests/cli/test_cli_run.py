"""`vlmed run`: from a model reference to a submission, and everything that is asked for in vain."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from command_line import Said, Vlmed, files, room, start

import factories
from hub_server import HubServer
from vlmed.models.load import load_model
from vlmed.models.protocols import DualEncoder, LoadedModel

UNIT = "lesion-v1.zero_shot-v1.s0.f100"
TARGETS = ["attn", "c_fc", "c_proj"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def run(vlmed: Vlmed, phantom_suite: Path, out: Path) -> Vlmed:
    """`vlmed run` on the small phantom task, where the options don't say otherwise."""

    def call(model: str, *options: object) -> Said:
        usual = {"--tasks": "lesion", "--model": model}
        words = [word for name, value in usual.items() if name not in options for word in (name, value)]
        return vlmed("run", "--suite", phantom_suite, "--out", out, *words, *options)

    return call


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: Path) -> Iterator[HubServer]:
    """A Hub with one model, `org/tiny`; the library read its settings when it was imported, so they are set again."""
    from huggingface_hub import constants

    with HubServer() as server:
        server.add("org/tiny", clip)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


def refused(said: Said, code: int = 2) -> str:
    """What a refusal said, after checking that it is one a person can read."""
    assert said.code == code, said
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    assert said.out == ""
    return said.err


def test_from_run_to_leaderboard(run: Vlmed, vlmed: Vlmed, phantom_suite: Path, out: Path, tmp_path: Path) -> None:
    ran = run("control:oracle")
    assert ran.code == 0
    assert ran.out.splitlines() == [str(out / "result.json"), f"next: vlmed validate {out}"]
    assert f"{UNIT}: done" in ran.err
    suite = ("--suite", phantom_suite)
    (verdict,) = json.loads(vlmed("validate", "--json", out, *suite).out)
    assert verdict["accepted"]
    assert verdict["recomputed"] > 0
    submissions = tmp_path / "submissions"
    submitted = vlmed("submit", out, "--org", "lab", "--model", "oracle", "--to", submissions, *suite)
    assert submitted.code == 0
    folder = submissions / "lab__oracle" / "1"
    assert submitted.out.splitlines()[0] == str(folder)
    assert set(files(folder)) == {"result.json", f"predictions/{UNIT}.parquet"}
    built = vlmed("leaderboard", "build", submissions, "--out", tmp_path / "site", *suite)
    assert built.code == 0
    assert "lab/oracle" in built.out
    assert "1.000" in built.out
    assert (tmp_path / "site" / "index.html").is_file()


def test_a_model_from_the_hub_is_pinned(run: Vlmed, hub: HubServer, out: Path) -> None:
    assert run("org/tiny@main", "--tracks", "zero_shot,linear_probe").code == 0
    result = json.loads((out / "result.json").read_text())
    assert result["model"]["revision"] == hub.repositories["org/tiny"].refs["main"]
    assert len(result["units"]) == 2


def test_the_default_folder_is_named_after_the_model(
    run: Vlmed, monkeypatch: pytest.MonkeyPatch, vlmed: Vlmed, phantom_suite: Path, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert vlmed("run", "--suite", phantom_suite, "--tasks", "lesion", "--model", "control:random").code == 0
    assert (tmp_path / "runs" / "control-random" / "result.json").is_file()


def test_blind_runs_the_model_without_its_sight_too(
    monkeypatch: pytest.MonkeyPatch, vlmed: Vlmed, phantom_suite: Path, clip: Path, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(clip, tmp_path / "tiny")
    options = ("--suite", phantom_suite, "--tasks", "lesion", "--model", "dir:tiny")
    said = vlmed("run", *options, "--blind")
    assert said.code == 0, said.err
    runs = {folder.name: json.loads((folder / "result.json").read_text()) for folder in Path("runs").iterdir()}
    refs = sorted(result["model"]["ref"] for result in runs.values())
    assert refs == ["control:blank/dir:tiny", "control:majority", "control:swapped/dir:tiny", "dir:tiny"]
    assert vlmed("validate", "runs", "--suite", phantom_suite).code == 0
    refused(vlmed("run", *options, "--blind", "--out", tmp_path / "one"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--tasks", "lesoin"], ["unknown task 'lesoin'", "'lesion'"]),
        (["--tasks", "lesion,lesion@2"], ["unknown task 'lesion@2'", "'lesion@1'"]),
        (["--tracks", "zeroshot"], ["unknown track 'zeroshot'", "'zero_shot'"]),
        (["--tasks", " ,"], ["names, separated by commas"]),
        (["--model", "dir:no-such-folder"], ["the model folder does not exist", "no-such-folder"]),
        (["--model", "magic:thing"], ["unknown model scheme 'magic'"]),
        (["--model", "control:orakle"], ["unknown control 'orakle'", "'oracle'"]),
        (["--model", "./here"], ["dir:./here"]),
        (["--adapter", "dir:x"], ["no weights for an adapter"]),
        (["--data-root", "no-such-root"], []),
    ],
)
def test_what_does_not_exist_is_named(run: Vlmed, out: Path, cache: Path, options: list[str], says: list[str]) -> None:
    said = run("control:random", *options)
    if says:
        err = refused(said)
        assert all(text in err for text in says), err
        assert not cache.exists()
        assert not out.exists()
    else:
        assert said.code == 0, "the phantom needs no data, so its root is not looked at"


def test_a_device_that_is_not_here(run: Vlmed, clip: Path, out: Path) -> None:
    assert "no device 'cuda:99'" in refused(run(f"dir:{clip}", "--device", "cuda:99"))
    assert not out.exists()


@pytest.mark.parametrize("size", ["0", "-1", "many"])
def test_a_batch_size_that_is_none(run: Vlmed, out: Path, size: str) -> None:
    assert run("control:random", "--batch-size", size).code == 2
    assert not out.exists()


def test_a_model_that_is_not_on_the_hub(run: Vlmed, hub: HubServer, out: Path) -> None:
    err = refused(run("org/tinny"))
    assert "the model 'org/tinny' does not exist on the Hub" in err
    assert not out.exists()


@pytest.mark.parametrize("revision", ["v9", "0" * 40])
def test_a_revision_that_is_not_there(run: Vlmed, hub: HubServer, out: Path, revision: str) -> None:
    err = refused(run(f"org/tiny@{revision}"))
    assert f"the model 'org/tiny' has no revision '{revision}'" in err
    assert not out.exists()


def test_a_folder_with_another_content_than_was_pinned(run: Vlmed, clip: Path, out: Path) -> None:
    assert "not the revision asked for" in refused(run(f"dir:{clip}@sha256:{'0' * 64}"))
    assert not out.exists()


def test_an_adapter_of_another_base(run: Vlmed, clip: Path, out: Path, tmp_path: Path) -> None:
    other = factories.tiny_open_clip(tmp_path / "other", seed=1)
    adapter = factories.lora(tmp_path / "lora", other, targets=TARGETS)
    err = refused(run(f"dir:{clip}", "--adapter", f"dir:{adapter}"))
    assert "the adapter was trained on another revision" in err
    assert str(other) in err
    assert str(clip) in err
    assert not out.exists()
    assert run(f"dir:{other}", "--adapter", f"dir:{adapter}").code == 0


def test_weights_that_are_damaged(run: Vlmed, clip: Path, out: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(clip, tmp_path / "broken")
    weights = broken / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "check that its download was complete" in refused(run(f"dir:{broken}"))
    assert not out.exists()


def test_missing_data_are_told_before_anything_is_done(run: Vlmed, out: Path, tmp_path: Path) -> None:
    err = refused(run("control:random", "--tasks", "lesion,chexpert", "--data-root", tmp_path), code=3)
    assert "train.csv" in err
    assert "https://stanfordaimi.azurewebsites.net" in err
    assert "research use agreement" in err
    assert not out.exists()


def test_a_task_without_any_of_the_tracks_is_named(run: Vlmed) -> None:
    said = run("control:random", "--tasks", "lesion,chexpert", "--tracks", "zero_shot_z25")
    assert "lesion@1: left out" in said.err
    assert "chexpert@1: left out" not in said.err


def test_data_with_one_wrong_byte(vlmed: Vlmed, shared_data: Path, out: Path, tmp_path: Path) -> None:
    content = bytearray((shared_data / "breastmnist" / "breastmnist.npz").read_bytes())
    content[1000] ^= 0xFF
    (tmp_path / "breastmnist.npz").write_bytes(content)
    said = vlmed("run", "--model", "control:random", "--tasks", "breastmnist", "--data-root", tmp_path, "--out", out)
    assert "its MD5 differs" in refused(said)
    assert not out.exists()


def test_another_run_is_not_touched(run: Vlmed, out: Path) -> None:
    assert run("control:oracle").code == 0
    before = files(out)
    err = refused(run("control:random"))
    assert "this folder holds another run" in err
    assert "expected: control:random" in err
    assert "got: control:oracle" in err
    assert files(out) == before
    again = run("control:oracle")
    assert f"{UNIT}: finished before" in again.err
    assert files(out) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("thesis.tex", "precious"),
        ("run.json", "{}"),
        ("run.json", "[1]"),
        ("run.json", '{"model": "mine"}'),
        ("run.json", "{"),
    ],
)
def test_a_folder_with_other_files_is_not_touched(run: Vlmed, out: Path, name: str, content: str) -> None:
    out.mkdir()
    (out / name).write_text(content)
    assert str(out) in refused(run("control:random"))
    assert files(out) == {name: content.encode()}


def test_a_file_where_the_folder_should_be(run: Vlmed, out: Path) -> None:
    out.write_text("precious")
    assert str(out) in refused(run("control:random"))
    assert out.read_text() == "precious"


def test_a_full_disk_loses_nothing(run: Vlmed, out: Path, clip: Path) -> None:
    """There is room for one more kind of file each time; the same command goes on until it is through."""
    run("control:random", "--out", out.with_name("prepares-the-data"))
    stops = (100, "run.json", []), (1000, ".npy", ["run.json"]), (4000, ".parquet", ["run.json"])
    for limit, stops_at, left in stops:
        with room(limit):
            err = refused(run(f"dir:{clip}"))
        assert "the disk is full" in err or "File too large" in err
        assert "next: " in err
        assert stops_at in err.splitlines()[0]
        assert list(files(out) if out.exists() else ()) == left
    assert run(f"dir:{clip}").code == 0
    whole = out.with_name("whole")
    assert run(f"dir:{clip}", "--out", whole).code == 0
    predictions = f"predictions/{UNIT}.parquet"
    assert files(out)[predictions] == files(whole)[predictions]


def test_ctrl_c_says_how_to_go_on(run: Vlmed, phantom_suite: Path, out: Path, cache: Path, clip: Path) -> None:
    options = ["--tracks", "zero_shot,linear_probe", "--batch-size", "1"]
    whole = ["run", "--suite", phantom_suite, "--tasks", "lesion", "--out", out, "--model", f"dir:{clip}", *options]
    process = start(*whole, cache=cache)
    deadline = time.monotonic() + 120
    while not list(out.glob("units/*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"stopped: finished units are kept in {out}" in err
    assert "run the same command again" in err
    assert "Traceback" not in err
    finished = files(out / "units")
    assert set(finished) == {f"{UNIT}.json"}
    resumed = run(f"dir:{clip}", *options)
    assert resumed.code == 0
    assert f"{UNIT}: finished before" in resumed.err
    assert files(out / "units").items() > finished.items()


def test_what_takes_several_takes_them_one_by_one(vlmed: Vlmed, phantom_suite: Path, clip: Path, out: Path) -> None:
    options = (
        "--suite",
        phantom_suite,
        "--tasks",
        "lesion",
        "--out",
        out,
        "--json",
        "--plan",
        "--model",
        f"dir:{clip}",
    )
    apart = "--tracks zero_shot --tracks lora --fractions 0.5 --fractions 1 --seeds 0 --seeds 1,2"
    together = "--tracks zero_shot,lora --fractions 0.5,1 --seeds 0,1,2"
    plans = [json.loads(vlmed("run", *options, *words.split()).out) for words in (apart, together)]
    units = [[each["unit"] for each in plan] for plan in plans]
    assert units[0] == units[1]
    assert len(units[0]) == 1 + 2 * 3


def test_models_may_be_given_one_by_one(
    vlmed: Vlmed, phantom_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--suite", phantom_suite, "--tasks", "lesion", "--tasks", "lesion", "--json")
    told = json.loads(vlmed("run", "--model", "control:majority", "--models", "control:oracle", *options).out)
    assert [each["model"] for each in told] == ["control:majority", "control:oracle"]
    shown = json.loads(vlmed("results", "runs", "--tasks", "lesion", "--tasks", "les*", *options[:2], "--json").out)
    assert {row["model"] for row in shown} == {"control:majority", "control:oracle"}


def test_a_model_leaves_memory_before_the_next_is_loaded(
    vlmed: Vlmed, phantom_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    towers: list[weakref.ref[Any]] = []
    left: list[int] = []

    def watched(*args: Any, **settings: Any) -> LoadedModel:
        left.append(sum(tower() is not None for tower in towers))
        model = load_model(*args, **settings)
        towers.append(weakref.ref(cast(DualEncoder, model.predictor).image_tower))
        return model

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vlmed.models.load.load_model", watched)
    models = [f"dir:{factories.tiny_clip(tmp_path / name, seed=seed)}" for seed, name in enumerate("ab")]
    assert vlmed("run", "--models", ",".join(models), "--tasks", "lesion", "--suite", phantom_suite).code == 0
    assert left == [0, 0]


def test_a_plan_of_several_models_tells_all_of_it(
    vlmed: Vlmed, phantom_suite: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("run", "--models", f"dir:{clip},control:majority", "--tasks", "lesion", "--tracks", "zero_shot,lora")
    options = (*words, "--seeds", "0", "--suite", phantom_suite, "--plan")
    told = json.loads(vlmed(*options, "--price-per-hour", "36", "--json").out)
    names = [each["model"] for each in told]
    assert [names.count(name) for name in dict.fromkeys(names)] == [2, 2]
    assert all(each["cost"] == pytest.approx(each["seconds"] / 100) for each in told)
    (lora,) = (each for each in told if each["training"])
    assert (lora["unit"].split(".")[1], lora["epochs"], lora["rates"]) == ("lora-v1", 200, 2)
    assert json.loads(vlmed(*options, "--json").out)[0]["cost"] is None
    shown = vlmed(*options, "--price-per-hour", "36").out
    assert f"{lora['training'] // 400:,} x 200 epochs x 2 rates" in shown
    assert re.search(r"all 4 units of 2 models: about .*, cost about \d+\.\d\d$", shown.strip())
    assert "cost" not in vlmed(*options).out
    assert not (tmp_path / "runs").exists()


def test_libraries_are_not_heard(phantom_suite: Path, clip: Path, tmp_path: Path) -> None:
    """A model of the Hub with an adapter, loaded by every library that likes to warn, in a process of its own."""
    adapter = factories.lora(tmp_path / "lora", clip, targets=TARGETS)
    with HubServer() as server:
        server.add("org/tiny", clip)
        server.add("org/lora", adapter)
        environment = os.environ | server.environment(tmp_path / "hub") | {"VLMED_CACHE": str(tmp_path / "cache")}
        words = ["run", "--model", "org/tiny", "--adapter", "org/lora", "--tasks", "lesion", "--suite", phantom_suite]
        said = subprocess.run(
            [sys.executable, "-m", "vlmed", "-q", *map(str, words), "--out", str(tmp_path / "run")],
            env=environment | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (said.returncode, said.stderr) == (0, "")


@pytest.mark.parametrize(("asked", "heard"), [({}, []), ({"PYTHONWARNINGS": "default"}, ["warned", "logged"])])
def test_who_wants_to_hear_libraries_can(asked: dict[str, str], heard: list[str]) -> None:
    code = (
        "import logging, sys, warnings; from vlmed.suite import load\n"
        "def loud(*_):\n"
        "    warnings.warn('warned', FutureWarning); logging.warning('logged'); raise SystemExit\n"
        "load.load_suite = loud; sys.argv = ['vlmed', 'tasks']\n"
        "from vlmed.cli import main; main()"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert [word for word in ("warned", "logged") if word in said.stderr] == heard
