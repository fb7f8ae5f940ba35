"""Units of work and the run folder that keeps what they produced."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmed.errors import UsageError, VlmedError
from vlmed.files import read_json, write_json
from vlmed.hashing import file_hash
from vlmed.suite.methods import METHODS
from vlmed.suite.types import Suite, Task, Track


@dataclass(frozen=True)
class Unit:
    """The atom of evaluation: one task, one track, one seed, one share of the training data."""

    task: Task
    track: Track
    seed: int = 0
    fraction: float = 1.0

    @property
    def id(self) -> str:
        """The unit's name, also of its files: `breastmnist-v1.zero_shot-v1.s0.f100`."""
        task, track = self.task.id.replace("@", "-v"), self.track.id.replace("@", "-v")
        return f"{task}.{track}.s{self.seed}.f{self.fraction * 100:g}"


def plan(
    suite: Suite,
    tasks: Sequence[str],
    tracks: Sequence[str],
    fractions: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0,),
) -> list[Unit]:
    """The units of every named task on every named track that it has, in that order.

    A unit stands once: a method that trains nothing has one for all fractions and seeds, one without chance in its
    training one for all seeds.

    Args:
        tasks, tracks: Names, `name@version`, or shell patterns such as `organ*`.
        fractions: Shares of the training split, in (0, 1].

    Raises:
        UsageError: A name is unknown, a fraction or seed can't be one, or no task has any of the tracks.
    """
    _check_numbers(fractions, seeds)
    chosen, named = suite.tracks_matching(tracks), suite.tasks_matching(tasks)
    units = {
        unit.id: unit
        for task in named
        for track in chosen
        if track.name in task.tracks
        for unit in _variants(task, track, fractions, seeds)
    }
    if not units:
        expected = "; ".join(f"{task.name}: {', '.join(task.tracks) or 'none yet'}" for task in named)
        raise UsageError("none of these tasks has any of these tracks", expected=expected, got=", ".join(tracks))
    return list(units.values())


def _variants(task: Task, track: Track, fractions: Sequence[float], seeds: Sequence[int]) -> Iterator[Unit]:
    varies = METHODS[track.method].varies_with
    for fraction in fractions if "fraction" in varies else (1.0,):
        for seed in seeds if "seed" in varies else (0,):
            yield Unit(task, track, seed, fraction)


def _check_numbers(fractions: Sequence[float], seeds: Sequence[int]) -> None:
    wrong = [f"fraction {value:g}" for value in fractions if not 0 < value <= 1]
    wrong += [f"seed {value}" for value in seeds if not 0 <= value < 2**32]
    if wrong:
        expected = "fractions in (0, 1], seeds from 0 to 2**32 - 1"
        raise UsageError("these units can't be", expected=expected, got=", ".join(wrong))


@dataclass(frozen=True)
class RunFolder:
    """A run's files: `run.json` (whose run this is), `units/`, `predictions/`, for what was tuned `training/` and
    `weights/`, and once all is done `result.json`."""

    path: Path

    @property
    def _mark(self) -> Path:
        return self.path / "run.json"

    def check(self, model: dict[str, Any]) -> None:
        """See that the folder is new, empty or this model's; touches nothing.

        Raises:
            UsageError: It holds another model's run, or files that are no run.
            InputError: Its `run.json` can't be read.
        """
        hint = "choose another folder with --out"
        if not self._mark.exists():
            if self.path.is_dir() and any(self.path.iterdir()):
                raise UsageError("this folder holds other files", file=self.path, expected="a new folder", hint=hint)
        elif (held := read_json(self._mark)) != {"model": model}:
            raise UsageError("this folder holds another run", file=self.path, expected=_name(model), got=_holder(held),
                             hint=hint)  # fmt: skip

    def claim(self, model: dict[str, Any]) -> None:
        """Make the folder this model's.

        Raises:
            UsageError, InputError: As `check`; nothing is touched.
        """
        self.check(model)
        if not self._mark.exists():
            write_json(self._mark, {"model": model})

    def predictions(self, unit: Unit) -> Path:
        """The unit's prediction file."""
        return self.path / "predictions" / f"{unit.id}.parquet"

    def outcome(self, unit: Unit) -> Path:
        """The unit's own part of the result."""
        return self.path / "units" / f"{unit.id}.json"

    def log(self, unit: Unit) -> Path:
        """The log of the unit's training, one JSON object per epoch."""
        return self.path / "training" / f"{unit.id}.jsonl"

    def weights(self, unit: Unit) -> Path:
        """The folder of what the unit tuned."""
        return self.path / "weights" / unit.id

    def scratch(self, unit: Unit) -> Path:
        """Where a unit under way keeps what a killed run goes on from."""
        return self.path / "scratch" / unit.id

    def clear_scratch(self, unit: Unit) -> None:
        """Remove what a finished unit no longer needs."""
        shutil.rmtree(self.scratch(unit), ignore_errors=True)
        with suppress(OSError):
            self.scratch(unit).parent.rmdir()

    def finished(self, unit: Unit) -> bool:
        """Whether the unit was finished on the same task and recipe and its files are whole."""
        try:
            outcome = read_json(self.outcome(unit))
            frozen = (outcome["task_digest"], outcome["track_digest"]) == (unit.task.digest, unit.track.digest)
            return frozen and file_hash(self.predictions(unit)) == outcome["predictions"]["sha256"]
        except (VlmedError, OSError, KeyError, TypeError):
            return False

    def outcomes(self) -> list[Any]:
        """Every finished unit's part of the result, by unit name."""
        return [read_json(path) for path in sorted((self.path / "units").glob("*.json"))]


def _holder(held: Any) -> str:
    """Whose run a `run.json` says it is."""
    model = held.get("model") if isinstance(held, dict) else None
    return _name(model) if isinstance(model, dict) else "a run.json of another program"


def _name(model: dict[str, Any]) -> str:
    adapter = model.get("adapter")
    tail = f" + {adapter['ref']} at {adapter['revision'][:19]}" if adapter else ""
    return f"{model.get('ref')} at {str(model.get('revision'))[:19]}{tail}"
