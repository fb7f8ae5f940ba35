"""What the matrix of H26 costs: the figures of its steps, and from them hours and money for many models.

`tests/bench/matrix.py` measures and prints; this file has no command of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SETS = ("breastmnist", "pneumoniamnist", "organamnist", "organcmnist")
SIZES = {
    "breastmnist": (546, 78, 156),
    "pneumoniamnist": (4_708, 524, 624),
    "organamnist": (34_561, 6_491, 17_778),
    "organcmnist": (12_975, 2_392, 8_216),
}
FROZEN, FRACTIONS, SEEDS = ("zero_shot", "linear_probe"), (0.05, 0.1, 0.25, 0.5, 1.0), (0, 1, 2)
RATES_TRIED = 2
# Of what these are made: the tracks' own work differs, the rest does not.
OWN = {"zero_shot": "similarities", "linear_probe": "fitting the probe", "lora": "training"}
# Assumed, not measured.
CORE_HOUR, GPU_HOUR = 0.04, 3.00  # dollars
GPU_IMAGES = 5_000.0  # a second, forward, ViT-B/32 at bf16
EPOCHS_ASSUMED = 30  # at each learning rate until the training stops
PREPROCESSINGS = 20  # distinct ones among however many models
HELD = 7_100  # images of 224 px that a training keeps in memory
COUNTS = (1, 10, 100, 1_000, 10_000)
# Measured by other benches, see docs/performance.md.
PROBE_ROW = 8.8 / 34_561  # processor seconds a training sample, 512 features
KEPT = 0.07  # reading a preprocessed image over making it
BACKWARD = 3  # a training step over a pass forward, as in `vlmed run --plan`


@dataclass(frozen=True)
class Step:
    """A step's figures: processor seconds before its first unit, imports among them, and what each unit took."""

    start: float
    units: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, place: Path, name: str) -> Step:
        lines = [json.loads(line) for line in (place / f"{name}.jsonl").read_text().splitlines()]
        units = {f"{line['unit']} {line['way']}": line for line in lines if "unit" in line}
        imports = 0.0
        for unit in units.values():
            imports += (here := unit["stages"].pop("import", 0.0))
            unit["processor"] -= here
        return cls(lines[0]["start"] + imports, units)

    def spent(self, *tracks: str, way: str = "whole") -> float:
        """Processor seconds of these tracks' units, done in one way."""
        return sum(unit["processor"] for unit in self.units.values() if unit["track"] in tracks and unit["way"] == way)


@dataclass(frozen=True)
class Load:
    """What evaluating a model takes: processor seconds but for preprocessing and the network, and images of those two.

    Attributes:
        network: Images through it, forward; a training step counts as three.
        preprocessed: Images decoded and preprocessed for each model.
        once: The same for each distinct preprocessing.
    """

    cores: float
    network: float
    preprocessed: float
    once: float

    def cores_of(self, models: int, preprocess: float) -> float:
        """Processor seconds of many models, but for the network."""
        once = min(models, PREPROCESSINGS) * self.once
        return models * (self.cores + self.preprocessed * preprocess) + once * preprocess


def full_size(whole: Sequence[Step], caches: bool) -> Load:
    """The load of the matrix on all published images; what is not the network's is scaled from the measured units."""
    units = [unit for step in whole for unit in step.units.values()]
    scores = sum(unit["stages"]["metrics and intervals"] for unit in units) / sum(unit["rows"] for unit in units)
    writing = sum(unit["stages"]["writing"] for unit in units) / len(units)
    start = sum(step.start for step in whole) / len(whole)
    per_set = len(whole[0].units) // len(SETS)
    cores = start * (1 if caches else per_set * len(SETS)) + writing * per_set * len(SETS)
    network = preprocessed = once = 0.0
    for train, val, test in SIZES.values():
        cores += scores * test * per_set + PROBE_ROW * train * sum(FRACTIONS)
        once += caches * (train + val + test)
        # A share of train is embedded for itself, in the harness too.
        passes = sum(FRACTIONS) * train + (val + test if caches else len(FRACTIONS) * (val + test) + test)
        network += passes
        preprocessed += passes * (KEPT if caches else 1)
        for images in (share * train for share in FRACTIONS):
            steps = len(SEEDS) * RATES_TRIED * EPOCHS_ASSUMED
            network += steps * (BACKWARD * images + val) + len(SEEDS) * test
            # What has no room in memory is preprocessed, or read, in each epoch.
            spilled = max(0.0, 1 - HELD / (images + val + test))
            shown = len(SEEDS) * (images + val + test) + steps * spilled * (images + val)
            preprocessed += shown * (KEPT if caches else 1)
    return Load(cores, network, preprocessed, once)


def curve(place: Path, whole: Sequence[Step], without: float, prepare: float, twin: float) -> None:
    """Processor hours and money for many models: of the tiny ones as measured, and of ViT-B/32 at full size."""
    mean, each = 1 / len(whole), len(whole[0].units)
    start = mean * sum(step.start for step in whole)
    frozen, lora = (mean * sum(step.spent(*tracks) for step in whole) for tracks in (FROZEN, ("lora",)))
    rates = json.loads((place / "vit.json").read_text())
    lines: dict[str, list[float]] = {}

    def tell(what: str, models: int, cores: float, gpu: float = 0.0) -> None:
        money = cores / 3600 * CORE_HOUR + gpu / 3600 * GPU_HOUR
        lines.setdefault(what, []).append(money)
        print(
            f"{models:>6,} models, {what}: {cores / 3600:,.1f} core hours, {gpu / 3600:,.1f} GPU hours, {money:,.2f} $"
        )

    print(f"assumed: {CORE_HOUR} $ a core hour, {GPU_HOUR} $ a GPU hour, {GPU_IMAGES:g} images a second forward on it, "
          f"{EPOCHS_ASSUMED} epochs at each rate, {PREPROCESSINGS} preprocessings; ViT-B/32 {rates}")  # fmt: skip
    for models in COUNTS:
        later = max(0, models - PREPROCESSINGS)
        tell("tiny, shared", models, prepare + models * (start + lora + frozen) - later * frozen * (1 - twin))
        tell("tiny, nothing shared", models, prepare + models * (mean * without + each * start))
        for caches, name in ((True, "shared"), (False, "nothing shared")):
            load = full_size(whole, caches)
            cores = load.cores_of(models, rates["preprocess"])
            tell(f"ViT-B/32 on cores, {name}", models, cores + models * load.network * rates["forward"])
            tell(f"ViT-B/32 on a GPU, {name}", models, cores, models * load.network / GPU_IMAGES)
    draw(place / "cost.svg", lines)


def draw(path: Path, lines: dict[str, list[float]]) -> None:
    """Dollars over models, both logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, money) in enumerate(lines.items()):
        axes.loglog(COUNTS, money, "--" if "nothing" in name else "-", color=f"C{number // 2}", label=name)
    axes.set(xlabel="models", ylabel="dollars (assumed prices)", title="The classification matrix of H26")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})
    print(path)
