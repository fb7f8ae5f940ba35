"""A run by several processes that `torchrun` or `accelerate launch` started: together they tune large generators.

The first process leads: it does the run as one alone would, and alone writes and speaks. The others hold the model too,
wait until the leader comes to a unit that is tuned by all, and take their part of its training.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vlmed.errors import UsageError, VlmedError
from vlmed.evaluate.units import RunFolder, Unit

if TYPE_CHECKING:
    from vlmed.evaluate.run import Runner
    from vlmed.tuning.parallel import World

# torch is imported in functions alone, so that a typing error is answered at once.

_Result = TypeVar("_Result")

# For as long may the leader answer a test while the others wait; the launcher ends all when one is lost.
_PATIENCE = timedelta(days=30)


class Ranks:
    """The processes of one launch, seen from one of them; the others of them are silent from here on.

    Use it as a context around all that the run does: an error is told by one process, the first that meets one.
    """

    def __init__(self) -> None:
        self.rank, self.local, self.size = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"))
        )
        self._store: Any = None
        self._voice = _Voice()
        if self.rank:
            self._voice.off()

    @property
    def together(self) -> bool:
        """Whether there are several."""
        return self.size > 1

    def device(self, name: str) -> str:
        """The device of this process: `cuda` is another GPU for each process of a machine.

        Raises:
            UsageError: A single GPU is named for all.
        """
        if not self.together or not name.startswith("cuda"):
            return name
        if name != "cuda":
            raise UsageError("each process takes a GPU of its own", expected="--device cuda", got=name)
        return f"cuda:{self.local}"

    def __enter__(self) -> Ranks:
        if self.together:
            self._join()
        return self

    def _join(self) -> None:
        from torch import distributed
        from torch.distributed.rendezvous import rendezvous

        try:
            self._store, rank, size = next(rendezvous("env://"))
            distributed.init_process_group(store=self._store, rank=rank, world_size=size, timeout=_PATIENCE)
        except (RuntimeError, ValueError) as error:
            hint = "start with torchrun or accelerate launch; without them, unset RANK and WORLD_SIZE"
            raise VlmedError(
                "the processes of this run did not find one another", got=str(error)[:200], hint=hint
            ) from error

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._store is None:
            return
        from torch import distributed

        if kind is None:
            distributed.destroy_process_group()
        elif self._first_to_fail():
            self._voice.on()
        else:
            self._voice.off()

    def _first_to_fail(self) -> bool:
        try:
            return bool(self._store.add("failed", 1) == 1)
        except RuntimeError:
            # Whoever kept the store is gone, and has told why.
            return False

    def in_turn(self, load: Callable[[], _Result]) -> _Result:
        """What `load` gives. On each machine the first process goes first, so that files are fetched once."""
        if self.together and self.local:
            self._world.gather(None)
        loaded = load()
        if self.together and not self.local:
            self._world.gather(None)
        return loaded

    def take_part(self, runner: Runner, units: Sequence[Unit], folder: RunFolder) -> Runner | None:
        """A runner that leads the other processes; in those None, once they have done their part of these units."""
        if not self.together:
            return runner
        if self.rank == 0:
            return replace(runner, executor=_Leader(self._world))
        named = {unit.id: unit for unit in units}
        while unit := self._world.first(""):
            _assist(runner, named[unit], folder)
        return None

    @property
    def _world(self) -> World:
        from vlmed.tuning.parallel import world

        return world()


def _assist(runner: Runner, unit: Unit, folder: RunFolder) -> None:
    from vlmed.evaluate.tuned_generator import tuned_on

    # The leader has the same weights, and answers the test.
    tuned_on(runner.job(unit, runner.table(unit.task), folder)).undo()


@dataclass(frozen=True)
class _Leader:
    """Does the units here, in their order, and calls the other processes to those that all tune."""

    world: World

    def execute(self, runner: Runner, units: Sequence[Unit], folder: RunFolder) -> Iterator[tuple[Unit, str]]:
        """See `Executor.execute`."""
        for unit in units:
            shared = unit.track.method == "sft" and runner.model.info.kind == "generator"
            if shared:
                self.world.first(unit.id)
            runner.do(unit, folder)
            yield unit, f"done by {self.world.size} processes" if shared else "done by the first process alone"
        self.world.first("")

    def environment(self) -> dict[str, str]:
        """See `Executor.environment`."""
        return {"executor": "torch.distributed", "processes": str(self.world.size)}


class _Voice:
    """Standard output and error of this process and its libraries, which can be switched off and on."""

    def __init__(self) -> None:
        self._kept: dict[int, int] = {}

    def off(self) -> None:
        """Say nothing from here on."""
        _flush()
        for stream in (1, 2) if not self._kept else ():
            self._kept[stream] = os.dup(stream)
            with Path(os.devnull).open("w") as nothing:
                os.dup2(nothing.fileno(), stream)

    def on(self) -> None:
        """Say again what there is to say."""
        _flush()
        for stream, kept in self._kept.items():
            os.dup2(kept, stream)
            os.close(kept)
        self._kept = {}


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
