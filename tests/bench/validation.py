"""How long it takes to validate many submissions, and how much memory.

    python tests/bench/validation.py [SUBMISSIONS [TASKS [SAMPLES]]] [--world FOLDER]

Makes that many valid synthetic submissions (by default 50) to that many tasks (17) of that many test samples (2,000),
of all kinds, and validates them: every metric recomputed, intervals of a seeded draw, on two processes. Then once more
with kept verdicts when none and when one submission has changed. Prints the figures for 1,000 submissions by proportion
where fewer were made, beside their limits; the memory of the parent and of the largest worker for half and all of them;
and what a unit of each kind takes. With `--world` the submissions stay in that folder for the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import submission_factory as factory
from forgery import edit
from vlmed.files import read_json, write_json
from vlmed.results.frozen import Frozen
from vlmed.results.many import Draw, Validator
from vlmed.results.unit_check import UnitCheck
from vlmed.results.validate import find_runs
from vlmed.suite.load import load_suite
from vlmed.suite.types import Suite

KINDS = (("classification", "zero_shot"), ("retrieval", "retrieve"), ("vqa", "answer"))
DISTINCT = 4  # Submissions that are made; the others are copies under other names, which validation can't know.
SHARE = 0.02
JOBS = 2
MADE = "made.json"  # What a kept world was made for; the last file of it.
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """A suite, its manifests and submissions to all of its tasks, below `root`."""

    root: Path
    suite: Suite

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    @property
    def submissions(self) -> Path:
        return self.root / "submissions"


def world(root: Path, number: int, tasks: int, samples: int) -> World:
    """A world of at least `number` submissions; what an earlier call made of it is used again."""
    wanted = {"tasks": tasks, "samples": samples}
    if not (root / MADE).exists():
        shutil.rmtree(root / "submissions", ignore_errors=True)
        made, names = factory_world(root, tasks, samples)
        for index in progress(range(DISTINCT), DISTINCT, "made"):
            submit(made, index, names)
        write_json(root / MADE, wanted)
    if (kept := read_json(root / MADE)) != wanted:
        sys.exit(f"{root} was made for {kept}, and {wanted} is asked for: name another folder")
    found = World(root, load_suite(root / "tasks.yaml"))
    missing = [index for index in range(DISTINCT, number) if not (place(found.submissions, index)).exists()]
    for index in progress(missing, len(missing), "copied"):
        copy(place(found.submissions, index % DISTINCT), place(found.submissions, index))
    return found


def place(submissions: Path, index: int) -> Path:
    return submissions / f"lab__m{index:04d}" / "1"


def factory_world(root: Path, tasks: int, samples: int) -> tuple[factory.World, list[tuple[str, str]]]:
    """A suite of mostly classifications, as the shipped one is, and its tasks with their tracks."""
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


def submit(made: factory.World, index: int, tasks: Sequence[tuple[str, str]]) -> None:
    """A submission to all tasks, each with its own track."""
    parts = [made.add(f"part{part}", 0.5 + index / 4, run=str(index), tasks=(task,), tracks=(track,))
             for part, (task, track) in enumerate(tasks)]  # fmt: skip
    join(parts, place(made.submissions, index))
    for part in parts:
        shutil.rmtree(part.parent)


def join(parts: Sequence[Path], target: Path) -> None:
    """One submission of all units of others."""
    results = [json.loads((part / "result.json").read_text()) for part in parts]
    (target / "predictions").mkdir(parents=True)
    for part in parts:
        shutil.copytree(part / "predictions", target / "predictions", dirs_exist_ok=True)
    write_json(target / "result.json", results[0] | {"units": [unit for result in results for unit in result["units"]]})


def copy(source: Path, target: Path) -> None:
    """A whole copy or none, whenever this script is ended."""
    part = target.parent / ".part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    part.rename(target)


def progress(items: Iterable[T], number: int, what: str) -> Iterator[T]:
    """The items; tells now and then how many of them are through."""
    start, said = time.monotonic(), 0.0
    for index, item in enumerate(items, 1):
        yield item
        passed = time.monotonic() - start
        if passed > said + 5 or index == number:
            print(f"  {what} {index} of {number} in {passed:.0f} s", file=sys.stderr, flush=True)
            said = passed


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock and of all processors, and how many runs were accepted."""

    wall: float
    cpu: float
    accepted: int


def timed(validator: Validator, runs: list[Path]) -> Cost:
    start, cpu = time.monotonic(), sum(os.times()[:4])
    reports = progress(validator.reports(runs, JOBS), len(runs), "validated")
    accepted = sum(report.accepted for report in reports)
    return Cost(time.monotonic() - start, sum(os.times()[:4]) - cpu, accepted)


def by_kind(made: World, runs: list[Path]) -> None:
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


def one_changed(validator: Validator, runs: list[Path]) -> tuple[Cost, Cost]:
    """What it takes with kept verdicts if nothing changed, and if a number in one run did; the run is put back."""
    none, file = timed(validator, runs), runs[-1] / "result.json"
    before = file.read_bytes()
    try:
        edit(runs[-1], "units/0/scores/n/all", lambda count: count + 1)
        return none, timed(validator, runs)
    finally:
        file.write_bytes(before)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("submissions", 50), ("tasks", 17), ("samples", 2000)):
        parser.add_argument(name, type=int, nargs="?", default=default)
    parser.add_argument("--world", type=Path, help="where the submissions are kept for the next time")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made = world(asked.world or folder / "world", asked.submissions, asked.tasks, asked.samples)
        runs = find_runs(made.submissions)[: asked.submissions]
        validator = Validator(made.suite, made.manifests, Draw(SHARE, 1), folder / "verdicts")
        print(f"{len(runs)} submissions, {asked.tasks} tasks, {asked.samples} samples; intervals of {SHARE:.0%} of the "
              f"units")  # fmt: skip
        timed(Validator(made.suite, made.manifests, Draw(SHARE, 1)), runs[: len(runs) // 2])
        half = memory()
        whole = timed(validator, runs)
        share = 1000 / len(runs)
        print(f"all: {whole.wall:.1f} s, {whole.cpu:.1f} s of CPU, {whole.accepted} of {len(runs)} accepted; 1,000 by "
              f"proportion: {whole.wall * share:.0f} s (limit 180 s), {whole.cpu * share:.0f} s of CPU")  # fmt: skip
        none, one = one_changed(validator, runs)
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
