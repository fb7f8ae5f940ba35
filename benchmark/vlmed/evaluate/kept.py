"""Whether what a unit tunes can be kept, said before hours of training and not after them."""

from __future__ import annotations

from collections.abc import Sequence

from vlmed.errors import Problem, UsageError
from vlmed.evaluate.units import Unit
from vlmed.models.layouts import layout_of
from vlmed.models.own import FAMILY
from vlmed.models.protocols import ModelInfo
from vlmed.models.reference import Reference, parse_reference
from vlmed.models.resolve import resolve
from vlmed.models.snapshot import root_files
from vlmed.suite.types import Track

WRITTEN_LAYOUTS = ("config", "open_clip")
_HINT = "run it without --keep-weights"


def check_kept(units: Sequence[Unit], model: ModelInfo) -> None:
    """See that `--keep-weights` can keep what these units tune.

    Raises:
        UsageError: Lists every track whose weights could not be saved.
    """
    if model.kind == "control":
        return
    tracks = {unit.track.id: unit.track for unit in units}
    problems = [problem for track in tracks.values() if (problem := _problem(track, model))]
    if problems:
        raise UsageError(problems)


def _problem(track: Track, model: ModelInfo) -> Problem | None:
    scope = _scope(track)
    if not scope:
        return None
    where = f"what {track.id} tunes can't be kept: "
    if model.family in (FAMILY, "control"):
        what = "the model is an object of yours" if model.family == FAMILY else "the model is a control"
        return Problem(where + what, expected="a model with files of its own", got=model.ref, hint=_HINT)
    whole = scope in ("partial", "full")
    if model.adapter and not whole:
        return Problem(
            where + "the model already carries an adapter, and what is saved could name only the model under it",
            expected="a model without an adapter",
            got=f"{model.ref} with {model.adapter.ref}",
            hint=f"merge the adapter, save the model and give that; or {_HINT}",
        )
    if whole and (layout := _layout(model)) not in WRITTEN_LAYOUTS:
        return Problem(
            where + "vlmed doesn't write checkpoints in the model's layout",
            expected="transformers', open_clip's or timm's layout",
            got=layout,
            hint=f"tune it with a LoRA, whose adapters fit every layout; or {_HINT}",
        )
    return None


def _scope(track: Track) -> str:
    """What of a model trains; empty where a track leaves no weights."""
    if track.method == "fusion":
        return str(track.recipe.get("encoders", ""))
    return track.method if track.method in ("lora", "partial", "full", "sft") else ""


def _layout(model: ModelInfo) -> str:
    reference = parse_reference(model.ref)
    base = resolve(Reference(reference.scheme, reference.location, model.revision)).path
    return layout_of(root_files(base), str(base)).name
