"""A run whose features are kept: the same bytes, from a process that loads neither the model nor its libraries."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import factories
import vlmed

TASKS, TRACKS = "lesion,report,asked", "zero_shot,linear_probe,zero_shot_retrieval,zero_shot_vqa"
HEAVY = ("torch", "torchvision", "transformers", "open_clip", "timm", "peft", "sklearn", "scipy")
COMMAND = "from vlmed.cli import main; main()"
API = "import vlmed; vlmed.evaluate(sys.argv[1], sys.argv[2], sys.argv[3], suite=sys.argv[4], out=sys.argv[5])"
LOADED = """
import sys
try:
    {code}
finally:
    print("loaded:", *sorted(set(sys.modules) & set({heavy})))
"""


@pytest.fixture
def cache(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of one's own, as an earlier run left it."""
    folder = Path(shutil.copytree(kept / "cache", tmp_path / "cache"))
    monkeypatch.setenv("VLMED_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def kept(open_clip_model: Path, small_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `run` of a first run, and the `cache` that it left."""
    home = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLMED_CACHE", str(home / "cache"))
        vlmed.evaluate(f"dir:{open_clip_model}", TASKS, TRACKS, suite=small_suite, out=home / "run")
    return home


@pytest.fixture
def again(open_clip_model: Path, small_suite: Path, cache: Path, tmp_path: Path) -> Callable[[], Path]:
    """Evaluates the same in this process; gives the run folder."""

    def evaluate() -> Path:
        out = tmp_path / "again"
        vlmed.evaluate(f"dir:{open_clip_model}", TASKS, TRACKS, suite=small_suite, out=out)
        return out

    return evaluate


def process(code: str, *words: object) -> str:
    """What a process that does nothing else says; `vlmed` finds its cache by the environment."""
    script = LOADED.format(code=code, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].removeprefix("loaded:").strip()


def result(run: Path) -> dict[str, Any]:
    """The result, without what a warm run saves."""
    tree: dict[str, Any] = json.loads((run / "result.json").read_text())
    for unit in tree["units"]:
        unit["cost"] |= {"wall_seconds": 0, "images": 0}
    return tree


def predictions(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "predictions").iterdir()}


def same(run: Path, other: Path) -> bool:
    assert len(predictions(other)) == 4
    return predictions(run) == predictions(other) and result(run) == result(other)


def images(run: Path) -> int:
    return sum(unit["cost"]["images"] for unit in json.loads((run / "result.json").read_text())["units"])


def test_the_command_loads_no_library_and_writes_the_same(
    kept: Path, cache: Path, open_clip_model: Path, small_suite: Path, tmp_path: Path
) -> None:
    words = ("run", "--model", f"dir:{open_clip_model}", "--tasks", TASKS, "--tracks", TRACKS)
    assert process(COMMAND, *words, "--suite", small_suite, "--out", tmp_path / "warm") == ""
    assert same(tmp_path / "warm", kept / "run")
    assert images(kept / "run") > 0
    assert images(tmp_path / "warm") == 0


def test_so_does_the_function(
    kept: Path, cache: Path, open_clip_model: Path, small_suite: Path, tmp_path: Path
) -> None:
    assert process(API, f"dir:{open_clip_model}", TASKS, TRACKS, small_suite, tmp_path / "warm") == ""
    assert same(tmp_path / "warm", kept / "run")


def test_so_does_a_model_with_an_adapter(cache: Path, open_clip_model: Path, small_suite: Path, tmp_path: Path) -> None:
    adapter = factories.lora(tmp_path / "lora", open_clip_model, targets=["c_fc", "c_proj"])
    first = vlmed.evaluate(f"dir:{adapter}", "lesion", "zero_shot", suite=small_suite, out=tmp_path / "alone")
    words = ("run", "--tasks", "lesion", "--tracks", "zero_shot", "--suite", small_suite, "--out")
    assert process(COMMAND, *words, tmp_path / "warm", "--model", f"dir:{adapter}") == ""
    assert result(tmp_path / "warm") == result(tmp_path / "alone")
    assert images(tmp_path / "warm") == 0
    on_top = {"adapter": f"dir:{adapter}", "suite": small_suite, "out": tmp_path / "named"}
    assert vlmed.evaluate(f"dir:{open_clip_model}", "lesion", "zero_shot", **on_top).metrics == first.metrics
    options = ("--model", f"dir:{open_clip_model}", "--adapter", f"dir:{adapter}")
    assert process(COMMAND, *words, tmp_path / "warm too", *options) == ""


def test_features_that_went_are_made_again(kept: Path, cache: Path, again: Callable[[], Path]) -> None:
    shutil.rmtree(cache / "features")
    run = again()
    assert same(run, kept / "run")
    assert images(run) == images(kept / "run")


@pytest.mark.parametrize("content", [b"", b"no array", None], ids=["empty", "other", "cut"])
def test_damaged_text_features_are_made_again(
    content: bytes | None, kept: Path, cache: Path, again: Callable[[], Path]
) -> None:
    files = {path: path.read_bytes() for path in (cache / "features" / "texts").iterdir()}
    assert len(files) == 3
    for path, whole in files.items():
        path.write_bytes(whole[:-4] if content is None else content)
    assert same(again(), kept / "run")
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.parametrize("place", ["models", "features/texts"])
def test_what_can_t_be_kept_costs_time_only(place: str, kept: Path, cache: Path, again: Callable[[], Path]) -> None:
    shutil.rmtree(cache / place)
    (cache / place).write_text("a file")
    assert same(again(), kept / "run")
    assert (cache / place).read_text() == "a file"


def test_a_changed_model_is_loaded(cache: Path, open_clip_model: Path, small_suite: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(open_clip_model, tmp_path / "model"))
    weights, runs = model / "open_clip_model.safetensors", []
    for number in range(2):
        runs.append(vlmed.evaluate(f"dir:{model}", "lesion", suite=small_suite, out=tmp_path / str(number)))
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert runs[0].data["model"]["revision"] != runs[1].data["model"]["revision"]
    # The folder is another one at first already, but not its content.
    assert images(runs[0].path.parent) == 0
    assert images(runs[1].path.parent) > 0


def test_what_trains_gets_the_weights(cache: Path, open_clip_model: Path, small_suite: Path, tmp_path: Path) -> None:
    tree: dict[str, Any] = yaml.safe_load(small_suite.read_text())
    for track in ("lora@1", "partial@1"):
        tree["tracks"][track]["recipe"] |= {"epochs": 1, "patience": 1, "lr": [0.01], "batch_size": 16}
    suite = tmp_path / "tasks.yaml"
    suite.write_text(yaml.safe_dump(tree))
    runs = []
    for place in ("warm", "fresh"):
        model = f"dir:{open_clip_model}"
        runs.append(vlmed.evaluate(model, "lesion", "lora,partial", suite=suite, out=tmp_path / place).path.parent)
        shutil.rmtree(cache / "models")
    assert predictions(runs[0]) == predictions(runs[1])
    assert result(runs[0]) == result(runs[1])
