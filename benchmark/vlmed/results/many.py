"""Many runs at once: on several cores, with verdicts kept for those that have not changed."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

import vlmed
from vlmed.errors import Problem, VlmedError
from vlmed.files import read_json, write_json
from vlmed.hashing import digest, file_hash
from vlmed.results.frozen import Frozen
from vlmed.results.unit_check import Choice
from vlmed.results.untrusted import FOLDERS
from vlmed.results.validate import Report, validate_run
from vlmed.suite.manifest import FOLDER
from vlmed.suite.splits import bucket
from vlmed.suite.types import Suite

# Rooms whose code decides a verdict.
_CODE = ("metrics", "suite", "leakage", "results", "schemas", "hashing.py", "files.py")


@dataclass(frozen=True)
class Draw:
    """A seeded draw of the units whose intervals are recomputed; whoever makes a submission must not know the seed.

    Attributes:
        share: The share of units, in [0, 1].
    """

    share: float
    seed: int

    def __call__(self, sha256: str) -> bool:
        """Whether the unit with this prediction file is drawn."""
        return bucket(f"intervals {self.seed}", sha256) < self.share


@dataclass(frozen=True)
class Validator:
    """Validates runs alike.

    Attributes:
        intervals: Of which units the intervals are recomputed; True for all.
        verdicts: Folder of kept verdicts, keyed by all that decides them; None keeps none. A verdict with a draw stands
            as it fell, whatever the seed of a later draw.
    """

    suite: Suite
    manifests: Path = FOLDER
    intervals: bool | Choice = True
    verdicts: Path | None = None

    def reports(self, runs: Sequence[Path], jobs: int = 1) -> Iterator[Report]:
        """A report of every run, in order.

        Args:
            jobs: Number of processes.
        """
        places = list(map(self._place, runs))
        kept = [place and _read_verdict(place, run) for run, place in zip(runs, places, strict=True)]
        new = [(run, place) for run, place, report in zip(runs, places, kept, strict=True) if not report]
        made = self._made(new, jobs)
        yield from (report or next(made) for report in kept)

    def _made(self, runs: Sequence[tuple[Path, Path | None]], jobs: int) -> Iterator[Report]:
        """Reports of runs that have no verdict, each with the place of the one that it gets."""
        if jobs == 1 or len(runs) < 2:
            frozen = Frozen(self.manifests)
            yield from (self.report(*run, frozen) for run in runs)
            return
        # Forked workers would inherit the locks of Arrow's threads.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(jobs, len(runs)), context, _start, (self,)) as pool:
            yield from pool.map(_work, runs, chunksize=4)

    def report(self, run: Path, place: Path | None, frozen: Frozen) -> Report:
        """One run's report, whose verdict is kept in `place`."""
        report = validate_run(run, self.suite, self.manifests, self.intervals, frozen)
        # A run that changed under our eyes gets no verdict that would outlive this one.
        if place and place.stem == self._key(run):
            write_json(place, {"run": str(run), **_verdict(report)})
        return report

    def _place(self, run: Path) -> Path | None:
        """Where the verdict of a run is kept; None where none are."""
        if self.verdicts is None:
            return None
        key = self._key(run)
        return self.verdicts / key[:2] / f"{key}.json"

    def _key(self, run: Path) -> str:
        """The hash of all that decides a verdict."""
        return digest([self._setting, str(run), _contents(run)])

    @cached_property
    def _setting(self) -> str:
        """What decides verdicts beside the runs."""
        intervals = "drawn" if callable(self.intervals) else self.intervals
        return digest([_code(), _suite_key(self.suite), str(self.manifests), intervals])


def _contents(run: Path) -> list[list[str]]:
    """Name and hash of every regular file of a run, name and kind of everything else."""
    found = []
    for folder in ("", *FOLDERS):
        if (run / folder).is_dir():
            with os.scandir(run / folder) as entries:
                for entry in sorted(entries, key=attrgetter("name")):
                    regular = entry.is_file(follow_symlinks=False)
                    what = file_hash(Path(entry)) if regular else str(entry.stat(follow_symlinks=False).st_mode)
                    found.append([os.fsencode(f"{folder}/{entry.name}").hex(), what])
    return found


@cache
def _code() -> str:
    package = Path(vlmed.__file__).parent
    places = [package / name for name in _CODE]
    files = sorted(path for place in places for path in ([place] if place.is_file() else place.rglob("*.*")))
    return digest([file_hash(path) for path in files if path.suffix in (".py", ".json", ".jsonl", ".csv", ".yaml")])


def _suite_key(suite: Suite) -> list[str]:
    return [*(task.digest for task in suite.tasks.values()), *(track.digest for track in suite.tracks.values())]


def _verdict(report: Report) -> dict[str, Any]:
    problems = [asdict(problem) for problem in report.problems]
    return {
        "problems": problems,
        "unreadable": report.unreadable,
        "recomputed": report.recomputed,
        "sha256": report.sha256,
    }


def _read_verdict(path: Path, run: Path) -> Report | None:
    try:
        kept = read_json(path)
        problems = [Problem(**problem) for problem in kept["problems"]]
        return Report(run, problems, kept["unreadable"], kept["recomputed"], kept["sha256"])
    except (VlmedError, LookupError, TypeError):
        return None


_worker: tuple[Validator, Frozen]


def _start(validator: Validator) -> None:
    global _worker
    _worker = validator, Frozen(validator.manifests)


def _work(run: tuple[Path, Path | None]) -> Report:
    validator, frozen = _worker
    return validator.report(*run, frozen)
