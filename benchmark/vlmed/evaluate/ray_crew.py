"""The workers of the Ray executor: hired where there is room, watched, and replaced when they are lost."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vlmed.errors import InputError, MissingError, UsageError, VlmedError
from vlmed.evaluate.ray_worker import RunnerOf, Worker
from vlmed.evaluate.unit_queue import Work
from vlmed.evaluate.units import Unit
from vlmed.models.protocols import LoadedModel

# Told to workers whose node has not set them itself. Keys and tokens are never sent.
_SETTINGS = ("VLMED_DATA", "VLMED_CACHE", "HF_HOME", "HF_HUB_OFFLINE")
# How often a crew looks for new nodes, in seconds.
_LOOK = 2.0
# A worker that is lost so often in one place is no victim of chance.
PATIENCE = 5


@dataclass(frozen=True)
class Share:
    """What one worker takes of a node.

    Attributes:
        cpus: Cores, above 0; where OMP_NUM_THREADS is not set, also the threads of torch.
        gpus: GPUs; a fraction lets several workers share one.
        workers: How many there are at most; None takes as many as have room.
    """

    cpus: float = 1
    gpus: float = 0
    workers: int | None = None

    def room(self, resources: dict[str, float]) -> int:
        """How many workers a node with these resources has room for."""
        by_kind = ((resources.get("CPU", 0), self.cpus), (resources.get("GPU", 0), self.gpus))
        return min(int(there / needed + 1e-9) for there, needed in by_kind if needed)


class Lost(Exception):  # noqa: N818
    """A worker, its node, or what it had to give is gone."""


@dataclass(eq=False)
class Member:
    """A worker, and what it is at.

    Attributes:
        call: The answer it owes; None where it is free.
        work: What the answer is about; None while the model loads.
        since: When it began with it, or was last asked what it can go on from.
    """

    actor: Any
    call: Any
    work: Work | None = None
    since: float = 0.0


class Crew:
    """Workers with one model loaded.

    Attributes:
        model: What the first worker loaded, as it told; None before.
    """

    def __init__(self, ray: Any, load: Callable[[], LoadedModel], runner_of: RunnerOf, share: Share) -> None:
        self._ray, self._load, self._runner_of, self._share = ray, load, runner_of, share
        self._settings = {name: os.environ[name] for name in _SETTINGS if name in os.environ}
        self._members: list[Member] = []
        self._stillborn = 0
        self.model: LoadedModel | None = None

    def hire(self, wanted: int) -> None:
        """Start workers until there are as many as are wanted and have room.

        Raises:
            UsageError: Not one node has room for a worker.
        """
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        room = sum(self._share.room(resources) for resources in nodes)
        if not room and not self._members and not self.model:
            needed = f"a node with {self._share.cpus:g} CPUs and {self._share.gpus:g} GPUs"
            got = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
            hint = "see --worker-cpus, --worker-gpus and --device"
            raise UsageError("no node has room for a worker", expected=needed, got=got or "no node", hint=hint)
        for _ in range(min(wanted, room, self._share.workers or room) - len(self._members)):
            self._members.append(self._hired())

    def _hired(self) -> Member:
        # The second call at once is for files, which are asked for while a unit is done.
        options = {
            "num_cpus": self._share.cpus,
            "num_gpus": self._share.gpus,
            "max_restarts": 0,
            "max_concurrency": 2,
        }
        actor = self._ray.remote(Worker).options(**options).remote(self._load, self._runner_of, self._settings)
        return Member(actor, actor.start.remote())

    def free(self) -> list[Member]:
        """Workers that wait for work."""
        return [member for member in self._members if member.call is None]

    def give(self, member: Member, run: str, work: Work) -> None:
        """Let a worker do a unit or a shard."""
        member.work, member.call, member.since = work, member.actor.do.remote(run, work), time.monotonic()

    def due(self, seconds: float) -> Iterator[tuple[Member, Unit]]:
        """Workers at a unit for so long, or for so long since they were last given here."""
        for member in self._members:
            if isinstance(member.work, Unit) and time.monotonic() - member.since >= seconds:
                member.since = time.monotonic()
                yield member, member.work

    def answers(self) -> Iterator[tuple[Member, Any]]:
        """What workers answered since, or `Lost` where one was; waits a moment for the first answer.

        Raises:
            VlmedError: A worker met an error that would come again.
        """
        calls = {member.call: member for member in self._members if member.call is not None}
        if not calls:
            time.sleep(_LOOK)
            return
        self._ray.wait(list(calls), timeout=_LOOK)
        ready, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for call in ready:
            member = calls[call]
            member.call = None
            try:
                yield member, self.get(call)
            except Lost as lost:
                self.dismiss(member)
                yield member, lost

    def started(self, told: LoadedModel | Lost) -> None:
        """Take note of what a new worker loaded.

        Raises:
            InputError: Another model than the other workers.
            VlmedError: Workers are lost before they have begun, again and again.
        """
        if isinstance(told, Lost):
            self._stillborn += 1
            if self._stillborn >= PATIENCE:
                hint = "look into Ray's logs; does the model fit into the memory of a worker's share?"
                raise VlmedError(f"{PATIENCE} workers died while they loaded the model", got=str(told), hint=hint)
            return
        self._stillborn = 0
        if self.model is None:
            self.model = told
        elif told != self.model:
            expected, got = (" ".join(model.info.revisions) for model in (self.model, told))
            hint = "name the model with its revision: hf:NAME@COMMIT"
            raise InputError("workers loaded different models", expected=expected, got=got, hint=hint)

    def get(self, call: Any) -> Any:
        """An answer.

        Raises:
            Lost: There will be none.
            VlmedError: The worker's own.
        """
        try:
            return self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, VlmedError) else error) from None
        except self._ray.exceptions.RayError as error:
            raise Lost(" ".join(str(error).split())[:400]) from error

    def dismiss(self, member: Member) -> None:
        """Let a worker go that is lost, or seems so."""
        self._members.remove(member)
        self._ray.kill(member.actor)

    def part(self, run: str) -> None:
        """End a run's work: free workers clear up after themselves, and all are let go."""
        calls = [member.actor.leave.remote(run) for member in self.free()]
        with suppress(self._ray.exceptions.RayError):
            self._ray.get(calls, timeout=10)
        self.scatter()

    def scatter(self) -> None:
        """Let all workers go as they are."""
        for member in list(self._members):
            self.dismiss(member)


def connected(address: str | None) -> Any:
    """The module `ray`, connected: to the cluster at `address` or in `RAY_ADDRESS`, else to one on this machine alone.

    Raises:
        MissingError: Ray is not installed.
        UsageError: Nobody answers at the address.
    """
    try:
        import ray
    except ImportError:
        raise MissingError("--executor ray needs Ray", hint="pip install 'vlmed[ray]'") from None
    if ray.is_initialized():
        return ray
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address and address != "auto":
        _check_address(address)
    try:
        ray.init(address=address or "local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
        raise _unreachable(address or "this machine", " ".join(str(error).split())[:400]) from error
    return ray


def _check_address(address: str) -> None:
    """Ray itself waits a minute for a cluster that is not there, and ends the process."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        expected = "HOST:PORT of the head node, or auto"
        hint = "start the run on a node of the cluster, as docs/many-machines.md shows"
        raise UsageError("this is no address of a Ray cluster", expected=expected, got=address, hint=hint)
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from None


def _unreachable(address: str, got: str) -> UsageError:
    hint = (
        "`ray status` on the head node tells whether the cluster runs; leave out --ray-address for one on this machine"
    )
    return UsageError(f"no Ray cluster answers at {address}", got=got, hint=hint)
