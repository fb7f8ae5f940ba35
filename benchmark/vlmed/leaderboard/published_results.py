"""What other result formats are made of: the runs that a built site shows, read back from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmed.errors import unknown
from vlmed.files import read_json
from vlmed.leaderboard.read import Run
from vlmed.leaderboard.site import check_unchanged
from vlmed.metrics.table import METRICS, Metric
from vlmed.results.hub_card import EVIDENCE
from vlmed.results.ranked import PREFIXES
from vlmed.results.untrusted import printable


@dataclass(frozen=True)
class Score:
    """One metric of a unit on the samples that decide its rank.

    Attributes:
        metric: Its row in the table of metrics; `name` may have a direction before that.
        low, high: Its 95 % interval; None where there is none.
        n: Number of samples.
    """

    name: str
    metric: Metric
    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Shown(Run):
    """A run that the site shows.

    Attributes:
        units: The shown units, each with the entry of its table in `leaderboard.json`.
        date: Day of its submission; empty for the oldest.
    """

    date: str
    units: list[tuple[Mapping[str, Any], Mapping[str, Any]]]

    @property
    def name(self) -> str:
        """`organisation/model`."""
        return f"{self.org}/{self.model}"

    @property
    def url(self) -> str:
        """Where its evidence is published."""
        return f"{EVIDENCE}{self.path}"

    @property
    def repository(self) -> str:
        """Its weights' repository on the Hub; where they lie elsewhere, the name under which they were submitted."""
        ref = str((self.result["model"]["adapter"] or self.result["model"])["ref"])
        scheme, colon, place = ref.partition(":")
        place = (place if colon else ref).partition("@")[0]
        return place if (not colon or scheme == "hf") and place.count("/") == 1 else self.name


def shown_runs(site: Path, model: str = "") -> list[Shown]:
    """Every run with a row in a table of a built site, but for controls.

    Args:
        model: `organisation/model` to keep one alone.

    Raises:
        MissingError: There is no built site.
        InputError: A file of it is not as it was built.
        UsageError: There is no such model; names the nearest.
    """
    check_unchanged(site)
    places: dict[tuple[str, str, str], list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for table in read_json(site / "data/leaderboard.json")["tables"]:
        for row in table["rows"]:
            if not row["control"]:
                place = row["organisation"], row["name"], row["run"]
                places.setdefault(place, []).extend((unit, table) for unit in row["units"])
    names = sorted({f"{org}/{name}" for org, name, _ in places})
    if model and model not in names:
        raise unknown("model on this leaderboard", model, names)
    chosen = {place: units for place, units in sorted(places.items()) if model in ("", "/".join(place[:2]))}
    return [_shown(site, place, units) for place, units in chosen.items()]


def scores(unit: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[Score]:
    """The defined metrics of a unit, the task's main one first."""
    part, main = table["ranked_on"], table["main_metric"]
    metrics = unit["scores"]["metrics"][part] or {}
    for name in sorted(metrics, key=lambda name: (name != main, name)):
        found = metrics[name]
        if found["value"] is not None:
            metric = METRICS[name.removeprefix(PREFIXES["text_to_image"])]
            yield Score(name, metric, found["value"], found["low"], found["high"], unit["scores"]["n"][part])


def _shown(site: Path, place: tuple[str, str, str], units: list[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Shown:
    org, model, run = place
    folder = site / f"runs/{org}__{model}/{run}"
    described = folder / "submission.json"
    date = str(read_json(described)["date"]) if described.is_file() else ""
    return Shown(org, model, run, printable(read_json(folder / "result.json")), date, units)
