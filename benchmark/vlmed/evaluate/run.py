"""Units -> prediction files -> result.json, unit by unit, so that a killed run loses one unit at most."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vlmed import __version__
from vlmed.data.load import DataLoader
from vlmed.data.table import Sample, TaskTable, manifest_rows
from vlmed.errors import UsageError
from vlmed.evaluate.features import FeatureCache
from vlmed.evaluate.probe import fit_probe
from vlmed.evaluate.units import RunFolder, Unit
from vlmed.evaluate.zero_shot import zero_shot
from vlmed.files import write_json
from vlmed.hashing import file_hash
from vlmed.models.load import LoadedModel
from vlmed.models.protocols import Control, DualEncoder, ImageEncoder
from vlmed.results.predictions import Predictions, read_predictions, write_predictions
from vlmed.results.score import score
from vlmed.suite.types import SplitName, Suite

Report = Callable[[Unit, str], None]


@dataclass
class Outcome:
    """What a method predicts for the test split.

    Attributes:
        probabilities: (N, C), rows sum to 1.
        by_template: (N, T, C) from single prompt templates; T is 0 where there are none.
        chosen: What the recipe chose on validation data.
        training: Training samples x epochs x trained parameters.
    """

    probabilities: NDArray[np.float64]
    by_template: NDArray[np.float64] | None = None
    chosen: Mapping[str, float | str | bool] = field(default_factory=dict)
    training: float = 0.0


@dataclass
class Runner:
    """Evaluates one model on units; the model, the data sets and the features are loaded once for all of them."""

    suite: Suite
    model: LoadedModel
    data: DataLoader
    batch_size: int = 64

    def run(self, units: Sequence[Unit], folder: RunFolder, report: Report) -> Path:
        """Do every unit that is not finished and write `result.json`; gives its path.

        Raises:
            UsageError: The folder holds another run, or the model can't follow a track; nothing is written.
            MissingError, InputError: A task's data are absent or not the frozen ones; nothing is written.
            VlmedError: The disk is full; finished units are kept.
        """
        for unit in units:
            self._check_fit(unit)
        folder.check(self.model.info.to_json())
        # All data are read before the first unit, so that what is missing is told now and not after hours.
        tasks = {unit.task.id: unit.task for unit in units if not folder.finished(unit)}
        tables = {name: self.data.table(task) for name, task in tasks.items()}
        folder.claim(self.model.info.to_json())
        for unit in units:
            if folder.finished(unit):
                report(unit, "finished before")
            else:
                self._do(unit, tables[unit.task.id], folder)
                report(unit, "done")
        return self._write_result(folder)

    def _check_fit(self, unit: Unit) -> None:
        kind = self.model.info.kind
        if unit.track.method == "zero_shot" and kind == "image_encoder":
            hint = "run it with --tracks linear_probe"
            raise UsageError(f"{self.model.info.name} has no text encoder, so it has no zero-shot prediction",
                             got=unit.track.name, hint=hint)  # fmt: skip

    def _do(self, unit: Unit, table: TaskTable, folder: RunFolder) -> None:
        start = time.monotonic()
        outcome, images = self._predict(unit, table)
        path = folder.predictions(unit)
        write_predictions(path, _predictions(table.split("test"), outcome))
        # Scored as read back, so that what is claimed is exactly what the file gives.
        stored = read_predictions(path, len(unit.task.classes))
        test = replace(table, samples=table.split("test"))
        rows = manifest_rows(test, {sample.id: sample.leaks for sample in test.samples})
        frozen = None if unit.task.pending else {row.sample_id: row for row in rows}
        write_json(folder.outcome(unit), {
            "unit": unit.id,
            "task": unit.task.id,
            "task_digest": unit.task.digest,
            "track": unit.track.id,
            "track_digest": unit.track.digest,
            "seed": unit.seed,
            "fraction": unit.fraction,
            "predictions": {
                "file": path.relative_to(folder.path).as_posix(),
                "sha256": file_hash(path),
                "rows": len(stored.sample_ids),
            },
            "scores": score(unit.task, stored, frozen),
            "recipe_outcome": dict(outcome.chosen),
            "cost": {
                "wall_seconds": round(time.monotonic() - start, 3),
                "images": images,
                "training": outcome.training,
            },
        })  # fmt: skip

    def _predict(self, unit: Unit, table: TaskTable) -> tuple[Outcome, int]:
        if self.model.info.kind == "control":
            return _control(cast(Control, self.model.predictor), unit, table), 0
        encoder = cast(ImageEncoder, self.model.predictor)
        key = [self.model.info.revision, getattr(self.model.info.adapter, "revision", "")]
        cache = FeatureCache(self.data.cache / "features", encoder, key, self.batch_size, self.data.progress)
        dataset = self.data.dataset(unit.task.dataset)

        def features(split: SplitName) -> NDArray[np.float32]:
            return cache.features(dataset, [sample.image for sample in table.split(split)])

        outcome = _METHODS[unit.track.method](encoder, unit, table, features)
        return outcome, cache.embedded

    def _write_result(self, folder: RunFolder) -> Path:
        path = folder.path / "result.json"
        write_json(path, {
            "schema_version": 1,
            "vlmed_version": __version__,
            "suite": self.suite.version,
            "model": self.model.info.to_json(),
            "units": folder.outcomes(),
            "environment": environment(),
        })  # fmt: skip
        return path


Features = Callable[[SplitName], NDArray[np.float32]]


def _zero_shot(encoder: ImageEncoder, unit: Unit, table: TaskTable, features: Features) -> Outcome:  # noqa: ARG001
    prompts = unit.task.prompts[unit.track.recipe["prompts"]]
    in_class_order = {spec.name: prompts[spec.name] for spec in unit.task.classes}
    return Outcome(*zero_shot(cast(DualEncoder, encoder), features("test"), in_class_order))


def _linear_probe(encoder: ImageEncoder, unit: Unit, table: TaskTable, features: Features) -> Outcome:
    classes = len(unit.task.classes)
    train, val = ((features(split), _labels(table.split(split))) for split in ("train", "val"))
    probe = fit_probe(train, val, classes, unit.track.recipe["penalties"])
    trained = (encoder.dim + 1) * classes
    # An L-BFGS fit has no epochs; the samples seen once count, as for any method on cached features.
    return Outcome(
        probe.probabilities(features("test")),
        chosen={"penalty": probe.penalty, "val_loss": round(probe.val_loss, 6), "trained_parameters": trained},
        training=float(len(train[1]) * trained),
    )


_METHODS: Mapping[str, Callable[[ImageEncoder, Unit, TaskTable, Features], Outcome]] = {
    "zero_shot": _zero_shot,
    "linear_probe": _linear_probe,
}


def _control(control: Control, unit: Unit, table: TaskTable) -> Outcome:
    train, test = _labels(table.split("train")), _labels(table.split("test"))
    return Outcome(control.probabilities(train, test, len(unit.task.classes), unit.seed))


def _labels(samples: Sequence[Sample]) -> NDArray[np.int64]:
    return np.array([sample.label for sample in samples], np.int64)


def _predictions(samples: Sequence[Sample], outcome: Outcome) -> Predictions:
    nothing = np.empty((len(samples), 0, outcome.probabilities.shape[1]))
    return Predictions(
        sample_ids=[sample.id for sample in samples],
        groups=[sample.group for sample in samples],
        targets=_labels(samples),
        probabilities=outcome.probabilities,
        by_template=nothing if outcome.by_template is None else outcome.by_template,
    )


def environment() -> dict[str, str]:
    """Versions and hardware, as text, for the result."""
    packages = ("torch", "transformers", "open_clip_torch", "peft", "numpy", "pyarrow", "pillow")
    versions = {name: metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "platform": platform.platform(), **versions}
