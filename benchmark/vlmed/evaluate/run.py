"""Units -> prediction files -> result.json, unit by unit, so that a killed run loses one unit at most."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import cast

from vlmed import __version__
from vlmed.data.load import DataLoader
from vlmed.data.table import TaskTable, manifest_rows
from vlmed.evaluate.features import FeatureCache
from vlmed.evaluate.job import Job
from vlmed.evaluate.methods import method_for
from vlmed.evaluate.units import RunFolder, Unit
from vlmed.files import write_json
from vlmed.hashing import file_hash
from vlmed.models.load import LoadedModel
from vlmed.models.protocols import ImageEncoder
from vlmed.results.predictions import read_predictions, write_predictions
from vlmed.results.score import score
from vlmed.suite.types import Suite

Report = Callable[[Unit, str], None]


@dataclass
class Runner:
    """Evaluates one model on units; the model, the data sets and the features are loaded once for all of them.

    Attributes:
        keep_weights: Whether what a unit tuned is kept in the run folder, as an adapter or a checkpoint.
    """

    suite: Suite
    model: LoadedModel
    data: DataLoader
    batch_size: int = 64
    keep_weights: bool = False

    def run(self, units: Sequence[Unit], folder: RunFolder, report: Report) -> Path:
        """Do every unit that is not finished and write `result.json`; gives its path.

        Raises:
            UsageError: The folder holds another run, or the model can't follow a track; nothing is written.
            MissingError, InputError: A task's data are absent or not the frozen ones; nothing is written.
            VlmedError: The disk is full; finished units are kept.
        """
        for unit in units:
            method_for(unit, self.model.info, self.suite)
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

    def _do(self, unit: Unit, table: TaskTable, folder: RunFolder) -> None:
        start = time.monotonic()
        job = self._job(unit, table, folder)
        outcome = method_for(unit, self.model.info, self.suite)(job)
        path = folder.predictions(unit)
        write_predictions(path, outcome.predictions)
        # Scored as read back, so that what is claimed is exactly what the file gives.
        stored = read_predictions(path, unit.task)
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
                "images": job.cache.embedded if job.cache else 0,
                "training": outcome.training,
            },
        })  # fmt: skip
        folder.clear_scratch(unit)

    def _job(self, unit: Unit, table: TaskTable, folder: RunFolder) -> Job:
        return Job(
            unit=unit,
            table=table,
            model=self.model,
            dataset=self.data.dataset(unit.task.dataset),
            cache=self.cache(),
            scratch=folder.scratch(unit),
            log=folder.log(unit),
            weights=folder.weights(unit) if self.keep_weights else None,
            progress=self.data.progress,
            batch_size=self.batch_size,
        )

    def cache(self) -> FeatureCache | None:
        """A view of the shared features that counts what is embedded through it; None for a model that embeds none."""
        if self.model.info.kind not in ("dual_encoder", "image_encoder"):
            return None
        encoder = cast(ImageEncoder, self.model.predictor)
        key, folder = self.model.info.revisions, self.data.cache / "features"
        return FeatureCache(folder, encoder, key, self.batch_size, self.data.progress)

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


def environment() -> dict[str, str]:
    """Versions and hardware, as text, for the result."""
    packages = ("torch", "transformers", "open_clip_torch", "peft", "numpy", "pyarrow", "pillow")
    versions = {name: metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "platform": platform.platform(), **versions}
