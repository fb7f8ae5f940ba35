"""What tuning buys, through the public front door, on phantoms and on real data.

    VLMED_DATA=... python tests/bench/adaptation.py FOLDER
        [classes frozen seeds longer shares questions generators phantom matrix matrix_longer table matrix_table]

The recipes are the frozen ones, cut to ten epochs at one learning rate; `frozen` runs one of them as it is. The encoder
is a ViT at 32 px that has seen nothing but 2,139 phantoms and their captions; the generator has random weights. `table`
prints markdown. Whatever FOLDER has from before is taken up, never run twice.
"""

from __future__ import annotations

import functools
import json
import operator
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
from vlmed.files import write_json
from vlmed.models.load import load_model
from vlmed.progress import Silent
from vlmed.suite.load import load_suite, suite_path

PROMPTS, LINEAR = ("lora", "partial", "full"), ("lora_linear", "partial_linear", "full_linear")
SHARES = (0.05, 0.1, 0.25, 0.5)
FUSIONS = ("vqa_fusion", "vqa_fusion_lora", "vqa_fusion_partial", "vqa_fusion_full")
# Of the matrix.
SHORT: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 8,
    "lr": [1e-3],
    "lora_lr": 1e-2,
    "projector_lr": 1e-2,
    "max_tokens": 2,
}
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
    """Every family on every track of the phantom tasks, four epochs on few images; `matrix_table` prints what came."""
    suite, told = _suite(home / "matrix" / "short", _short), home / "matrix" / "told"
    tracks = sorted({name for task in load_suite(suite).tasks.values() for name in task.tracks})
    for family in families.FAMILIES:
        left = [track for track in tracks if not (told / family / f"{track}.json").exists()]
        _tell(home, family, left, suite, told)


def matrix_longer(home: Path) -> None:
    """Where the loss didn't fall in four epochs, the same with sixteen, at both rates; the one that fell more."""
    suite = _suite(home / "matrix" / "longer", functools.partial(_short, epochs=16, lr=[1e-4, 1e-3]))
    cells, told = _told(home / "matrix" / "told"), home / "matrix" / "told_longer"
    for family in families.FAMILIES:
        flat = [track for (name, track), cell in cells.items() if name == family and not _fell(cell)]
        _tell(home, family, [each for each in flat if not (told / family / f"{each}.json").exists()], suite, told)


def _tell(home: Path, family: str, tracks: Sequence[str], suite: Path, told: Path) -> None:
    """A file for each track: what its run told, or why there was none."""
    if not tracks:
        return
    folder = home / "matrix" / "models" / family
    model = load_model(f"dir:{folder if folder.exists() else families.FAMILIES[family](folder)}")
    print(f"{family}: {len(tracks)} tracks", file=sys.stderr, flush=True)
    for track in tracks:
        start = time.process_time()
        try:
            with tempfile.TemporaryDirectory() as out:
                vlmed.evaluate(model, "*", track, suite=suite, out=out)
                cell = _unit(Path(out))
        except VlmedError as error:
            cell = {"refused": error.problems[0].what, "error": str(error), "kind": type(error).__name__}
        seconds = round(time.process_time() - start, 2)
        write_json(told / family / f"{track}.json", cell | {"seconds": seconds, "is": model.info.kind})


def _told(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(Family, track) -> what a run told."""
    return {(path.parent.name, path.stem): json.loads(path.read_text()) for path in sorted(folder.glob("*/*.json"))}


def _fell(cell: dict[str, Any]) -> bool:
    return "first" not in cell or cell["last"] < cell["first"]


def _unit(run: Path) -> dict[str, Any]:
    """What a run of one unit tells: what moved, and the training loss of the first epoch and the last, at the learning
    rate where it fell most."""
    (unit,) = json.loads((run / "result.json").read_text())["units"]
    outcome, courses = unit["recipe_outcome"], defaultdict(list)
    for log in run.glob("training/*.jsonl"):
        for row in filter(operator.itemgetter("epoch"), map(json.loads, log.read_text().splitlines())):
            courses[str({name: value for name, value in row.items() if "lr" in name})].append(row["train_loss"])
    if not courses:
        return {}
    losses = min(courses.values(), key=lambda losses: losses[-1] / losses[0])
    moved = {name: outcome.get(name) for name in ("trained_parameters", "changed_parameters")}
    return {"first": losses[0], "last": losses[-1], "epochs": len(losses), **moved}


def matrix_table(home: Path) -> None:
    """By kind of model: the last epoch's training loss as a share of the first's; what was refused, in what words."""
    cells, longer = _told(home / "matrix" / "told"), _told(home / "matrix" / "told_longer")
    for kind in ("dual_encoder", "image_encoder", "generator"):
        mine = {key: cell for key, cell in cells.items() if cell["is"] == kind}
        names = sorted({track for (_, track), cell in mine.items() if "refused" not in cell})
        print(f"\n| {kind} | {' | '.join(names)} |\n|---|{':-:|' * len(names)}")
        for family in sorted({family for family, _ in mine}):
            row = (_cell(mine[family, track], longer.get((family, track))) for track in names)
            print(f"| {family} | {' | '.join(row)} |")
    _refusals(cells)
    trained = {key: cell for key, cell in cells.items() if "first" in cell}
    fell = {key for key, cell in trained.items() if _fell(cell)}
    later = {key for key in trained.keys() - fell if key in longer and _fell(longer[key])}
    spent = sum(cell["seconds"] for cell in (*cells.values(), *longer.values()))
    moved = sum(cell["changed_parameters"] > 0 for cell in trained.values())
    flat = ", ".join(map("/".join, sorted(trained.keys() - fell - later))) or "none"
    print(
        f"\n{len(cells)} pairs in {spent:.0f} s; {len(trained)} trained, numbers changed in {moved}; the loss fell in"
    )
    print(f"{len(fell)}, with more epochs in {len(later)} others, not in: {flat}")


def _refusals(cells: dict[tuple[str, str], dict[str, Any]]) -> None:
    """What was refused, and to how many."""
    found: dict[str, list[str]] = defaultdict(list)
    for (family, track), cell in cells.items():
        if "refused" in cell:
            words = cell["refused"].replace(f"{family} ", "MODEL ").replace(f" {track}@1", " TRACK")
            found[f"{cell['is']}, {cell['kind']}: {words}"].append(f"{family} {track}")
    for words, where in sorted(found.items()):
        print(f"\n{words} ({len(where)}): {', '.join(where[:4])}")


def _cell(cell: dict[str, Any], longer: dict[str, Any] | None) -> str:
    if "refused" in cell:
        return "–"
    if "first" not in cell:
        return "●"
    share = f"{cell['last'] / cell['first']:.2f}"
    return f"{share}, {longer['last'] / longer['first']:.2f}" if longer and "first" in longer else share


def _short(tree: dict[str, Any], **more: Any) -> None:
    """The phantom tasks with 48 images; steps of eight images and rates at which something moves in four epochs."""
    wanted = SHORT | more | {"patience": more.get("epochs", SHORT["epochs"])}
    named = ("phantom_lesion@1", "phantom_report@1", "phantom_vqa@1")
    tree["tasks"] = {name: tree["tasks"][name] | {"manifest": "pending"} for name in named}
    tree["datasets"] = {name: tree["datasets"][name] for name in ("phantom", "phantom_questions")}
    for dataset in tree["datasets"].values():
        dataset["options"] |= {"patients": 48, "images_per_patient": 1, "size": 32}
    for track in tree["tracks"].values():
        recipe = track["recipe"]
        recipe |= {rate: value for rate, value in wanted.items() if rate in recipe}
        if recipe.get("fusion", {}).get("module") == "bilinear":
            recipe["fusion"] |= {"width": 96, "glimpses": 2}


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
    for each in (
        classes,
        frozen,
        seeds,
        longer,
        shares,
        questions,
        generators,
        phantom,
        matrix,
        matrix_longer,
        table,
        matrix_table,
    )
}


def main(folder: str, *parts: str) -> None:
    torch.set_num_threads(1)
    for part in parts or PARTS:
        PARTS[part](Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
