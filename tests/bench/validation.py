"""How long it takes to validate many submissions, and how much memory.

    python tests/bench/validation.py [SUBMISSIONS [TASKS [SAMPLES]]]

Makes that many valid synthetic submissions (by default 50) to that many tasks (17) of that many test samples (2,000),
of all kinds, and validates them: every metric recomputed, intervals of a seeded draw, on two processes. Then once more
with kept verdicts when none and when one submission has changed. Prints the figures for 1,000 submissions by proportion
where fewer were made, beside their limits; the memory of the parent and of the largest worker for half and all of them;
and what a unit of each kind takes.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import submission_factory as factory
from forgery import edit
from vlmed.files import write_json
from vlmed.results.frozen import Frozen
from vlmed.results.many import Draw, Validator
from vlmed.results.unit_check import UnitCheck
from vlmed.results.validate import find_runs

KINDS = (("classification", "zero_shot"), ("retrieval", "retrieve"), ("vqa", "answer"))
DISTINCT = 4  # Submissions that are made; the others are copies under other names, which validation can't know.
SHARE = 0.02
JOBS = 2


def world(root: Path, tasks: int, samples: int) -> tuple[factory.World, list[tuple[str, str]]]:
    """A suite of mostly classifications, as the shipped one is."""
    names = [(f"t{index}", KINDS[min(index % 6, 2) if index % 6 < 3 else 0]) for index in range(tasks)]
    made = {}
    for name, (kind, _) in names:
        if kind == "classification":
            made[f"{name}@1"] = factory.task(name, "radiographs", ("a", "b", "c"))
        elif kind == "retrieval":
            made[f"{name}@1"] = factory.retrieval_task(name, "radiographs")
        else:
            made[f"{name}@1"] = factory.vqa_task(name, "radiographs")
    factory.TASKS.clear()
    factory.TASKS.update(made)
    factory.OTHER_TASKS.clear()
    factory.TRACKS.update(factory.OTHER_TRACKS)
    return factory.World(root, samples=samples, all_kinds=True), [(name, track) for name, (_, track) in names]


def submit(made: factory.World, number: int, tasks: list[tuple[str, str]]) -> None:
    for index in range(min(number, DISTINCT)):
        parts = [made.add(f"part{part}", 0.5 + index / 4, run=str(index), tasks=(task,), tracks=(track,))
                 for part, (task, track) in enumerate(tasks)]  # fmt: skip
        join(parts, made.submissions / f"lab__m{index}" / "1")
    for index in range(DISTINCT, number):
        source = made.submissions / f"lab__m{index % DISTINCT}" / "1"
        shutil.copytree(source, made.submissions / f"lab__m{index}" / "1")
    for path in made.submissions.glob("lab__part*"):
        shutil.rmtree(path)


def join(parts: list[Path], target: Path) -> None:
    """One submission of all units of others."""
    results = [json.loads((part / "result.json").read_text()) for part in parts]
    (target / "predictions").mkdir(parents=True)
    for part in parts:
        shutil.copytree(part / "predictions", target / "predictions", dirs_exist_ok=True)
    write_json(target / "result.json", results[0] | {"units": [unit for result in results for unit in result["units"]]})


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock and of all processors, and how many runs were accepted."""

    wall: float
    cpu: float
    accepted: int


def timed(validator: Validator, runs: list[Path]) -> Cost:
    start, cpu = time.monotonic(), sum(os.times()[:4])
    accepted = sum(report.accepted for report in validator.reports(runs, JOBS))
    return Cost(time.monotonic() - start, sum(os.times()[:4]) - cpu, accepted)


def by_kind(made: factory.World, runs: list[Path]) -> None:
    """Processor time of a unit of each kind, without intervals and with them, in this process alone."""
    for words, share in (("without", 0.0), ("with", 1.0)):
        spent: dict[str, list[float]] = {}
        frozen = Frozen(made.manifests)
        for run in runs:
            for index, unit in enumerate(json.loads((run / "result.json").read_text())["units"]):
                check = UnitCheck(run, f"$.units[{index}]", unit, made.suite, frozen, Draw(share, 1))
                frozen.test(made.suite.tasks[unit["task"]])
                start = time.process_time()
                check.check()
                spent.setdefault(made.suite.tasks[unit["task"]].kind, []).append(time.process_time() - start)
        shown = ", ".join(f"{kind} {1000 * statistics.median(each):.1f} ms" for kind, each in spent.items())
        print(f"a unit {words} intervals, median: {shown}")


def memory() -> tuple[float, float]:
    """Peak MiB of this process and of its largest child so far."""
    here, child = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return here, child


def main() -> None:
    number, tasks, samples = map(int, [*sys.argv[1:], *("50", "17", "2000")[len(sys.argv) - 1 :]])
    with tempfile.TemporaryDirectory() as folder:
        made, names = world(Path(folder) / "world", tasks, samples)
        submit(made, number, names)
        runs = find_runs(made.submissions)
        validator = Validator(made.suite, made.manifests, Draw(SHARE, 1), Path(folder) / "verdicts")
        print(f"{len(runs)} submissions, {tasks} tasks, {samples} samples; intervals of {SHARE:.0%} of the units")
        timed(Validator(made.suite, made.manifests, Draw(SHARE, 1)), runs[: len(runs) // 2])
        half = memory()
        whole = timed(validator, runs)
        share = 1000 / len(runs)
        print(f"all: {whole.wall:.1f} s, {whole.cpu:.1f} s of CPU, {whole.accepted} of {len(runs)} accepted; 1,000 by "
              f"proportion: {whole.wall * share:.0f} s (limit 180 s), {whole.cpu * share:.0f} s of CPU")  # fmt: skip
        none = timed(validator, runs)
        edit(runs[-1], "units/0/scores/n/all", lambda count: count + 1)
        one = timed(validator, runs)
        wall, cpu = (before * share + max(0, after - before) for before, after in
                     ((none.wall, one.wall), (none.cpu, one.cpu)))  # fmt: skip
        print(f"none changed: {none.wall:.2f} s, {none.cpu:.2f} s of CPU; one changed: {one.wall:.2f} s, {one.cpu:.2f} "
              f"s of CPU, {one.accepted} accepted; one of 1,000 by proportion: {wall:.1f} s (limit 5 s), "
              f"{cpu:.1f} s of CPU")  # fmt: skip
        full = memory()
        print(
            f"memory, parent and largest worker, MiB: half {half[0]:.0f} {half[1]:.0f}, all {full[0]:.0f} {full[1]:.0f}"
        )
        by_kind(made, runs[:DISTINCT])


if __name__ == "__main__":
    main()
