"""The whole matrix: models x classification sets x zero-shot, probe and LoRA, over shares of train and seeds.

    python tests/bench/matrix.py [MODELS [SETS [SEEDS]]]

Of 4 tiny models, 4 phantom data sets, 5 shares and 3 seeds by default. Prints units and processor time by track; the
share that the caches save of the units that train no encoder, against the same units each with caches of its own; and
what M models would take, from the first model (cold) and the mean of the others (decoded pixels are shared between
models of one preprocessing), up to 10,000.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import yaml

import factories
from vlmed.data.load import DataLoader
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, Unit, plan
from vlmed.models.load import load_model
from vlmed.suite.load import load_suite, suite_path
from vlmed.suite.types import Suite

TRACKS = ("zero_shot", "linear_probe", "lora")
FRACTIONS = (0.05, 0.1, 0.25, 0.5, 1.0)
TRAINED = {"epochs": 2, "patience": 2, "lr": [0.001], "batch_size": 32}
MAKERS: tuple[Callable[..., Path], ...] = (factories.tiny_open_clip, factories.tiny_clip)


def write_suite(path: Path, sets: int) -> Suite:
    """Lesion tasks on phantoms of different seeds."""
    tree: dict[str, Any] = yaml.safe_load(suite_path().read_text("utf-8"))
    options = {"patients": 150, "images_per_patient": 2, "size": 64}
    tree["tracks"]["lora@1"]["recipe"] |= TRAINED
    datasets = {f"phantom{n}": tree["datasets"]["phantom"] | {"options": options | {"seed": n}} for n in range(sets)}
    lesion = tree["tasks"]["phantom_lesion@1"] | {"manifest": "pending"}
    tasks = {f"lesion{n}@1": lesion | {"dataset": f"phantom{n}"} for n in range(sets)}
    path.write_text(yaml.safe_dump({"suite": "2026.1", "datasets": datasets, "tasks": tasks, "tracks": tree["tracks"]}))
    return load_suite(path)


def spent_on(runner: Runner, units: list[Unit], folder: Path) -> Counter[str]:
    """Processor seconds by track."""
    spent: Counter[str] = Counter()
    last = time.process_time()

    def report(unit: Unit, _: str) -> None:
        nonlocal last
        now = time.process_time()
        spent[unit.track.name] += now - last
        last = now

    runner.run(units, RunFolder(folder), report)
    return spent


def main() -> None:
    models, sets, seeds = map(int, [*sys.argv[1:], *("4", "4", "3")[len(sys.argv) - 1 :]])
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        suite = write_suite(place / "tasks.yaml", sets)
        units = plan(suite, ["lesion*"], TRACKS, FRACTIONS, range(seeds))
        made = [MAKERS[n % 2](place / f"model{n}", seed=n) for n in range(models)]
        by_model = []
        for n, model in enumerate(made):
            start = time.monotonic()
            runner = Runner(suite, load_model(f"dir:{model}"), DataLoader(cache=place / "cache"))
            by_model.append(spent_on(runner, units, place / f"run{n}"))
            told = ", ".join(f"{track} {seconds:.1f} s" for track, seconds in by_model[-1].items())
            print(
                f"model {n}: {len(units)} units in {time.monotonic() - start:.0f} s; of the processor {told}",
                flush=True,
            )
        saved(suite, made[-1], [unit for unit in units if unit.track.name != "lora"], by_model[-1], place)
        curve([sum(spent.values()) for spent in by_model])


def saved(suite: Suite, model: Path, units: list[Unit], shared: Counter[str], place: Path) -> None:
    """What caches save, by doing each unit with caches of its own; the prepared data are shared all the same."""
    loaded = load_model(f"dir:{model}")
    alone = 0.0
    for number, unit in enumerate(units):
        cache = place / f"alone{number}"
        cache.mkdir()
        (cache / "prepared").symlink_to(place / "cache" / "prepared")
        runner = Runner(suite, loaded, DataLoader(cache=cache))
        alone += sum(spent_on(runner, [unit], place / f"alone-run{number}").values())
    together = shared["zero_shot"] + shared["linear_probe"]
    print(f"{len(units)} units without training: {alone:.1f} s with caches of their own, {together:.1f} s with shared "
          f"ones: {1 - together / alone:.0%} saved")  # fmt: skip


def curve(spent: list[float]) -> None:
    """Processor time for many models."""
    first, later = spent[0], sum(spent[1:]) / max(1, len(spent) - 1) or spent[0]
    for models in (1, 10, 100, 1_000, 10_000):
        seconds = first + (models - 1) * later
        print(f"{models:>6,} models: {seconds / 3600:.3f} processor hours, {seconds / models:.1f} s each")


if __name__ == "__main__":
    main()
