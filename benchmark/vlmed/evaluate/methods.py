"""Which function follows a track's method with a model of a kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vlmed.errors import UsageError
from vlmed.evaluate import answer, classify, retrieve
from vlmed.evaluate.job import Job, Outcome
from vlmed.evaluate.tuned import by_tuning
from vlmed.evaluate.units import Unit
from vlmed.models.protocols import Kind, ModelInfo
from vlmed.suite.types import Suite

_TUNED: Mapping[Kind, Callable[[Job], Outcome]] = {
    "dual_encoder": by_tuning,
    "image_encoder": by_tuning,
    "control": classify.by_control,
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
        UsageError: A model of this kind can't follow the track; names the tracks of the task that it can follow.
    """
    by_kind = METHODS[unit.track.method]
    if model.kind not in by_kind:
        fitting = [name for name in unit.task.tracks if model.kind in METHODS[suite.track(name).method]]
        raise UsageError(
            f"{model.name} {_WHAT[model.kind]}, so it can't follow {unit.track.id} on {unit.task.id}",
            expected=" or ".join(f"a model that {_WHAT[kind]}" for kind in by_kind if kind != "control"),
            got=f"a {model.kind}",
            hint=f"run it with --tracks {','.join(fitting)}" if fitting else "",
        )
    return by_kind[model.kind]
