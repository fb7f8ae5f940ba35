"""A worker of the Ray executor: keeps one model loaded, and does units and shards."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from vlmed.errors import VlmedError
from vlmed.evaluate.methods import method_for
from vlmed.evaluate.ray_files import Files, Folder
from vlmed.evaluate.run import Runner
from vlmed.evaluate.shards import PartJob, Shard, image_sets
from vlmed.evaluate.unit_queue import Work
from vlmed.evaluate.units import RunFolder, Unit
from vlmed.hashing import digest
from vlmed.models.numerics import Numerics
from vlmed.models.protocols import LoadedModel
from vlmed.process import keep_memory

RunnerOf = Callable[[LoadedModel], Runner]


@dataclass(frozen=True)
class Elsewhere:
    """Stands where a predictor would, in the process that watches workers: they alone hold the model.

    Attributes:
        numerics: How it computes, for the result; None for what is no encoder of ours.
    """

    numerics: Numerics | None = None


@dataclass(frozen=True)
class Done:
    """A finished unit or shard on a worker.

    Attributes:
        files: Files of the run folder, which lie in `run_folder`; the outcome, which makes a unit a finished one, comes
            last.
        shared: What later units take from: the name of a set of images -> the file with its features, and the name of
            a unit -> what a shard did of it.
        node, device: Where it was done.
        seconds: What it took.
    """

    files: Files
    shared: Mapping[str, Files]
    node: str
    device: str
    seconds: float


def run_folder(run: str) -> str:
    """The name, in the cache folder, of a worker's run folder."""
    return f"ray/{run}"


class Worker(Folder):
    """Runs in a process of its own, as a Ray actor, and serves the files of its cache folder. Nothing here knows Ray.

    A unit under way is kept in the cache folder of the worker's node, so that another worker there goes on from it; for
    one elsewhere there is `checkpoints`, which like all that serves files may be called while a unit is done.

    Args:
        load: Loads the model.
        runner_of: The model -> what does units with it.
        settings: Environment variables of the driver; what the node itself has set goes before.
    """

    def __init__(self, load: Callable[[], LoadedModel], runner_of: RunnerOf, settings: Mapping[str, str]) -> None:
        keep_memory()
        for name, value in settings.items():
            os.environ.setdefault(name, value)
        self._load, self._runner_of = load, runner_of
        self._ranges: list[Path] = []

    def start(self) -> LoadedModel:
        """Load the model; tells what was loaded, with `Elsewhere` in the place of its predictor.

        Raises:
            VlmedError: As `load_model`; names the node.
        """
        with _named("the model's files must be there for every node: name it by hf:, or put it on a shared path"):
            self._runner = self._runner_of(self._load())
        super().__init__(self._runner.data.cache)
        model = self._runner.model
        return replace(model, predictor=cast(Any, Elsewhere(getattr(model.predictor, "numerics", None))))

    def do(self, run: str, work: Work) -> Done:
        """Do a unit or a shard, or go on with it, and keep its files until `forget`.

        Args:
            run: The run's own name; what is under way lies in a folder of this name.

        Raises:
            VlmedError: As `Runner.do`; names the node.
        """
        start = time.monotonic()
        self._folder = RunFolder(self.path / run_folder(run))
        with _named("every node needs the data: a shared --data-root, or VLMED_DATA"), _alone(self._lock(work)):
            files, shared = self._shard_done(work) if isinstance(work, Shard) else self._unit_done(work)
        return Done(files, shared, platform.node(), _device(), time.monotonic() - start)

    def _unit_done(self, unit: Unit) -> tuple[Files, Mapping[str, Files]]:
        folder = self._folder
        if not folder.finished(unit):
            self._take_up(unit)
            self._runner.do(unit, folder)
        kept = sorted(path for path in folder.weights(unit).rglob("*") if path.is_file())
        paths = [*kept, folder.log(unit), folder.predictions(unit), folder.outcome(unit)]
        return self.sizes(paths), {name: self.sizes([path]) for name, path in self._features(unit)}

    def _features(self, unit: Unit) -> Iterator[tuple[str, Path]]:
        """The sets of images whose features the unit takes, each with its file."""
        if cache := self._runner.cache():
            for images in image_sets(unit, self._runner.table(unit.task), self._runner.model).values():
                yield digest(images), cache.file(images)

    def _shard_done(self, shard: Shard) -> tuple[Files, Mapping[str, Files]]:
        runner, unit = self._runner, shard.unit
        table, dataset = runner.table(unit.task), runner.data.dataset(unit.task.dataset)
        if cache := runner.cache():
            images = image_sets(unit, table, runner.model)[shard.split]
            if cache.holds(images):
                return {}, {digest(images): self.sizes([cache.file(images)])}
            path = cache.embed_range(dataset, images, shard.start, shard.stop)
            self._ranges.append(path)
            return {}, {unit.id: self.sizes([path])}
        scratch = self._folder.scratch(unit) / f"{shard.start}-{shard.stop}"
        job = PartJob(unit, table, runner.model, dataset, None, scratch, self._folder.log(unit), None,
                      runner.data.progress, runner.batch_size, slice(shard.start, shard.stop))  # fmt: skip
        method_for(unit, runner.model.info, runner.suite)(job)
        return {}, {unit.id: self.sizes(scratch.iterdir())}

    def put(self, name: str, start: int, piece: bytes, last: bool) -> None:
        """See `Folder.put`; an error names the node."""
        with _named("make room on this node"):
            super().put(name, start, piece, last)

    def checkpoints(self, run: str, unit: Unit) -> Files:
        """What another worker would go on from, if this one, which does the unit, were lost now.

        They are links, so that a file that is replaced meanwhile still comes whole; each name says when it was written.
        """
        folder, links = RunFolder(self.path / run_folder(run)), set[Path]()
        for path in folder.scratch(unit).glob("[!.]*"):
            # A unit that ends right now needs none; where a disk knows no links, there are none.
            with suppress(OSError):
                link = _kept(folder, unit) / str(path.stat().st_mtime_ns) / path.name
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():
                    link.hardlink_to(path)
                links.add(link)
        for old in set(_kept(folder, unit).glob("*/*")) - links:
            old.unlink(missing_ok=True)
        return self.sizes(links)

    def _take_up(self, unit: Unit) -> None:
        """Go on where another worker was lost; what this node itself has of the unit goes before."""
        scratch = self._folder.scratch(unit)
        for path in sorted(_kept(self._folder, unit).glob("*/*"), reverse=True):
            if not (scratch / path.name).exists():
                scratch.mkdir(parents=True, exist_ok=True)
                path.replace(scratch / path.name)

    def forget(self, unit: Unit) -> None:
        """Remove the files of a unit that has been handed over."""
        for path in (self._folder.predictions(unit), self._folder.outcome(unit), self._folder.log(unit)):
            path.unlink(missing_ok=True)
        for folder in (self._folder.weights(unit), _kept(self._folder, unit)):
            shutil.rmtree(folder, ignore_errors=True)

    def leave(self, run: str) -> None:
        """Remove all that a run left on the node; whole sets of features stay."""
        for path in self._ranges:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.path / run_folder(run), ignore_errors=True)

    def _lock(self, work: Work) -> Path:
        return self._folder.path / "locks" / work.id


def _kept(folder: RunFolder, unit: Unit) -> Path:
    """Where copies of a unit's checkpoints lie."""
    return folder.path / "kept" / unit.id


def _device() -> str:
    import torch

    # A worker sees its own share of the node's GPUs alone.
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process of the node is in such a block: a worker given up for lost may still be at it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _named(hint: str) -> Iterator[None]:
    """Errors on this node say so, with a hint where they have none."""
    try:
        yield
    except VlmedError as error:
        node = platform.node()
        raise type(error)([
            replace(problem, what=f"on node {node}: {problem.what}", hint=problem.hint or hint)
            for problem in error.problems
        ]) from error  # fmt: skip
