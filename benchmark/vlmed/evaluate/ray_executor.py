"""Units and shards on the workers of a Ray cluster: handed out, gathered and brought to where they are needed.

This process alone writes the run. It keeps what workers did for one another, so that whichever dies, nothing is lost.
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from vlmed.errors import VlmedError
from vlmed.evaluate.ray_crew import PATIENCE, Crew, Lost, Member, Share, connected
from vlmed.evaluate.ray_worker import PIECE, Done, Files, RunnerOf, absent, put, run_folder
from vlmed.evaluate.run import Runner
from vlmed.evaluate.shards import SHARD
from vlmed.evaluate.unit_queue import UnitQueue, Work
from vlmed.evaluate.units import RunFolder, Unit
from vlmed.files import new_file
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
        run, self._cache = _name(folder), runner.data.cache
        width = max(1, self._shard // runner.batch_size) * runner.batch_size
        queue = UnitQueue(units, [runner.table(unit.task) for unit in units], runner.model, width)
        with runner.data.progress.task("evaluating on Ray", queue.left, "units and shards") as advance:
            while queue.left:
                self._hand_out(queue, run)
                for work, done in self._finished(queue, folder):
                    queue.done(work)
                    advance(1)
                    if isinstance(work, Unit):
                        yield work, f"done in {done.seconds:.1f} s on {done.node}, {done.device}"
        self._crew.part(run)
        shutil.rmtree(self._cache / run_folder(run), ignore_errors=True)

    def _hand_out(self, queue: UnitQueue, run: str) -> None:
        self._crew.hire(queue.left)
        while (free := self._crew.free()) and (work := queue.take()):
            try:
                if isinstance(work, Unit):
                    self._supply(free[0], [work.id, *queue.needs(work)])
                self._crew.give(free[0], run, work)
            except Lost:
                self._crew.dismiss(free[0])
                queue.put_back(work)

    def _supply(self, member: Member, names: Iterable[str]) -> None:
        """Bring a worker what others did for a unit, as far as its node lacks it.

        Raises:
            Lost: The worker is lost.
        """
        wanted = {file: size for name in names for file, size in self._shared.get(name, {}).items()}
        for name in self._crew.get(member.actor.lacks.remote(wanted)) if wanted else ():
            # A unit that is done again may have used up what lay in a shared folder; then the whole is there.
            with suppress(FileNotFoundError), (self._cache / name).open("rb") as file:
                for start in range(0, wanted[name], PIECE):
                    last = start + PIECE >= wanted[name]
                    self._crew.get(member.actor.put.remote(name, start, file.read(PIECE), last))

    def _finished(self, queue: UnitQueue, folder: RunFolder) -> Iterator[tuple[Work, Done]]:
        """Units and shards whose files are here now; those that were lost wait in the queue again."""
        for member, answer in self._crew.answers():
            if (work := member.work) is None:
                self._crew.started(answer)
                continue
            member.work = None
            try:
                yield work, self._gathered(member, work, answer, folder)
            except Lost as lost:
                self._count(work, lost)
                queue.put_back(work)

    def _gathered(self, member: Member, work: Work, answer: Done | Lost, folder: RunFolder) -> Done:
        """Bring a worker's files here, a piece at a time.

        Raises:
            Lost: The worker is lost, or its files are.
        """
        if isinstance(answer, Lost):
            raise answer
        try:
            for files in answer.shared.values():
                self._fetch_shared(member, files)
            if isinstance(work, Unit):
                self._fetch_unit(member, work, answer.files, folder)
        except Lost:
            self._crew.dismiss(member)
            raise
        # Not before: a unit that is done again embeds again, so that it costs what it says.
        for name, files in answer.shared.items():
            self._shared[name] |= files
        self._spent[answer.device].append(answer.seconds)
        return answer

    def _fetch_shared(self, member: Member, files: Files) -> None:
        for name in absent(self._cache, files):
            for start, piece in self._pieces(member, name, files[name]):
                put(self._cache / name, start, piece, last=start + len(piece) >= files[name])

    def _fetch_unit(self, member: Member, unit: Unit, files: Files, folder: RunFolder) -> None:
        """What makes the unit a finished one comes last."""
        shutil.rmtree(folder.weights(unit), ignore_errors=True)
        for name, size in files.items():
            with new_file(folder.path / Path(*Path(name).parts[2:])) as part, part.open("wb") as file:
                for _, piece in self._pieces(member, name, size):
                    file.write(piece)
        if not folder.finished(unit):
            raise Lost("the files that came are not those that the worker wrote")
        member.actor.forget.remote(unit)
        for name in self._shared.pop(unit.id, {}):
            (self._cache / name).unlink(missing_ok=True)

    def _pieces(self, member: Member, name: str, size: int) -> Iterator[tuple[int, bytes]]:
        for start in range(0, size, PIECE):
            yield start, self._crew.get(member.actor.piece.remote(name, start))

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
