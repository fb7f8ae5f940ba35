"""The classification matrix of H26: 4 models x 4 sets x zero-shot, linear probe and LoRA, 5 shares of train, 3 seeds.

    python tests/bench/matrix.py FOLDER [SHARE [EPOCHS]]

Each step is a process of its own on one thread, whose figures lie in FOLDER; called again, it goes on with the unit at
which it was killed. Seconds are the processor's unless they are called wall: of a unit, without importing libraries.

- Models: the layouts of H26's four with tiny random towers at 32 and 64 px, each with a preprocessing of its own.
  CXR-CLIP's layout is fixed at 224 px, too slow for this, so a ResNet of open_clip with other normalisation stands in.
- Sets: the suite's own tasks. BreastMNIST is the real one, whole. The other three are noise around a pattern for each
  class, in MedMNIST's format, with SHARE (0.02) of the published number of images.
- Tracks: the suite's own, but a LoRA trains EPOCHS (2) epochs at each of its two learning rates instead of up to 200.

`whole` does all 84 units of a model, with the caches that `vlmed run` has. `alone` does units in pairs at one time,
once with a cache of their own and once with a common one, since other work moves even processor seconds by half: all
that train no encoder, and LoRAs of one seed at two shares; from their ratio the rest is scaled. `twin` does the units
that train no encoder with another model of the first one's preprocessing, whose pixels are kept already; it is not
paired, so read its ratio only from a quiet machine. `vit` measures ViT-B/32, for the cost at full size.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from matrix_cost import FRACTIONS, FROZEN, OWN, SEEDS, SETS, SIZES, Step, curve

MODELS = ("clip", "biomedclip", "pmc_clip", "resnet")
SAMPLED = (0.05, 1.0)  # shares at which a LoRA is done without caches
STEPS = ("make", "prepare", *(f"whole-{model}" for model in (*MODELS, "twin")), *(f"alone-{model}" for model in MODELS),
         "vit")  # fmt: skip


def make(place: Path, share: float, epochs: int) -> dict[str, Any]:
    """Suite, data and models; then the data are prepared: checked, decoded, hashed."""
    from vlmed.suite.load import suite_path

    tree: dict[str, Any] = yaml.safe_load(suite_path().read_text("utf-8"))
    tree["tracks"]["lora@1"]["recipe"] |= {"epochs": epochs, "patience": epochs}
    datasets = {name: tree["datasets"][name] for name in SETS}
    tasks = {f"{name}@1": tree["tasks"][f"{name}@1"] for name in SETS}
    for name in SETS[1:]:
        classes = len(tasks[f"{name}@1"]["classes"])
        datasets[name]["options"]["md5"] = _noise(place / "data" / name / f"{name}.npz", SIZES[name], share, classes)
    kept = {"suite": tree["suite"], "tracks": tree["tracks"], "datasets": datasets, "tasks": tasks}
    (place / "tasks.yaml").write_text(yaml.safe_dump(kept))
    _models(place)
    return {"share": share, "epochs": epochs}


def _noise(path: Path, sizes: Sequence[int], share: float, classes: int) -> str:
    """A file in MedMNIST's format; gives its MD5."""
    from vlmed.hashing import file_hash

    random = np.random.default_rng(len(path.stem))
    patterns = random.integers(60, 190, (classes, 7, 7)).repeat(4, 1).repeat(4, 2)
    arrays = {}
    for split, size in zip(("train", "val", "test"), sizes, strict=True):
        labels = np.arange(max(classes, round(size * share))) % classes
        noise = random.integers(-60, 60, (len(labels), 28, 28))
        arrays |= {f"{split}_images": (patterns[labels] + noise).astype(np.uint8)}
        arrays |= {f"{split}_labels": labels[:, None].astype(np.uint8)}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, allow_pickle=False, **arrays)
    return file_hash(path, "md5")


def _models(place: Path) -> None:
    import dual_factories
    import factories
    import pmc_clip_factory

    factories.tiny_clip(place / "clip")
    factories.tiny_clip(place / "twin", seed=1)
    dual_factories.biomedclip(place / "biomedclip")
    pmc_clip_factory.tiny_pmc_clip(place / "pmc_clip")
    config = dual_factories.modified_resnet(place / "resnet") / "open_clip_config.json"
    tree = json.loads(config.read_text())
    tree["preprocess_cfg"] |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    config.write_text(json.dumps(tree))


def prepare(place: Path) -> dict[str, Any]:
    """Check, decode and hash every image."""
    suite, loader = _suite(place), _loader(place, place / "cache")
    start, began = time.process_time(), time.perf_counter()
    rows = [len(loader.table(suite.task(f"{name}@1")).samples) for name in SETS]
    return {"prepare": time.process_time() - start, "wall_prepare": time.perf_counter() - began, "images": sum(rows)}


def _suite(place: Path) -> Any:
    from vlmed.suite.load import load_suite

    return load_suite(place / "tasks.yaml")


def _loader(place: Path, cache: Path) -> Any:
    from vlmed.data.load import DataLoader

    return DataLoader(root=place / "data", cache=cache)


def evaluate(place: Path, step: str) -> None:
    """Do a step's units that are not done, and keep what each took, by stage."""
    from vlmed.evaluate import stages
    from vlmed.evaluate.profile import profiled
    from vlmed.evaluate.run import Runner
    from vlmed.evaluate.units import RunFolder
    from vlmed.models.load import load_model

    # Of the thread alone, so that what else the machine does is in no stage.
    stages.time = SimpleNamespace(perf_counter=time.thread_time)  # type: ignore[attr-defined]
    way, model = step.split("-")
    suite, loaded, folder = _suite(place), load_model(f"dir:{place / model}"), RunFolder(place / step)
    units = [unit for unit in _units(suite, way, model) if way != "whole" or not folder.finished(unit)]
    with profiled(), (place / f"{step}.jsonl").open("a" if way == "whole" else "w") as file:
        watch = Watch(stages, file, folder)
        if way == "whole":
            Runner(suite, loaded, _loader(place, place / "cache")).run(units, folder, watch.report)
            return
        # A pairing that was killed begins anew: its common cache would not be what the units before left.
        shutil.rmtree(place / step, ignore_errors=True)
        together = Runner(suite, loaded, _loader(place, _prepared(place, place / f"{step}-together")))
        for number, unit in enumerate(units):
            # One after the other, in turn the first: seconds of other times are those of another load.
            for way in ("alone", "together")[:: 1 if number % 2 else -1]:
                cache = place / f"{step}-caches" / unit.id
                runner = (
                    together if way == "together" else Runner(suite, loaded, _loader(place, _prepared(place, cache)))
                )
                # Nobody alone would keep pixels that no other unit reads.
                os.environ["VLMED_PIXELS_GIB"] = "0" if way == "alone" else "16"
                watch.folder, watch.way = RunFolder(place / step / way), way
                watch.begin()
                runner.run([unit], watch.folder, watch.report)


def _prepared(place: Path, cache: Path) -> Path:
    """A cache of its own, but for the prepared data; one that is there is emptied."""
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    (cache / "prepared").symlink_to(place / "cache" / "prepared")
    return cache


def _units(suite: Any, way: str, model: str) -> list[Any]:
    from vlmed.evaluate.units import plan

    tasks = [f"{name}@1" for name in SETS]
    frozen = plan(suite, tasks, FROZEN, FRACTIONS)
    if model == "twin":
        return frozen
    shares, seeds = (FRACTIONS, SEEDS) if way == "whole" else (SAMPLED, SEEDS[:1])
    return [*frozen, *plan(suite, tasks, ["lora"], shares, seeds)]


class Watch:
    """Writes what each unit took since the one before; the first line is what came before the first unit."""

    def __init__(self, stages: Any, file: IO[str], folder: Any) -> None:
        self._stages, self._file, self.folder, self.way = stages, file, folder, "whole"
        self.begin()
        self._write({"start": self._last})

    def begin(self) -> None:
        """Count from here."""
        self._last, self._seen, self._began = time.process_time(), self._counted(), time.perf_counter()

    def _counted(self) -> Counter[str]:
        counted = Counter[str](self._stages._account.foreground)
        counted.update(self._stages._account.background)
        return counted

    def report(self, unit: Any, word: str) -> None:
        """See `Runner.run`."""
        if word != "done":
            return
        now, wall, counted = time.process_time(), time.perf_counter(), self._counted()
        stages = {name: seconds - self._seen[name] for name, seconds in counted.items()}
        stages[OWN[unit.track.name]] = stages.pop("the track's own work", 0.0)
        outcome = json.loads(self.folder.outcome(unit).read_text())
        self._write({
            "unit": unit.id, "way": self.way, "track": unit.track.name,
            "processor": now - self._last, "wall": wall - self._began, "embedded": outcome["cost"]["images"],
            "rows": outcome["predictions"]["rows"], "stages": stages,
        })  # fmt: skip
        self.begin()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def vit(place: Path) -> dict[str, Any]:
    """Seconds an image with ViT-B/32: the pass forward, and preprocessing one of 28 px to 224."""
    import torch
    from PIL import Image
    from zero_shot import random_vit

    (place / "vit").mkdir(exist_ok=True)
    encoder, image = random_vit(place / "vit"), Image.new("L", (28, 28))
    start = time.process_time()
    batch = torch.stack([encoder.preprocess(image) for _ in range(32)])
    preprocess = time.process_time() - start
    with torch.inference_mode():
        encoder.encode_images(batch)
        start = time.process_time()
        encoder.encode_images(batch)
    return {"preprocess": preprocess / 32, "forward": (time.process_time() - start) / 32}


def work(place: Path, step: str, share: float, epochs: int) -> None:
    """Do a step in this process; its end is marked by STEP.json."""
    figures: dict[str, Any] = {}
    if step == "make":
        figures = make(place, share, epochs)
    elif step in ("prepare", "vit"):
        figures = {"prepare": prepare, "vit": vit}[step](place)
    else:
        evaluate(place, step)
    (place / f"{step}.json").write_text(json.dumps(figures))


def in_turn(place: Path, words: Sequence[str]) -> None:
    """Every step that is not done, each in a process of its own."""
    one = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    for step in STEPS:
        if (place / f"{step}.json").exists():
            continue
        # Nobody without caches would keep what no other unit reads.
        settings = os.environ | one | ({"VLMED_PIXELS_GIB": "0"} if step.startswith("alone") else {})
        done = subprocess.run([sys.executable, __file__, *words, step], env=settings, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{step}: {done.stderr[-3000:]}")
        print(f"{step}: done", flush=True)


def report(place: Path) -> None:
    """Print the figures of the models that are done, and draw the curve."""
    prepared = json.loads((place / "prepare.json").read_text())
    models = [model for model in MODELS if (place / f"alone-{model}.json").exists()]
    whole, alone = ([Step.read(place, f"{way}-{model}") for model in models] for way in ("whole", "alone"))
    print(f"{(place / 'make.json').read_text()}; data: {prepared}")
    for model, step in zip(models, whole, strict=True):
        told = ", ".join(f"{track} {step.spent(track):.1f} s" for track in OWN)
        wall = sum(unit["wall"] for unit in step.units.values())
        print(f"{model}: {len(step.units)} units, wall {wall:.0f} s; start {step.start:.1f} s, {told}")
    by_stage(whole)
    without = saved(whole, alone)
    twin = Step.read(place, "whole-twin").spent(*FROZEN) / Step.read(place, "whole-clip").spent(*FROZEN)
    print(f"units that train no encoder, another model of the same preprocessing: {twin:.2f} of the first one")
    curve(place, whole, without, prepared["prepare"], twin)


def by_stage(whole: Sequence[Step]) -> None:
    """Units, time and stages of each track, over all models."""
    for track in OWN:
        units = [unit for step in whole for unit in step.units.values() if unit["track"] == track]
        spent, wall = sum(step.spent(track) for step in whole), sum(unit["wall"] for unit in units)
        stages = Counter[str]()
        for unit in units:
            stages.update(unit["stages"] | {"in no stage": unit["processor"] - sum(unit["stages"].values())})
        told = ", ".join(f"{name} {seconds:.1f}" for name, seconds in stages.most_common())
        images, rate = sum(unit["embedded"] for unit in units), len(units) / spent
        print(f"{track}: {len(units)} units, {spent:.1f} s, wall {wall:.1f} s, {rate:.2f} units a second, "
              f"{images:,} images embedded; {told}")  # fmt: skip


def saved(whole: Sequence[Step], alone: Sequence[Step]) -> float:
    """Print what the caches save; gives the processor seconds of all models' units without them."""
    total = 0.0
    for track in OWN:
        with_caches = sum(step.spent(track) for step in whole)
        pairs = list(zip(whole, alone, strict=True))
        factors = [lone.spent(track, way="alone") / lone.spent(track, way="together") for _, lone in pairs]
        without = sum(factor * step.spent(track) for factor, (step, _) in zip(factors, pairs, strict=True))
        done = sum(unit["track"] == track for _, lone in pairs for unit in lone.units.values()) // 2
        by_model = ", ".join(f"{factor:.2f}" for factor in factors)
        print(f"{track}: {with_caches:.1f} s with caches, {without:.1f} s without (scaled from {done} pairs, factors "
              f"{by_model}): {1 - with_caches / without:.1%} saved")  # fmt: skip
        total += without
    spent, starts = sum(step.spent(*OWN) for step in whole), sum(step.start for step in whole)
    each = sum(step.start * len(step.units) for step in whole)
    print(
        f"all: {spent:.1f} s with, {total:.1f} s without: {1 - spent / total:.1%} saved; with a process for each model "
        f"{spent + starts:.1f} s, for each unit {total + each:.1f} s: {1 - (spent + starts) / (total + each):.1%} saved"
    )
    return total


if __name__ == "__main__":
    arguments = [*sys.argv[1:], *("", "0.02", "2")[len(sys.argv) - 1 :]]
    home = Path(arguments[0]).absolute()
    home.mkdir(parents=True, exist_ok=True)
    if len(arguments) > 3:
        work(home, arguments[3], float(arguments[1]), int(arguments[2]))
    else:
        in_turn(home, arguments[:3])
        report(home)
