"""How time and memory grow with the number of test samples, from 1,000 up.

    python tests/bench/growth.py [SIZE ...]

Two synthetic submissions to a classification of 1,000, 10,000, 100,000 and 300,000 samples, the most that a prediction
file may hold. Each size in a process of its own: predictions are read, written, scored with their intervals, validated,
and both models ranked. Prints processor time and the largest resident memory of each step, and how far the time per
sample of the largest size lies from that of the size before: 0 % is linear, the aim is at most 10 %.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import submission_factory as factory
from vlmed.leaderboard.rank import rank_tables
from vlmed.leaderboard.read import read_submissions
from vlmed.results.predictions import read_predictions, write_predictions
from vlmed.results.score import score
from vlmed.results.validate import validate_run
from vlmed.suite.manifest import read_manifest

SIZES, AIM = (1_000, 10_000, 100_000, 300_000), 0.10
STATUS = Path("/proc/self/status")


def measured(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What work gives, its processor seconds, and the largest resident MiB while it ran."""
    Path("/proc/self/clear_refs").write_text("5")  # Forgets the largest so far.
    start = time.process_time()
    value = work()
    spent = time.process_time() - start
    (peak,) = (line.split()[1] for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return value, spent, int(peak) / 1024


def one_size(samples: int, root: Path) -> dict[str, tuple[float, float]]:
    """Step -> processor seconds and MiB."""
    factory.TASKS = {"chest@1": factory.TASKS["chest@1"]}
    factory.PENDING = set()
    # The factory would score what is to be measured; the scores are put in below.
    factory.score = lambda *_: {}
    world = factory.World(root, samples=samples)
    runs = [world.add(name, skill) for name, skill in (("a", 1.0), ("b", 1.1))]
    task = world.suite.task("chest")
    told: dict[str, tuple[float, float]] = {}

    def step(name: str, work: Callable[[], Any]) -> Any:
        value, *told[name] = measured(work)
        return value

    step("start", lambda: None)
    frozen = step("manifest", lambda: read_manifest(task, world.manifests).by_id())
    for number, run in enumerate(runs):
        (file,) = run.glob("predictions/*.parquet")
        stored = step("read", partial(read_predictions, file, task))
        step("write", partial(write_predictions, root / f"{number}.parquet", stored))
        scores = step("score", partial(score, task, stored, frozen))
        result = json.loads((run / "result.json").read_text())
        result["units"][0]["scores"] = scores
        (run / "result.json").write_text(json.dumps(result))
    del frozen, stored
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
        steps = ", ".join(f"{step} {s:.2f} s {mib:.0f} MiB" for step, (s, mib) in told[samples].items())
        print(f"{samples:>9,} samples: {steps}", flush=True)
    few, many = sorted(told)[-2:]
    for step, (spent, _) in told[many].items():
        if step != "start":
            growth = (spent / many) / (told[few][step][0] / few) - 1
            print(f"{step}: {1e6 * spent / many:.2f} us per sample at {many:,}, {growth:+.0%} of that at {few:,} "
                  f"(aim at most {AIM:+.0%})")  # fmt: skip


if __name__ == "__main__":
    if "--one" in sys.argv:
        print(json.dumps(one_size(int(sys.argv[2]), Path(sys.argv[3]))))
    else:
        main()
