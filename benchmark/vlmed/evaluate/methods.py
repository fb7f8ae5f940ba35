"""Which function follows a track's method with a model of a kind."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

from vlmed.errors import UsageError
from vlmed.evaluate import answer, classify, retrieve
from vlmed.evaluate.job import Job, Outcome
from vlmed.evaluate.units import Unit
from vlmed.models.protocols import Kind, ModelInfo
from vlmed.suite.types import Suite, Task, Track


def _later(module: str, name: str) -> Callable[[Job], Outcome]:
    """A function whose module is imported when a unit needs it: the libraries for tuning take seconds to load."""

    def method(job: Job) -> Outcome:
        outcome: Outcome = getattr(importlib.import_module(f"vlmed.evaluate.{module}"), name)(job)
        return outcome

    return method


_by_tuning = _later("tuned", "by_tuning")
_TUNED: Mapping[Kind, Callable[[Job], Outcome]] = {
    "dual_encoder": _by_tuning,
    "image_encoder": _by_tuning,
    "control": classify.by_control,
}
# Where the prompts are the classifier.
_TUNED_BY_PROMPTS: Mapping[Kind, Callable[[Job], Outcome]] = {
    kind: method for kind, method in _TUNED.items() if kind != "image_encoder"
}
# The same methods where a task has captions for classes.
_TUNED_ON_CAPTIONS: Mapping[Kind, Callable[[Job], Outcome]] = {
    "dual_encoder": _later("paired", "by_captions"),
    "control": retrieve.by_control,
}
METHODS: Mapping[str, Mapping[Kind, Callable[[Job], Outcome]]] = {
    "zero_shot": {"dual_encoder": classify.by_prompts, "control": classify.by_control},
    "linear_probe": {
        "dual_encoder": classify.by_probe,
        "image_encoder": classify.by_probe,
        "control": classify.by_control,
    },
    "lora": _TUNED,
    "partial": _TUNED,
    "full": _TUNED,
    "choose": {"generator": classify.by_letter, "control": classify.by_control},
    "retrieve": {"dual_encoder": retrieve.by_similarity, "control": retrieve.by_control},
    "answer": {
        "dual_encoder": answer.by_candidates,
        "generator": answer.by_generation,
        "control": answer.by_control,
    },
    "fusion": {"dual_encoder": _later("fused", "by_fusion"), "control": answer.by_control},
    "sft": {"generator": _later("tuned_generator", "by_answers"), "control": answer.by_control},
}

_WHAT: Mapping[Kind, str] = {
    "dual_encoder": "embeds images and texts",
    "image_encoder": "embeds images and no texts",
    "generator": "writes text",
    "control": "sees no image",
}


def method_for(unit: Unit, model: ModelInfo, suite: Suite) -> Callable[[Job], Outcome]:
    """What predicts a unit with a model.

    Raises:
        UsageError: Such a model can't follow the track; names the tracks of the task that its kind can follow, or
            that it lacks a fusion module of its own that the track asks for.
    """
    by_kind = _functions(unit.task, unit.track)
    if model.kind not in by_kind:
        fitting = [name for name in unit.task.tracks if model.kind in _functions(unit.task, suite.track(name))]
        raise UsageError(
            f"{model.name} {_WHAT[model.kind]}, so it can't follow {unit.track.id} on {unit.task.id}",
            expected=" or ".join(f"a model that {_WHAT[kind]}" for kind in by_kind if kind != "control"),
            got=f"a {model.kind}",
            hint=f"run it with --tracks {','.join(fitting)}" if fitting else "",
        )
    _check_fusion(unit.track, model)
    return by_kind[model.kind]


def _check_fusion(track: Track, model: ModelInfo) -> None:
    own = track.recipe.get("fusion", {}).get("module") == "own"
    if own and model.kind != "control" and not model.has_fusion:
        raise UsageError(
            f"{model.name} has no fusion module of its own, so it can't follow {track.id}",
            expected="PMC-CLIP's checkpoint.pt",
            got=f"{model.architecture} of the family {model.family}",
            hint="choose a track with a bilinear fusion",
        )


def _functions(task: Task, track: Track) -> Mapping[Kind, Callable[[Job], Outcome]]:
    functions = METHODS[track.method]
    if functions is not _TUNED:
        return functions
    if task.kind == "retrieval":
        return _TUNED_ON_CAPTIONS
    return _TUNED_BY_PROMPTS if track.recipe["head"] == "prompts" else _TUNED
