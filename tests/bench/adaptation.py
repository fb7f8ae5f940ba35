"""What tuning buys, through the public front door, on phantoms and on real data.

    VLMED_DATA=... python tests/bench/adaptation.py FOLDER
        [classes frozen seeds longer shares questions generators phantom matrix table]

The recipes are the frozen ones, cut to ten epochs at one learning rate; `frozen` runs one of them as it is. The encoder
is a ViT at 32 px that has seen nothing but 2,139 phantoms and their captions; the generator has random weights. `table`
prints markdown. Whatever FOLDER has from before is taken up, never run twice.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
import families
import generator_factories
import vlmed
from vlmed.data.load import DataLoader
from vlmed.demo import train
from vlmed.errors import VlmedError
from vlmed.progress import Silent
from vlmed.suite.load import load_suite, suite_path

PROMPTS, LINEAR = ("lora", "partial", "full"), ("lora_linear", "partial_linear", "full_linear")
SHARES = (0.05, 0.1, 0.25, 0.5)
FUSIONS = ("vqa_fusion", "vqa_fusion_lora", "vqa_fusion_partial", "vqa_fusion_full")
VIT = {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8}


def encoder(home: Path) -> str:
    """The demo's dual encoder in small, trained on the phantom's training captions."""
    folder = home / "encoder"
    if not folder.exists():
        task, loader = load_suite().task("phantom_lesion"), DataLoader(progress=Silent())
        samples, data = loader.table(task).split("train"), loader.dataset(task.dataset)
        with mock.patch.dict(train._MODEL, vision_cfg=VIT), mock.patch.dict(train._PREPROCESS, size=32):
            train.pretrain(samples, data, folder, 16, Silent())
    return f"dir:{folder}"


def generator(home: Path) -> str:
    folder = home / "generator"
    return f"dir:{folder if folder.exists() else generator_factories.tiny_llava(folder)}"


def run(home: Path, model: str, tasks: str, tracks: Sequence[str], **options: Any) -> None:
    start = time.process_time()
    suite = options.pop("suite", None) or _suite(home / "brief", _brief)
    out = home / "runs" / Path(model).name
    vlmed.evaluate(model, tasks, ",".join(tracks), out=out, suite=suite, **options)
    print(f"{tasks} {','.join(tracks)} {options or ''}: {time.process_time() - start:.0f} s of processor", flush=True)


def classes(home: Path) -> None:
    for tracks in (("zero_shot", "linear_probe"), LINEAR, PROMPTS):
        run(home, encoder(home), "breastmnist", tracks)


def frozen(home: Path) -> None:
    """Under a recipe as it is: two minutes of processor for each unit."""
    run(home / "frozen", encoder(home), "breastmnist", ("lora",), suite=suite_path())


def seeds(home: Path) -> None:
    run(home, encoder(home), "breastmnist", ("lora_linear", "full_linear"), seeds=(0, 1, 2))


def longer(home: Path) -> None:
    """Three times the epochs where the last one was the best; `table` of FOLDER/longer prints them."""
    suite = _suite(home / "longer" / "brief", functools.partial(_brief, epochs=30))
    run(home / "longer", encoder(home), "breastmnist", ("partial_linear", "partial"), suite=suite)


def shares(home: Path) -> None:
    run(home, encoder(home), "breastmnist", ("linear_probe",), fractions=SHARES)
    for share in SHARES:
        run(home, encoder(home), "breastmnist", ("lora_linear",), fractions=(share,), seeds=(0, 1, 2))


def questions(home: Path) -> None:
    run(home, "control:majority", "vqa_rad,slake", ("zero_shot_vqa",))
    run(home, encoder(home), "vqa_rad,slake", ("zero_shot_vqa",))
    for track in FUSIONS:
        run(home, encoder(home), "vqa_rad", (track,), fractions=(0.25,))
    run(home, encoder(home), "slake", ("vqa_fusion",), fractions=(0.25,))
    run(home, encoder(home), "vqa_rad", ("vqa_fusion",))


def generators(home: Path) -> None:
    run(home, generator(home), "vqa_rad", ("zero_shot_vqa",))
    for track in ("lora_language", "projector_lora", "projector"):
        run(home, generator(home), "vqa_rad", (track,), fractions=(0.25,))


def phantom(home: Path) -> None:
    """Every track, share and seed, at five epochs; `table` of FOLDER/phantom prints them."""
    out, model, every = home / "phantom", encoder(home), (*SHARES, 1)
    suite = _suite(out / "brief", functools.partial(_brief, epochs=5))
    run(out, model, "phantom_lesion", ("zero_shot", "linear_probe"), suite=suite, fractions=every)
    for seed in (0, 1, 2):
        for track in (*LINEAR, *PROMPTS):
            run(out, model, "phantom_lesion", (track,), suite=suite, fractions=every, seeds=(seed,))


def matrix(home: Path) -> None:
    """Every family on every track that it can follow, one epoch on few phantoms: it runs, or why not."""
    suite = _suite(home / "short", _short)
    names = sorted({track.name for track in load_suite(suite).tracks.values()})
    print(f"| family | {' | '.join(names)} |\n|---|{':-:|' * len(names)}")
    for family in families.FAMILIES:
        cells, refused = [], []
        for track in names:
            try:
                with tempfile.TemporaryDirectory() as out:
                    vlmed.evaluate(f"dir:{families.checkpoint(family)}", "*", track, suite=suite, out=out)
                cells.append("●")
            except VlmedError as error:
                kind = "it can't follow" in str(error) or "so it can" in str(error)
                cells.append("" if kind else "refused")
                refused += [] if kind else [f"{family} {track}: {error.problems[0].what}"]
        print(f"| {family} | {' | '.join(cells)} |", flush=True)
        print("\n".join(refused), file=sys.stderr, flush=True)


def _short(tree: dict[str, Any]) -> None:
    named = ("phantom_lesion@1", "phantom_report@1", "phantom_vqa@1")
    tree["tasks"] = {name: tree["tasks"][name] | {"manifest": "pending"} for name in named}
    tree["datasets"] = {name: tree["datasets"][name] for name in ("phantom", "phantom_questions")}
    for dataset in tree["datasets"].values():
        dataset["options"] |= {"patients": 30, "images_per_patient": 1, "size": 32}
    for track in tree["tracks"].values():
        recipe = track["recipe"]
        if "epochs" in recipe:
            recipe |= {"epochs": 1} | ({"lr": [1e-3]} if "lr" in recipe else {})
        if "max_tokens" in recipe:
            recipe["max_tokens"] = 2


def _brief(tree: dict[str, Any], epochs: int = 10) -> None:
    """Few epochs at one learning rate; a fusion a fifth as wide, of which else an epoch takes minutes on a CPU."""
    for track in tree["tracks"].values():
        recipe = track["recipe"]
        if "lr" in recipe:
            recipe |= {"lr": [1e-3], "epochs": epochs}
        if recipe.get("fusion", {}).get("module") == "bilinear":
            recipe["fusion"] |= {"width": 96, "glimpses": 2}
        recipe |= {rate: 1e-2 for rate in ("lora_lr", "projector_lr") if rate in recipe}
        if "max_tokens" in recipe:
            recipe["max_tokens"] = 8


def _suite(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The shipped suite with a change."""
    tree, path = yaml.safe_load(suite_path().read_text()), folder / "tasks.yaml"
    change(tree)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(tree))
    return path


def table(home: Path) -> None:
    """All units by task: metric with its interval, spread over seeds, what trained and for how long."""
    units: dict[tuple[str, str, float], list[Any]] = defaultdict(list)
    suite = load_suite()
    for path in sorted((home / "runs").glob("*/units/*.json")):
        unit = json.loads(path.read_text())
        units[unit["task"], unit["track"].partition("@")[0], unit["fraction"]].append((path.parts[-3], unit))
    print("| task | model | track | share | metric | value (95 %) on all | seeds | parameters trained | epoch of | s |")
    print("|---|---|---|--:|---|---|---|--:|---|--:|")
    for (task, track, share), found in units.items():
        metric = suite.task(task).main_metric
        for model in sorted({name for name, _ in found}):
            rows = [unit for name, unit in found if name == model]
            values = [unit["scores"]["metrics"]["all"][metric] for unit in rows]
            told, first = rows[0]["recipe_outcome"], values[0]
            seeds = ", ".join(f"{value['value']:.3f}" for value in values) if len(values) > 1 else ""
            seconds = statistics.mean(unit["cost"]["wall_seconds"] for unit in rows)
            print(f"| {task} | {model} | {track} | {share:g} | {metric} | {first['value']:.3f} ({first['low']:.3f} to "
                  f"{first['high']:.3f}) | {seeds} | {told.get('trained_parameters', 0):,} | {told.get('epoch', '')} | "
                  f"{seconds:.0f} |")  # fmt: skip


PARTS: dict[str, Callable[[Path], None]] = {
    each.__name__: each
    for each in (classes, frozen, seeds, longer, shares, questions, generators, phantom, matrix, table)
}


def main(folder: str, *parts: str) -> None:
    torch.set_num_threads(1)
    for part in parts or PARTS:
        PARTS[part](Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
