"""How time and memory grow with the number of test samples, from 1,000 to a million.

    python tests/bench/growth.py [SIZE ...]

Two synthetic submissions to a classification of 1,000, 10,000, 100,000 and 1,000,000 samples. Each size in a process of
its own: predictions are read, written, scored with their intervals, validated, and both models ranked. Prints of each
step processor time per sample and the largest resident memory; then, from each size to the next of 10,000 samples and
more, how far the time per sample departs from that of the size before (0 % is linear, the aim is at most 10 %) and how
much memory a million samples more take.

`bare` is what no bootstrap can do without, in NumPy alone: random numbers, counts at random places, and a look-up of
all counts in another order. As soon as the counts outgrow the processor's caches, it departs from linear by itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import submission_factory as factory
from vlmed.leaderboard.rank import rank_tables
from vlmed.leaderboard.read import read_submissions
from vlmed.results.predictions import read_predictions, write_predictions
from vlmed.results.score import score
from vlmed.results.validate import validate_run
from vlmed.suite.manifest import read_manifest

SIZES, AIM = (1_000, 10_000, 100_000, 1_000_000), 0.10
FEWEST = 10_000  # below, what does not depend on the samples takes most of the time
SHORT, ROUNDS = 1.0, 5  # a step of fewer seconds is repeated, and its shortest time counts
BARE_DRAWS = 20
STATUS = Path("/proc/self/status")


def measured(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What work gives, its processor seconds, and the largest resident MiB while it ran."""
    Path("/proc/self/clear_refs").write_text("5")  # Forgets the largest so far.
    spent: list[float] = []
    while not spent or (len(spent) < ROUNDS and sum(spent) < SHORT):
        value = None  # Else the memory of two rounds would be counted.
        start = time.process_time()
        value = work()
        spent.append(time.process_time() - start)
    (peak,) = (line.split()[1] for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return value, min(spent), int(peak) / 1024


def bare(samples: int) -> None:
    """The least that draws take."""
    state, order = np.random.RandomState(0), np.random.default_rng(0).permutation(samples)
    for _ in range(BARE_DRAWS):
        counts = np.zeros(samples, np.uint8)
        np.add.at(counts, (state.random_sample(samples) * samples).astype(np.intp), np.uint8(1))
        counts.take(order)


def one_size(samples: int, root: Path) -> dict[str, tuple[float, float]]:
    """Step -> processor seconds and MiB."""
    factory.TASKS = {"chest@1": factory.TASKS["chest@1"]}
    factory.PENDING = set()
    # The factory would score what is to be measured; the scores are put in below. Its ids sort up to 100,000 only.
    factory.score = lambda *_: {}
    factory.sample_id = lambda index: f"s{index:07d}"
    factory.group = lambda index, per_group: f"p{index // per_group:07d}"
    world = factory.World(root, samples=samples)
    runs = [world.add(name, skill) for name, skill in (("a", 1.0), ("b", 1.1))]
    task = world.suite.task("chest")
    told: dict[str, tuple[float, float]] = {}

    def step(name: str, work: Callable[[], Any]) -> Any:
        value, *told[name] = measured(work)
        return value

    step("bare", partial(bare, samples))
    frozen = step("manifest", lambda: read_manifest(task, world.manifests).by_id())
    for number, run in enumerate(runs):
        (file,) = run.glob("predictions/*.parquet")
        stored = step("read", partial(read_predictions, file, task))
        step("write", partial(write_predictions, root / f"{number}.parquet", stored))
        scores = step("score", partial(score, task, stored, frozen))
        result = json.loads((run / "result.json").read_text())
        result["units"][0]["scores"] = scores
        (run / "result.json").write_text(json.dumps(result))
        del stored  # Else the next one is read beside it.
    del frozen
    report = step("validate", lambda: validate_run(runs[0], world.suite, world.manifests))
    assert report.accepted, report.problems
    entries = read_submissions(world.submissions, world.suite, world.manifests, intervals=False).entries
    tables = step("rank", lambda: rank_tables(world.suite, entries, world.manifests))
    assert all(row.rank for row in tables[0].rows)
    return told


def main() -> None:
    told: dict[int, dict[str, Any]] = {}
    for samples in map(int, sys.argv[1:] or SIZES):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--one", str(samples), f"{folder}/world"]
            told[samples] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        steps = ", ".join(
            f"{step} {1e9 * s / samples:,.0f} ns {mib:.0f} MiB" for step, (s, mib) in told[samples].items()
        )
        print(f"{samples:>9,} samples, per sample: {steps}", flush=True)
    for few, many in pairwise(sorted(size for size in told if size >= FEWEST)):
        print(f"from {few:,} to {many:,} samples (aim at most {AIM:+.0%}):")
        for name, (spent, mib) in told[many].items():
            growth = (spent / many) / (told[few][name][0] / few) - 1
            more = 1e6 * (mib - told[few][name][1]) / (many - few)
            print(f"  {name:8} time per sample {growth:+.0%}, {more:,.0f} MiB for a million samples more")


if __name__ == "__main__":
    if "--one" in sys.argv:
        print(json.dumps(one_size(int(sys.argv[2]), Path(sys.argv[3]))))
    else:
        main()
