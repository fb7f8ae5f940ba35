"""How time and memory grow with the number of test samples, from 1,000 to a million.

    python tests/bench/growth.py [SIZE ...]

Two synthetic submissions to a classification of 1,000, 10,000, 100,000 and 1,000,000 samples, each a group of its own.
The manifest and the predictions are read and written, the predictions scored with 1,000 draws on all samples and again
on the clean ones, one run validated, and both ranked. Prints of each step processor time per sample; how far that
departs from the size before; the largest resident memory beyond the process that knows nothing but the code, its inputs
included; and that memory per sample. At most 10 % more time per sample is linear; less is said as such. Below 10,000
samples what does not depend on them takes most of both, so that these sizes get no verdict.

`bare` is what no bootstrap can do without, in NumPy alone: random numbers, counts at random places, and a look-up of
all counts in another order. As soon as the counts outgrow the processor's caches, it departs from linear by itself.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
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
from vlmed.suite.load import load_suite
from vlmed.suite.manifest import read_manifest, write_manifest

SIZES, AIM = (1_000, 10_000, 100_000, 1_000_000), 0.10
FEWEST = 10_000  # below, what does not depend on the samples takes most of the time
SHORT, ROUNDS = 3.0, 5  # a step of fewer seconds is repeated, and its shortest time counts
BARE_DRAWS = 20
# Forked, so that what the code itself takes is there already and not counted.
FORK = multiprocessing.get_context("fork")


class Submitted:
    """The two submissions below `root`, and what they are checked with."""

    def __init__(self, root: Path, samples: int) -> None:
        self.root, self.samples = root, samples
        self.manifests, self.submissions = root / "manifests", root / "submissions"
        self.suite = load_suite(root / "tasks.yaml")
        self.task = self.suite.task("chest")
        self.runs = sorted(path.parent for path in self.submissions.rglob("result.json"))

    def stored(self, run: Path) -> Any:
        (file,) = run.glob("predictions/*.parquet")
        return read_predictions(file, self.task)

    def frozen(self) -> Any:
        return read_manifest(self.task, self.manifests).by_id()


def bare(it: Submitted) -> Callable[[], Any]:
    """The least that draws take."""
    state, order = np.random.RandomState(0), np.random.default_rng(0).permutation(it.samples)

    def draw() -> None:
        for _ in range(BARE_DRAWS):
            counts = np.zeros(it.samples, np.uint8)
            np.add.at(counts, (state.random_sample(it.samples) * it.samples).astype(np.intp), np.uint8(1))
            counts.take(order)

    return draw


def freeze(it: Submitted) -> Callable[[], Any]:
    rows = read_manifest(it.task, it.manifests).rows
    return lambda: write_manifest(it.root / "again.csv", rows)


def write(it: Submitted) -> Callable[[], Any]:
    stored = it.stored(it.runs[0])
    return lambda: write_predictions(it.root / "again.parquet", stored)


def score_runs(it: Submitted) -> Callable[[], Any]:
    """The first with its intervals; a table needs none of the second, and another of a million samples is a minute."""
    first, second = map(it.stored, it.runs)
    frozen = it.frozen()
    _put_scores(it.runs[1], score(it.task, second, frozen, intervals=False))
    del second
    return lambda: _put_scores(it.runs[0], score(it.task, first, frozen))


def _put_scores(run: Path, scores: Any) -> None:
    result = json.loads((run / "result.json").read_text())
    result["units"][0]["scores"] = scores
    (run / "result.json").write_text(json.dumps(result))


def validate(it: Submitted) -> Callable[[], Any]:
    def work() -> None:
        report = validate_run(it.runs[0], it.suite, it.manifests)
        assert report.accepted, report.problems

    return work


def rank(it: Submitted) -> Callable[[], Any]:
    entries = read_submissions(it.submissions, it.suite, it.manifests, intervals=False).entries

    def work() -> None:
        tables = rank_tables(it.suite, entries, it.manifests)
        assert len(tables[0].rows) == 2
        assert all(row.rank for row in tables[0].rows)

    return work


STEPS: dict[str, Callable[[Submitted], Callable[[], Any]]] = {
    "bare": bare,
    "freeze": freeze,
    "manifest": lambda it: it.frozen,
    "read": lambda it: lambda: it.stored(it.runs[0]),
    "write": write,
    "score": score_runs,
    "validate": validate,
    "rank": rank,
}


def status(name: str) -> float:
    """A line of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith(name))
    return int(found) / 1024


def measure(name: str, root: Path, samples: int, told: Any) -> None:
    """Tells a step's processor seconds, and its largest resident MiB, inputs included, beyond those at its start."""
    Path("/proc/self/clear_refs").write_text("5")  # Forgets the largest so far.
    base = status("VmRSS")
    work = STEPS[name](Submitted(root, samples))
    spent: list[float] = []
    while not spent or (len(spent) < ROUNDS and sum(spent) < SHORT):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    told.put((min(spent), status("VmHWM") - base))


def make(root: Path, samples: int) -> None:
    factory.TASKS = {"chest@1": factory.TASKS["chest@1"]}
    factory.PENDING = set()
    # The factory would score what is to be measured; the scores are put in later. Its ids sort up to 100,000 only.
    factory.score = lambda *_: {}
    factory.sample_id = lambda index: f"s{index:07d}"
    factory.group = lambda index, per_group: f"p{index // per_group:07d}"
    world = factory.World(root, samples=samples)
    for name, skill in (("a", 1.0), ("b", 1.1)):
        world.add(name, skill)


def forked(work: Callable[..., None], *arguments: Any) -> None:
    process = FORK.Process(target=work, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0, (work, arguments[:1])


def one_size(samples: int, before: dict[str, float]) -> dict[str, float]:
    """Step -> processor seconds per sample, told beside those of the size before."""
    print(f"{samples:,} samples", flush=True)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "world"
        forked(make, root, samples)
        for name in STEPS:
            told = FORK.SimpleQueue()
            forked(measure, name, root, samples, told)
            seconds, mib = told.get()
            found[name] = seconds / samples
            print(
                f"  {name:8} {1e9 * found[name]:8,.0f} ns a sample {verdict(found[name], before.get(name)):24}"
                f"{mib:7,.0f} MiB, {mib * 2**20 / samples:9,.0f} bytes a sample",
                flush=True,
            )
    return found


def verdict(now: float, before: float | None) -> str:
    """How the time per sample grew, against the aim."""
    if before is None:
        return ""
    growth = now / before - 1
    word = "MISS" if growth > AIM else "falls" if growth < -AIM else "linear"
    return f"{growth:+.0%} {word}"


def main() -> None:
    sizes = sorted(map(int, sys.argv[1:] or SIZES))
    print(f"time per sample against the size before: aim at most {AIM:+.0%}; memory beyond the code's own")
    found: dict[str, float] = {}
    for few, samples in pairwise([0, *sizes]):
        found = one_size(samples, found if few >= FEWEST else {})


if __name__ == "__main__":
    main()
