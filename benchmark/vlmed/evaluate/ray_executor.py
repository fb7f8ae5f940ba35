"""Units on the workers of a Ray cluster. This process hands them out, gathers their files and alone writes the run."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from vlmed.errors import VlmedError
from vlmed.evaluate.ray_crew import PATIENCE, Crew, Lost, Member, Share, connected
from vlmed.evaluate.ray_worker import PIECE, Done, RunnerOf
from vlmed.evaluate.run import Runner
from vlmed.evaluate.unit_queue import UnitQueue
from vlmed.evaluate.units import RunFolder, Unit
from vlmed.files import new_file, read_json
from vlmed.hashing import digest
from vlmed.models.protocols import LoadedModel


class RayExecutor:
    """Does units on workers that keep the model loaded. A unit whose worker or node is lost is done again.

    Use it as a context: its workers end with the block.

    Args:
        load: Loads the model; called on every worker.
        runner_of: The model -> what does units with it, on a worker.
        address: HOST:PORT of the cluster; None takes `RAY_ADDRESS`, else starts Ray on this machine.
        share: What one worker takes.

    Raises:
        MissingError: Ray is not installed.
        UsageError: Nobody answers at the address.
    """

    def __init__(
        self,
        load: Callable[[], LoadedModel],
        runner_of: RunnerOf,
        address: str | None = None,
        share: Share | None = None,
    ) -> None:
        self._ray = connected(address)
        self._runner_of = runner_of
        self._crew = Crew(self._ray, load, runner_of, share or Share())
        self._spent: defaultdict[str, list[float]] = defaultdict(list)
        self._lost: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._crew.scatter()

    def runner(self) -> Runner:
        """What runs units on the workers. The model itself is loaded on them alone: this process need not hold it.

        Raises:
            UsageError: No node has room for a worker.
            VlmedError: As `load`, on a worker.
        """
        while self._crew.model is None:
            self._crew.hire(1)
            for _, told in self._crew.answers():
                self._crew.started(told)
        return replace(self._runner_of(self._crew.model), executor=self)

    def environment(self) -> dict[str, str]:
        """See `Executor.environment`."""
        devices = "; ".join(
            f"{len(seconds)} units in {sum(seconds):.0f} s on {device}"
            for device, seconds in sorted(self._spent.items())
        )
        return {"executor": f"ray {self._ray.__version__}", **({"devices": devices[:500]} if devices else {})}

    def execute(self, runner: Runner, units: Sequence[Unit], folder: RunFolder) -> Iterator[tuple[Unit, str]]:
        """See `Executor.execute`."""
        queue = UnitQueue(units, [runner.table(unit.task) for unit in units], runner.model.info.kind)
        left, run = len(units), _name(folder)
        with runner.data.progress.task("evaluating on Ray", left, "units") as advance:
            while left:
                self._hand_out(queue, run, left)
                for unit, done in self._finished(queue, folder):
                    queue.done(unit)
                    left -= 1
                    advance(1)
                    yield unit, f"done in {self._spent[done.device][-1]:.1f} s on {done.node}, {done.device}"
        self._crew.part()

    def _hand_out(self, queue: UnitQueue, run: str, left: int) -> None:
        self._crew.hire(left)
        for member in self._crew.free():
            if unit := queue.take():
                self._crew.give(member, run, unit)

    def _finished(self, queue: UnitQueue, folder: RunFolder) -> Iterator[tuple[Unit, Done]]:
        """Units whose files stand in the folder now; those that were lost wait in the queue again."""
        for member, answer in self._crew.answers():
            if (unit := member.unit) is None:
                self._crew.started(answer)
                continue
            member.unit = None
            try:
                yield unit, self._gathered(member, unit, answer, folder)
            except Lost as lost:
                self._count(unit, lost)
                queue.put_back(unit)

    def _gathered(self, member: Member, unit: Unit, answer: Done | Lost, folder: RunFolder) -> Done:
        """Bring a unit's files here, a piece at a time; what makes the unit a finished one comes last.

        Raises:
            Lost: The worker is lost, or its files are.
        """
        if isinstance(answer, Lost):
            raise answer
        shutil.rmtree(folder.weights(unit), ignore_errors=True)
        try:
            for name, size in answer.files.items():
                with new_file(folder.path / name) as part, part.open("wb") as file:
                    for start in range(0, size, PIECE):
                        file.write(self._crew.get(member.actor.piece.remote(name, start)))
        except Lost:
            self._crew.dismiss(member)
            raise
        if not folder.finished(unit):
            raise Lost("the files that came are not those that the worker wrote")
        member.actor.forget.remote(unit)
        self._spent[answer.device].append(read_json(folder.outcome(unit))["cost"]["wall_seconds"])
        return answer

    def _count(self, unit: Unit, lost: Lost) -> None:
        self._lost[unit.id] += 1
        if self._lost[unit.id] >= PATIENCE:
            hint = (
                "look into Ray's logs; does the unit fit into the memory of a worker's share? Finished units are kept"
            )
            raise VlmedError(f"{unit.id}: its worker was lost {PATIENCE} times", got=str(lost), hint=hint)


def _name(folder: RunFolder) -> str:
    """The run's own name, the same when it is resumed and another when its folder is made anew."""
    made = (folder.path / "run.json").stat().st_mtime_ns
    return digest([str(folder.path.resolve()), str(made)])[:32]
