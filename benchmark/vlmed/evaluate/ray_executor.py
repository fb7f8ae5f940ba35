"""Units and shards on the workers of a Ray cluster: handed out, gathered and brought to where they are needed.

This process alone writes the run. It keeps what workers did for one another, so that whichever dies, nothing is lost.
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from vlmed.errors import VlmedError
from vlmed.evaluate.ray_crew import PATIENCE, Crew, Lost, Member, Share, connected
from vlmed.evaluate.ray_files import Far, Files, Folder, copy
from vlmed.evaluate.ray_worker import Done, RunnerOf, run_folder
from vlmed.evaluate.run import Runner
from vlmed.evaluate.shards import SHARD
from vlmed.evaluate.unit_queue import UnitQueue, Work
from vlmed.evaluate.units import RunFolder, Unit
from vlmed.hashing import digest
from vlmed.models.protocols import LoadedModel

# How often what a unit under way could go on from is brought here, in seconds.
KEEP = 300.0


class RayExecutor:
    """Does units on workers that keep the model loaded. A unit whose worker or node is lost is done again.

    Use it as a context: its workers end with the block.

    Args:
        load: Loads the model; called on every worker.
        runner_of: The model -> what does units with it, on a worker.
        address: HOST:PORT of the cluster; None takes `RAY_ADDRESS`, else starts Ray on this machine.
        share: What one worker takes.
        shard: Images that a worker embeds for another at once; larger sets are cut.

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
        shard: int = SHARD,
    ) -> None:
        self._ray = connected(address)
        self._runner_of, self._shard = runner_of, shard
        self._crew = Crew(self._ray, load, runner_of, share or Share())
        self._spent: defaultdict[str, list[float]] = defaultdict(list)
        self._lost: Counter[str] = Counter()
        # What lies in this process's cache folder for workers to take from; on a shared one, they have it already.
        self._shared: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._kept: defaultdict[str, Files] = defaultdict(dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._crew.scatter()

    def runner(self, units: int = 1) -> Runner:
        """What runs units on the workers. The model itself is loaded on them alone: this process need not hold it.

        Args:
            units: How many there will be to do, as far as is known: so many workers load the model at once.

        Raises:
            UsageError: No node has room for a worker.
            VlmedError: As `load`, on a worker.
        """
        while self._crew.model is None:
            self._crew.hire(units)
            for _, told in self._crew.answers():
                self._crew.started(told)
        return replace(self._runner_of(self._crew.model), executor=self)

    def environment(self) -> dict[str, str]:
        """See `Executor.environment`."""
        devices = "; ".join(
            f"{len(seconds)} units and shards in {sum(seconds):.0f} s on {device}"
            for device, seconds in sorted(self._spent.items())
        )
        return {"executor": f"ray {self._ray.__version__}", **({"devices": devices[:500]} if devices else {})}

    def execute(self, runner: Runner, units: Sequence[Unit], folder: RunFolder) -> Iterator[tuple[Unit, str]]:
        """See `Executor.execute`."""
        run, self._cache = _name(folder), Folder(runner.data.cache)
        width = max(1, self._shard // runner.batch_size) * runner.batch_size
        queue = UnitQueue(units, [runner.table(unit.task) for unit in units], runner.model, width)
        with runner.data.progress.task("evaluating on Ray", queue.left, "units and shards") as advance:
            while queue.left:
                self._hand_out(queue, run)
                for work, done in self._finished(queue, folder, run):
                    queue.done(work)
                    advance(1)
                    if isinstance(work, Unit):
                        yield work, f"done in {done.seconds:.1f} s on {done.node}, {done.device}"
                self._keep(run)
        self._crew.part(run)
        shutil.rmtree(self._cache.path / run_folder(run), ignore_errors=True)

    def _hand_out(self, queue: UnitQueue, run: str) -> None:
        self._crew.hire(queue.left)
        while (free := self._crew.free()) and (work := queue.take()):
            try:
                if isinstance(work, Unit):
                    self._supply(free[0], work, queue)
                self._crew.give(free[0], run, work)
            except Lost:
                self._crew.dismiss(free[0])
                queue.put_back(work)

    def _supply(self, member: Member, unit: Unit, queue: UnitQueue) -> None:
        """Bring a worker what others did for a unit, as far as its node lacks it.

        Raises:
            Lost: The worker is lost.
        """
        known = [self._kept[unit.id], *(self._shared[name] for name in (unit.id, *queue.needs(unit)))]
        far, wanted = self._far(member), {name: size for files in known for name, size in files.items()}
        for name, size in far.lacks(wanted).items() if wanted else ():
            # A unit that is done again may have used up what lay in a shared folder; then the whole is there.
            with suppress(FileNotFoundError):
                copy({name: size}, self._cache, far)

    def _keep(self, run: str) -> None:
        """Bring here what units under way can go on from, for whoever takes over from a worker that is lost."""
        for member, unit in self._crew.due(KEEP):
            with suppress(Lost):
                files = self._crew.get(member.actor.checkpoints.remote(run, unit))
                copy(self._cache.lacks(files), self._far(member), self._cache)
                old, self._kept[unit.id] = self._kept[unit.id], files
                self._remove(old.keys() - files.keys())

    def _finished(self, queue: UnitQueue, folder: RunFolder, run: str) -> Iterator[tuple[Work, Done]]:
        """Units and shards whose files are here now; those that were lost wait in the queue again."""
        for member, answer in self._crew.answers():
            work, member.work = member.work, None
            if work is None:
                self._crew.started(answer)
                continue
            # First of all, so that no worker waits while files are brought here.
            self._hand_out(queue, run)
            try:
                yield work, self._gathered(member, work, answer, folder)
            except Lost as lost:
                self._count(work, lost)
                for each in (member.work, work):
                    if each:
                        queue.put_back(each)

    def _gathered(self, member: Member, work: Work, answer: Done | Lost, folder: RunFolder) -> Done:
        """Bring a worker's files here.

        Raises:
            Lost: The worker is lost, or its files are.
        """
        if isinstance(answer, Lost):
            raise answer
        try:
            for files in answer.shared.values():
                copy(self._cache.lacks(files), self._far(member), self._cache)
            if isinstance(work, Unit):
                self._fetch(member, work, answer.files, folder)
        except Lost:
            self._crew.dismiss(member)
            raise
        # Not before: a unit that is done again embeds again, so that it costs what it says.
        for name, files in answer.shared.items():
            self._shared[name] |= files
        self._spent[answer.device].append(answer.seconds)
        return answer

    def _fetch(self, member: Member, unit: Unit, files: Files, folder: RunFolder) -> None:
        """What makes the unit a finished one comes last."""
        shutil.rmtree(folder.weights(unit), ignore_errors=True)
        copy(files, self._far(member), Folder(folder.path, within=run_folder(_name(folder))))
        if not folder.finished(unit):
            raise Lost("the files that came are not those that the worker wrote")
        member.actor.forget.remote(unit)
        self._remove([*self._shared.pop(unit.id, {}), *self._kept.pop(unit.id, {})])

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._cache.file(name).unlink(missing_ok=True)

    def _far(self, member: Member) -> Far:
        return Far(member.actor, self._crew.get)

    def _count(self, work: Work, lost: Lost) -> None:
        self._lost[work.id] += 1
        if self._lost[work.id] >= PATIENCE:
            hint = (
                "look into Ray's logs; does the unit fit into the memory of a worker's share? Finished units are kept"
            )
            raise VlmedError(f"{work.id}: its worker was lost {PATIENCE} times", got=str(lost), hint=hint)


def _name(folder: RunFolder) -> str:
    """The run's own name, the same when it is resumed and another when its folder is made anew."""
    made = (folder.path / "run.json").stat().st_mtime_ns
    return digest([str(folder.path.resolve()), str(made)])[:32]
