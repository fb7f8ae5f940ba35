"""A run's metrics as evaluation results of the Hub: the `model-index` in the front matter of a model's card.

The newer `.eval_results` files are not for these: they name a benchmark that is a data set of the Hub, and most tasks
rest on data that may not be put there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from vlmed.errors import InputError, UsageError
from vlmed.metrics.table import METRICS
from vlmed.results.ranked import PREFIXES
from vlmed.results.untrusted import printable
from vlmed.suite.types import Suite, Task, Track

EVIDENCE = "https://github.com/vlmed/vlmed/tree/main/submissions/"
_SOURCE = "vlmed leaderboard"
_KEY = "model-index"
_FENCE = r"---[ \t]*(?:\r?\n|\Z)"
_FRONT = re.compile(rf"\A\ufeff?\s*{_FENCE}(?P<front>(?:.*\n)*?){_FENCE}")
# The key and the lines below it that belong to it: indented ones and list items, with comments between them.
_BLOCK = re.compile(rf"^[\"']?{_KEY}[\"']? *:.*\n(?:(?:(?:#.*|[ \t]*\r?)\n)*[ \t\-].*\n)*", re.MULTILINE)

Evaluation = Mapping[str, Any]


def evaluations_of(result: Mapping[str, Any], suite: Suite, place: str) -> Iterator[Evaluation]:
    """One evaluation for each unit of a `result.json` on the whole training split, as the tables have them.

    They are of the clean samples where these are known, and of all otherwise.

    Args:
        place: `<org>__<model>/<run>`, where the evidence is published.
    """
    for unit in (unit for unit in printable(result["units"]) if unit["fraction"] == 1):
        part = "all" if unit["scores"]["metrics"]["clean"] is None else "clean"
        task, track = suite.tasks[unit["task"]], suite.tracks[unit["track"]]
        yield evaluation(unit, task, track, part, EVIDENCE + place)


def check_repository(model: Mapping[str, Any], repository: str) -> None:
    """See that a run's numbers go to the card of the weights that it ran: the adapter's, or the model's where none is.

    Weights of a folder have no repository yet, and may go to any.

    Args:
        model: `model` of a `result.json`.
        repository: `owner/name`.

    Raises:
        UsageError: They are those of another repository of the Hub, a control, or behind an endpoint.
    """
    ref = str((model["adapter"] or model)["ref"])
    scheme, colon, place = ref.partition(":")
    if scheme in ("control", "endpoint") and colon:
        raise UsageError("only weights have a card", expected="a model of the Hub or a folder", got=ref)
    place = (place if colon else ref).partition("@")[0]
    if (not colon or scheme == "hf") and place != repository:
        hint = "offer them to the card of the model that was run"
        raise UsageError("these are the metrics of another model", expected=place, got=repository, hint=hint)


def evaluation(unit: Mapping[str, Any], task: Task, track: Track, part: str, url: str) -> Evaluation:
    """A unit's defined metrics on the samples `part`, the main one first, as an item of `model-index.results`."""
    known, main = unit["scores"]["metrics"][part] or {}, task.main_metric
    names = sorted((name for name, found in known.items() if found["value"] is not None), key=lambda each: each != main)
    return {
        "task": {"type": _task_type(task, track), "name": f"{task.title}, {track.title}"},
        "dataset": {
            "name": task.dataset.title,
            "type": task.dataset.name,
            "config": task.id,
            "split": f"test, {part} samples",
            "args": {"track": track.id, "seed": unit["seed"], "n": unit["scores"]["n"][part]},
        },
        "metrics": [_metric(name, known[name]) for name in names],
        "source": {"url": url, "name": _SOURCE},
    }


def _metric(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    title = METRICS[name.removeprefix(PREFIXES["text_to_image"])].title
    interval = {} if found["low"] is None else {"args": {"low": found["low"], "high": found["high"]}}
    return {"type": name, "value": found["value"], "name": title, **interval}


def _task_type(task: Task, track: Track) -> str:
    """The Hub's name of a kind of task."""
    if task.kind == "vqa":
        return "visual-question-answering"
    if task.kind == "retrieval":
        return "image-text-retrieval"
    return "zero-shot-image-classification" if track.name == "zero_shot" else "image-classification"


def front_matter(name: str, evaluations: Iterable[Evaluation]) -> str:
    """The front matter of a card that has these evaluations and nothing else."""
    return f"---\n{_block([{'name': name, 'results': list(evaluations)}])}---\n"


def with_evaluations(card: str, name: str, evaluations: Sequence[Evaluation], file: str = "README.md") -> str:
    """A card with these evaluations among those that it has; every other line stays as it is, byte by byte.

    What an earlier run of vlmed left for the same task, track and seed is replaced.

    Args:
        card: The card as it stands; may be empty.
        name: Of the model, where the card has no evaluations yet.
        file: For errors.

    Raises:
        InputError: The card's front matter is no mapping in YAML, or its evaluations are not what the Hub reads.
    """
    match = _FRONT.match(card)
    if not match and card.lstrip("\ufeff \t\r\n").startswith("---"):
        raise InputError("the front matter of this card has no end", file=file, hint="end it by a line of '---'")
    if not match:
        return front_matter(name, evaluations) + card
    front = match["front"]
    before = _parsed(front, file)
    index = _merged(before.get(_KEY), name, evaluations, file)
    changed = _BLOCK.sub("", front) + _block(index).replace("\n", "\r\n" if "\r\n" in front else "\n")
    if _parsed(changed, file) != {**before, _KEY: index}:
        hint = f"write {_KEY} as a block of its own, at the end of the front matter"
        raise InputError("the evaluations of this card can't be changed alone", file=file, path=_KEY, hint=hint)
    return card[: match.start("front")] + changed + card[match.end("front") :]


def _merged(index: Any, name: str, evaluations: Sequence[Evaluation], file: str) -> list[dict[str, Any]]:
    if index is None:
        return [{"name": name, "results": list(evaluations)}]
    if not _is_index(index):
        expected = "a list of models, each with a list of results"
        raise InputError("the Hub can't read these evaluations", file=file, path=_KEY, expected=expected)
    first, *others = index
    ours = [_place(one) for one in evaluations]
    kept = [one for one in first["results"] if _place(one) not in ours]
    return [{**first, "results": [*kept, *evaluations]}, *others]


def _is_index(index: Any) -> bool:
    models = isinstance(index, list) and index and all(isinstance(each, dict) for each in index)
    return bool(models) and isinstance(index[0].get("results"), list)


def _place(evaluation: Any) -> Any:
    """What vlmed evaluated; None for an evaluation by others."""
    try:
        if evaluation["source"]["name"] != _SOURCE:
            return None
        args = evaluation["dataset"]["args"]
        return evaluation["dataset"]["config"], args["track"], args["seed"]
    except (LookupError, TypeError):
        return None


def _block(index: Sequence[Mapping[str, Any]]) -> str:
    return yaml.safe_dump({_KEY: index}, sort_keys=False, allow_unicode=True, width=1000)


def _parsed(front: str, file: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(front)
    except (yaml.YAMLError, RecursionError) as error:
        said = str(error).splitlines()[0]
        raise InputError(f"the front matter of this card is not YAML: {said}", file=file) from None
    if not isinstance(value, dict | None):
        raise InputError("the front matter of this card is no mapping", file=file, got=type(value).__name__)
    return value or {}
