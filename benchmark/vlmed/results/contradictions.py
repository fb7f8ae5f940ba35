"""What a `result.json` says that can't be, whatever its predictions are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlmed.errors import Problem
from vlmed.suite.methods import METHODS
from vlmed.suite.types import Suite

# Above all that was ever trained, and far enough below the largest double that sums stay finite.
_MOST = {"wall_seconds": 1e12, "training": 1e36}


def contradictions(result: Mapping[str, Any], suite: Suite, file: str) -> Iterator[Problem]:
    """Whatever contradicts itself or is no such number in a result that follows its schema, which is named `file`.

    Warnings are what an honest run does not say, and what changes no number.
    """
    units = result["units"]
    yield from _twice(file, ".unit", "this unit stands twice", [unit["unit"] for unit in units])
    files = [unit["predictions"]["file"] for unit in units]
    yield from _twice(file, ".predictions.file", "two units name this file", files)
    kinds = [f"{unit['task']} {unit['track']}, seed {unit['seed']:.0f}, fraction {unit['fraction']:g}"
             for unit in units]  # fmt: skip
    yield from _twice(file, ".track", "two units are of this task, track, seed and fraction", kinds)
    yield from _model_problems(file, result["model"])
    for index, unit in enumerate(units):
        yield from _unit_problems(unit, suite, result["model"], file, f"$.units[{index}]")
    yield from _seed_problems(units, suite, file)


def _twice(file: str, field: str, what: str, values: Sequence[str]) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value in seen:
            yield Problem(what, file, f"$.units[{index}]{field}", "once", value)
        seen.add(value)


def _model_problems(file: str, model: Mapping[str, Any]) -> Iterator[Problem]:
    """Contradictions in what is said of the model."""
    control = model["kind"] == "control"
    if control != (model["revision"] == "builtin"):
        expected = "builtin" if control else "a commit hash, or the content hash of a folder"
        yield Problem("this kind of model has no such revision", file, "$.model.revision", expected, model["revision"])
    if control and model["adapter"]:
        yield Problem("a control has no adapter", file, "$.model.adapter", "null", str(model["adapter"]["ref"]))
    if model["ref"].startswith("control:") and not control and model["family"] != "control":
        what = "a control is of the family of controls, so that it is not ranked"
        yield Problem(what, file, "$.model.family", "control", model["family"])
    yield from _whole(model["parameters"], file, "$.model.parameters")
    if model["adapter"]:
        yield from _whole(model["adapter"]["parameters"], file, "$.model.adapter.parameters")
    if model["adapter"] and model["adapter"]["parameters"] > model["parameters"]:
        expected = f"at most the model's {model['parameters']}"
        got = str(model["adapter"]["parameters"])
        yield Problem("the adapter is larger than the model", file, "$.model.adapter.parameters", expected, got)


def _unit_problems(
    unit: Mapping[str, Any], suite: Suite, model: Mapping[str, Any], file: str, place: str
) -> Iterator[Problem]:
    yield from _whole(unit["seed"], file, f"{place}.seed")
    yield from _whole(unit["predictions"]["rows"], file, f"{place}.predictions.rows")
    for name, most in _MOST.items():
        if unit["cost"][name] > most:
            expected, got = f"at most {most:g}", f"{unit['cost'][name]:g}"
            yield Problem("nothing ever cost so much", file, f"{place}.cost.{name}", expected, got)
    track = suite.tracks.get(unit["track"])
    if track is None:
        return  # The unit's own check tells it.
    facts = METHODS[track.method]
    if "fraction" not in facts.varies_with and unit["fraction"] != 1:
        what = "a track that trains nothing has no share of the training split"
        yield Problem(what, file, f"{place}.fraction", "1", str(unit["fraction"]), severity="warning")
    if facts.trains and not unit["cost"]["training"] and model["kind"] != "control":
        what = "a track that trains has a training cost"
        yield Problem(what, file, f"{place}.cost.training", "above 0", "0", severity="warning")


def _whole(number: float, file: str, place: str) -> Iterator[Problem]:
    """JSON Schema takes 1.0 for an integer; then two texts would stand for one number."""
    if not isinstance(number, int):
        yield Problem("this is no whole number", file, place, f"{number:.0f}", str(number))


def _seed_problems(units: Sequence[Mapping[str, Any]], suite: Suite, file: str) -> Iterator[Problem]:
    """Seeds that change the predictions of a track in which chance has no part."""
    found: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for index, unit in enumerate(units):
        track = suite.tracks.get(unit["track"])
        if track and "seed" not in METHODS[track.method].varies_with:
            alike = found[unit["task"], unit["track"], unit["fraction"]]
            if alike and unit["predictions"]["sha256"] not in alike:
                what = "another seed gives other predictions, and chance has no part in this track"
                yield Problem(what, file, f"$.units[{index}].seed", got=str(unit["seed"]), severity="warning")
            alike.add(unit["predictions"]["sha256"])
