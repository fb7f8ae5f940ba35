"""`vlmed demo`: the main job from training to leaderboard, on synthetic data, with nothing downloaded."""

from __future__ import annotations

import json
import shlex
import sys
import time
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from vlmed.cli.common import JsonOption, tell

_TASK = "phantom_lesion"
_INTRO = """\
The phantom is synthetic: images drawn by vlmed, no patient among them. It shows how the benchmark works and says
nothing about medicine. Two models are trained here from random weights: a dual encoder on phantom images and their
captions, and a LoRA adapter for it. Everything after that is what a submitter does, with the same commands."""
_OUTRO = """\
How to read it: the oracle knows the answers and must score 1; majority, random and the same model on blank images know
nothing and must stand near 0.5 AUC; a model that learned anything stands well between them, with its 95 % interval.
Models that share a rank can't be told apart by a paired test on these images. An adapter that helps zero-shot and not
the probe has learned to fit the prompts better, not to see more. None of it says anything about medical images."""


def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where everything is written.")] = Path("demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of pretraining.")] = 16,
    as_json: JsonOption = False,
) -> None:
    """Train a tiny model and adapter, evaluate them and the controls, validate, and build a leaderboard. Offline.

    A demo that was stopped goes on where it ended. Example: vlmed demo
    """
    start = time.monotonic()
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        _show(folder, epochs)
    page, seconds = (folder / "leaderboard" / "index.html").resolve(), time.monotonic() - start
    facts = {"page": page, "submissions": folder / "submissions", "seconds": round(seconds)}
    tell(facts, f"The page: {page}\nDone in {seconds:.0f} s. Next: vlmed run --help", as_json)


def _show(folder: Path, epochs: int) -> None:
    typer.echo(_INTRO + "\n")
    _train(folder, epochs)
    base = f"dir:{folder / 'checkpoint'}"
    for name, model in (
        ("tiny-clip", ["--model", base]),
        ("tiny-clip-lora", ["--model", base, "--adapter", f"dir:{folder / 'adapter'}"]),
        ("control-blank-image", ["--model", f"control:blank/{base}"]),
        ("control-majority", ["--model", "control:majority"]),
        ("control-random", ["--model", "control:random"]),
        ("control-oracle", ["--model", "control:oracle"]),
    ):
        _evaluate(folder, name, model)
    _vlmed("validate", str(folder / "submissions"))
    _vlmed("leaderboard", "build", str(folder / "submissions"), "--out", str(folder / "leaderboard"))
    typer.echo(f"\n{_OUTRO}\n")


def _train(folder: Path, epochs: int) -> None:
    """Both models, unless an earlier demo finished them with as many epochs."""
    from vlmed.data.load import DataLoader
    from vlmed.demo import train
    from vlmed.files import read_json, write_json
    from vlmed.models.load import load_model
    from vlmed.progress import Terminal
    from vlmed.suite.load import load_suite

    mark = folder / "trained.json"
    if mark.exists() and read_json(mark) == {"epochs": epochs}:
        typer.echo("trained before; going on")
        return
    task = load_suite().task(_TASK)
    loader = DataLoader(progress=Terminal())
    samples, data = loader.table(task).split("train"), loader.dataset(task.dataset)
    checkpoint = folder / "checkpoint"
    train.pretrain(samples, data, checkpoint, epochs, Terminal())
    prompts = {spec.name: task.prompts["vlmed"][spec.name] for spec in task.classes}
    revision = load_model(f"dir:{checkpoint}").info.revision
    train.train_lora(samples, data, prompts, checkpoint, revision, folder / "adapter", max(1, epochs // 3), Terminal())
    write_json(mark, {"epochs": epochs})


def _evaluate(folder: Path, name: str, model: list[str]) -> None:
    run = folder / "runs" / name
    _vlmed("run", *model, "--tasks", _TASK, "--tracks", "zero_shot,linear_probe", "--out", str(run))
    target = folder / "submissions" / f"demo__{name}" / "1"
    if target.exists() and json.loads((target / "result.json").read_text()) == json.loads(
        (run / "result.json").read_text()
    ):
        return
    _vlmed("submit", str(run), "--org", "demo", "--model", name, "--to", str(folder / "submissions"))


def _vlmed(*arguments: str) -> None:
    """Run a command as a user would, after showing it."""
    from vlmed.cli import app

    typer.secho(f"\n$ vlmed {shlex.join(arguments)}", bold=True)
    if code := app(list(arguments), standalone_mode=False):
        raise typer.Exit(code)
