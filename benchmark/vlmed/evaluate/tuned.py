"""Classification with an encoder that is tuned for it, and put back as it was afterwards."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from vlmed.data.table import Sample
from vlmed.errors import UsageError
from vlmed.evaluate.classify import labels, predictions
from vlmed.evaluate.job import Job, Outcome
from vlmed.models.protocols import ImageEncoder
from vlmed.models.reference import Reference, parse_reference
from vlmed.models.resolve import resolve
from vlmed.tuning.batches import Labelled, Pixels
from vlmed.tuning.fusion import TunedFusion
from vlmed.tuning.proof import GroupChange
from vlmed.tuning.recipe import parse_recipe
from vlmed.tuning.save import save_adapter, save_checkpoint, save_fusion
from vlmed.tuning.tune import LOG, Tuned, tune

if TYPE_CHECKING:
    from vlmed.tuning.generative import TunedGenerator

# Preprocessed images that are kept in memory from one epoch to the next; others come from the disk every time.
_HELD_BYTES = 4 * 2**30


def by_tuning(job: Job) -> Outcome:
    """Tune on the unit's share of train, stop and choose on val, predict test.

    Raises:
        UsageError: The recipe is for captions or questions.
    """
    task, track = job.unit.task, job.unit.track
    recipe = parse_recipe(track.method, track.recipe, f"tasks.yaml: {track.id}")
    if recipe.head not in ("prompts", "linear"):
        raise UsageError("the track's recipe is not for classes, and the task has classes", file="tasks.yaml",
                         path=f"$.tracks.{track.id}.recipe.head", expected="prompts or linear", got=recipe.head,
                         hint=f"take {track.name} out of the tracks of {task.id}")  # fmt: skip
    encoder, images = cast(ImageEncoder, job.model.predictor), Images(job)
    prompts = task.prompts[recipe.prompts] if recipe.head == "prompts" else {}
    classes = {spec.name: prompts.get(spec.name, ()) for spec in task.classes}
    train, val = (Labelled(images.of(samples), labels(samples)) for samples in (job.train, job.val))
    with tune(
        encoder, recipe, train, val, classes, seed=job.unit.seed, folder=job.scratch, progress=job.progress
    ) as tuned:
        probabilities = tuned.probabilities(images.of(job.test), len(job.test))
        keep(tuned, job)
    return Outcome(predictions(job.test, probabilities), told(tuned, job), tuned.cost.training)


def keep(tuned: Tuned[Any], job: Job) -> None:
    """Keep the training's log, and what was tuned where the run shall keep it."""
    shutil.copyfile(job.scratch / LOG, _made(job.log))
    if job.weights:
        save(tuned, job, job.weights)


def save(tuned: Tuned[Any], job: Job, folder: Path) -> None:
    """Write what was tuned: an adapter or a checkpoint that `vlmed run` takes, or a fusion alone; an old one goes."""
    info, about = job.model.info, f"{job.unit.task.title} (vlmed task {job.unit.task.id}, unit {job.unit.id})"
    shutil.rmtree(folder, ignore_errors=True)
    if tuned.learner.wrapped is not None:
        save_adapter(tuned, folder, info.ref, info.revision, about)
        return
    if isinstance(tuned, TunedFusion) and tuned.learner.recipe.scope == "frozen":
        save_fusion(tuned, folder, info.ref, info.revision, about)
        return
    reference = parse_reference(info.ref)
    base = resolve(Reference(reference.scheme, reference.location, info.revision)).path
    save_checkpoint(tuned, folder, base, info.ref, info.revision, about)


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def told(tuned: Tuned[Any], job: Job) -> Mapping[str, float | str | bool]:
    """What was chosen, what it took and the proof that it trained, for the result."""
    return {"lr": tuned.chosen["lr"], **account(tuned, tuned.proof.groups, job)}


def account(
    tuned: Tuned[Any] | TunedGenerator, groups: Iterable[GroupChange], job: Job
) -> dict[str, float | str | bool]:
    """The same without the learning rate, of an encoder or a generator; `groups` are the parts to name."""
    proof = tuned.proof.to_json()
    moved = {
        f"moved: {group.group}": round(group.relative_change, 6)
        for group in groups
        if group.relative_change is not None
    }
    return {
        "epoch": tuned.chosen["epoch"],
        "val_loss": round(tuned.chosen["val_loss"], 6),
        "train_samples": len(job.train),
        "samples_seen": tuned.cost.samples_seen,
        "trained_parameters": tuned.cost.trained_parameters,
        "flops": float(tuned.cost.flops),
        "changed_tensors": proof["tensors_changed"],
        "changed_parameters": proof["parameters_changed"],
        "frozen_tensors": proof["frozen_tensors"],
        **moved,
        **({"notes": "; ".join(tuned.notes)[:480]} if tuned.notes else {}),
    }


@dataclass
class Images:
    """Preprocessed images by what is shown, held in memory as long as there is room."""

    job: Job
    _held: dict[str, torch.Tensor] = field(default_factory=dict)
    _room: int = _HELD_BYTES
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, samples: Sequence[Sample]) -> Pixels:
        """Images of samples by their position."""

        def pixels(rows: NDArray[np.int64]) -> torch.Tensor:
            # A test image may be shown in place of another one, so the sample says which.
            wanted = [samples[row] for row in rows]
            absent = [sample for sample in wanted if sample.id not in self._held]
            fresh = dict(zip((sample.id for sample in absent), self.job.pixels(absent), strict=True)) if absent else {}
            self._hold(fresh)
            return torch.stack([fresh[each.id] if each.id in fresh else self._held[each.id] for each in wanted])

        return pixels

    def _hold(self, fresh: Mapping[str, torch.Tensor]) -> None:
        with self._lock:
            for name, pixels in fresh.items():
                size = pixels.numel() * pixels.element_size()
                if size <= self._room and name not in self._held:
                    # A copy, since the whole batch would stay with it, pinned for a GPU.
                    self._held[name] = pixels.clone()
                    self._room -= size
