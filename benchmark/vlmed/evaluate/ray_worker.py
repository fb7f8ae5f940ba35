"""A worker of the Ray executor: keeps one model loaded, does units, and hands their files over in pieces."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from vlmed.errors import VlmedError
from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, Unit
from vlmed.models.numerics import Numerics
from vlmed.models.protocols import LoadedModel

# What one answer of a worker may put into Ray's object store.
PIECE = 8 * 2**20

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
    """A finished unit on a worker.

    Attributes:
        files: Name in the run folder -> bytes; the unit's outcome, which makes it a finished one, comes last.
        node, device: Where it was done.
    """

    files: Mapping[str, int]
    node: str
    device: str


class Worker:
    """Runs in a process of its own, as a Ray actor. Nothing here knows Ray.

    A unit under way is kept in the cache folder of the worker's node, so that another worker there goes on from it.

    Args:
        load: Loads the model.
        runner_of: The model -> what does units with it.
        settings: Environment variables of the driver; what the node itself has set goes before.
    """

    def __init__(self, load: Callable[[], LoadedModel], runner_of: RunnerOf, settings: Mapping[str, str]) -> None:
        for name, value in settings.items():
            os.environ.setdefault(name, value)
        self._load, self._runner_of = load, runner_of

    def start(self) -> LoadedModel:
        """Load the model; tells what was loaded, with `Elsewhere` in the place of its predictor.

        Raises:
            VlmedError: As `load_model`; names the node.
        """
        with _named("the model's files must be there for every node: name it by hf:, or put it on a shared path"):
            self._runner = self._runner_of(self._load())
        model = self._runner.model
        return replace(model, predictor=cast(Any, Elsewhere(getattr(model.predictor, "numerics", None))))

    def do(self, run: str, unit: Unit) -> Done:
        """Do a unit, or go on with it, and keep its files until `forget`.

        Args:
            run: The run's own name; its units under way lie in a folder of this name.

        Raises:
            VlmedError: As `Runner.do`; names the node.
        """
        self._folder = RunFolder(self._runner.data.cache / "ray" / run)
        with _named("every node needs the data: a shared --data-root, or VLMED_DATA"), _alone(self._lock(unit)):
            if not self._folder.finished(unit):
                self._runner.do(unit, self._folder)
        return Done(self._files(unit), platform.node(), _device())

    def piece(self, name: str, start: int) -> bytes:
        """At most `PIECE` bytes of a finished unit's file."""
        with (self._folder.path / name).open("rb") as file:
            file.seek(start)
            return file.read(PIECE)

    def forget(self, unit: Unit) -> None:
        """Remove the files of a unit that has been handed over."""
        for path in (self._folder.predictions(unit), self._folder.outcome(unit), self._folder.log(unit)):
            path.unlink(missing_ok=True)
        shutil.rmtree(self._folder.weights(unit), ignore_errors=True)

    def leave(self) -> None:
        """Remove all that this run left on the node."""
        shutil.rmtree(self._folder.path, ignore_errors=True)

    def _lock(self, unit: Unit) -> Path:
        return self._folder.path / "locks" / unit.id

    def _files(self, unit: Unit) -> dict[str, int]:
        folder = self._folder
        kept = sorted(path for path in folder.weights(unit).rglob("*") if path.is_file())
        paths = [*kept, folder.log(unit), folder.predictions(unit), folder.outcome(unit)]
        return {path.relative_to(folder.path).as_posix(): path.stat().st_size for path in paths if path.exists()}


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
