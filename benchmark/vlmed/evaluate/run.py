"""Units -> prediction files -> result.json, unit by unit, so that a killed run loses one unit at most."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import cast

from vlmed import __version__
from vlmed.data.load import DataLoader
from vlmed.data.table import TaskTable, manifest_rows
from vlmed.evaluate.executor import Executor, Local
from vlmed.evaluate.features import FeatureCache
from vlmed.evaluate.job import Job
from vlmed.evaluate.kept import check_kept
from vlmed.evaluate.methods import method_for
from vlmed.evaluate.pixels import PixelStore
from vlmed.evaluate.stages import stage
from vlmed.evaluate.units import RunFolder, Unit
from vlmed.files import write_json
from vlmed.hashing import file_hash
from vlmed.models.load import LoadedModel
from vlmed.models.numerics import EXACT, Numerics
from vlmed.models.protocols import ImageEncoder
from vlmed.results.predictions import read_predictions, write_predictions
from vlmed.results.score import score
from vlmed.suite.frozen_rows import Keyed, Rows
from vlmed.suite.types import Suite, Task

Report = Callable[[Unit, str], None]


@dataclass
class Runner:
    """Evaluates one model on units; the model, the data sets and the features are loaded once for all of them.

    Attributes:
        keep_weights: Whether what a unit tuned is kept in the run folder, as an adapter or a checkpoint.
        executor: Who does the units.
    """

    suite: Suite
    model: LoadedModel
    data: DataLoader
    batch_size: int = 64
    keep_weights: bool = False
    executor: Executor = field(default_factory=Local)
    _tables: dict[str, TaskTable] = field(default_factory=dict, init=False, repr=False)
    _frozen: dict[str, Keyed] = field(default_factory=dict, init=False, repr=False)

    def run(self, units: Sequence[Unit], folder: RunFolder, report: Report) -> Path:
        """Do every unit that is not finished and write `result.json`; gives its path.

        Raises:
            UsageError: The folder holds another run, the model can't follow a track, or what is tuned can't be kept;
                nothing is written.
            MissingError, InputError: A task's data are absent or not the frozen ones; nothing is written.
            VlmedError: The disk is full; finished units are kept.
        """
        for unit in units:
            method_for(unit, self.model.info, self.suite)
        if self.keep_weights:
            check_kept(units, self.model.info)
        folder.check(self.model.info.to_json())
        # All data are read before the first unit, so that what is missing is told now and not after hours.
        finished = {unit.id for unit in units if folder.finished(unit)}
        left = [unit for unit in units if unit.id not in finished]
        for unit in left:
            self.table(unit.task)
        folder.claim(self.model.info.to_json())
        for unit in units:
            if unit.id in finished:
                report(unit, "finished before")
        for unit, state in self.executor.execute(self, left, folder):
            report(unit, state)
        return self._write_result(folder)

    def table(self, task: Task) -> TaskTable:
        """A task's samples, read once."""
        if task.id not in self._tables:
            with stage("data tables"):
                self._tables[task.id] = self.data.table(task)
        return self._tables[task.id]

    def do(self, unit: Unit, folder: RunFolder) -> None:
        """Do one unit, from where a killed run left it, and write its files."""
        start = time.monotonic()
        table = self.table(unit.task)
        job = self.job(unit, table, folder)
        with stage("the track's own work"):
            outcome = method_for(unit, self.model.info, self.suite)(job)
        path = folder.predictions(unit)
        with stage("writing"):
            write_predictions(path, outcome.predictions)
            # Scored as read back, so that what is claimed is exactly what the file gives.
            stored = read_predictions(path, unit.task)
        with stage("metrics and intervals"):
            scores = score(unit.task, stored, self._frozen_rows(unit.task))
        with stage("writing"):
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
                "scores": scores,
                "recipe_outcome": dict(outcome.chosen),
                "cost": {
                    "wall_seconds": round(time.monotonic() - start, 3),
                    "images": job.cache.embedded if job.cache else 0,
                    "training": outcome.training,
                },
            })  # fmt: skip
            folder.clear_scratch(unit)

    def _frozen_rows(self, task: Task) -> Keyed | None:
        """The test samples' rows of the manifest by id, made once; None where that is pending."""
        if task.pending:
            return None
        if task.id not in self._frozen:
            test = replace(self.table(task), samples=self.table(task).split("test"))
            rows = manifest_rows(test, {sample.id: sample.leaks for sample in test.samples})
            self._frozen[task.id] = Keyed(Rows.of(rows).by_id())
        return self._frozen[task.id]

    def job(self, unit: Unit, table: TaskTable, folder: RunFolder) -> Job:
        """What a unit's method gets."""
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
        key, folder = [*self.model.info.revisions], self.data.cache / "features"
        if (numerics := self._numerics) not in (EXACT, None):
            key.append(str(numerics))
        return FeatureCache(folder, encoder, key, self.batch_size, self.data.progress, store=self._store)

    @property
    def _numerics(self) -> Numerics | None:
        """How an encoder computes; None for what is no encoder of ours."""
        return getattr(self.model.predictor, "numerics", None)

    def _computed(self) -> dict[str, str]:
        return self._numerics.to_text() if self._numerics else {}

    @cached_property
    def _store(self) -> PixelStore:
        return PixelStore(self.data.cache / "pixels", cast(ImageEncoder, self.model.predictor))

    def _write_result(self, folder: RunFolder) -> Path:
        path = folder.path / "result.json"
        write_json(path, {
            "schema_version": 1,
            "vlmed_version": __version__,
            "suite": self.suite.version,
            "model": self.model.info.to_json(),
            "units": folder.outcomes(),
            "environment": environment() | self._computed() | self.executor.environment(),
        })  # fmt: skip
        return path


def environment() -> dict[str, str]:
    """Versions and hardware, as text, for the result."""
    packages = ("torch", "transformers", "open_clip_torch", "peft", "numpy", "pyarrow", "pillow")
    versions = {name: metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "platform": platform.platform(), **versions}
