"""Results as a flat table: one row for each metric of each unit, as `result.json` claims it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from vlmed.results.compare import Part, Run

PARTS: tuple[Part, ...] = ("all", "clean")


@dataclass(frozen=True)
class Row:
    """One metric of one unit.

    Attributes:
        model: The model's reference, revision and, where there is one, adapter.
        task, track: With their versions.
        fraction: The share of the training split, in (0, 1].
        samples: `all` test samples, or the `clean` ones.
        n: How many samples that are; None where the result does not say.
        value, low, high: The metric with its 95 % interval; None where undefined.
    """

    run: str
    model: str
    revision: str
    adapter: str
    unit: str
    task: str
    track: str
    seed: int
    fraction: float
    samples: Part
    n: int | None
    metric: str
    value: float | None
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


def rows_of(run: Run) -> list[Row]:
    """Every metric of every unit, in the result's order."""
    return list(_rows(run))


def _rows(run: Run) -> Iterator[Row]:
    model = run.result["model"]
    who = {"run": str(run.file.parent), "model": model["ref"], "revision": model["revision"]}
    who["adapter"] = (model["adapter"] or {"ref": ""})["ref"]
    for unit in run.units:
        what = who | {name: unit[name] for name in ("unit", "task", "track", "seed", "fraction")}
        scores = unit["scores"]
        for part in PARTS:
            for metric, numbers in (scores["metrics"][part] or {}).items():
                estimate = {name: numbers[name] for name in ("value", "low", "high")}
                yield Row(**what, samples=part, n=scores["n"][part], metric=metric, **estimate)
