"""Where the cores of this machine go while units are done on Ray: to units, to the driver, to Ray itself, to others."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from vlmed.evaluate.run import Runner
from vlmed.evaluate.units import RunFolder, Unit
from vlmed.models.protocols import LoadedModel

# Of the command lines of Ray's own processes; those of the agents that it gives names to begin as below.
RAY = ("/raylet", "gcs_server", "/ray/_private/", "/ray/dashboard/", "/ray/autoscaler/")
# Fields of the first line of /proc/stat.
IDLE, STOLEN = (3, 4), (7,)


def timed(log: Path, runner_of: Callable[[LoadedModel], Runner], model: LoadedModel) -> Runner:
    """A runner that notes in `log` when its process was at which unit, and the processor time that this took."""
    runner = runner_of(model)
    do = runner.do

    def told(unit: Unit, folder: RunFolder) -> None:
        start, spent = time.monotonic(), time.process_time()
        do(unit, folder)
        line = {"pid": os.getpid(), "start": start, "end": time.monotonic(), "spent": time.process_time() - spent}
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")

    runner.do = told  # type: ignore[method-assign]
    return runner


def together(count: int, place: Path, load: Callable[[], LoadedModel]) -> LoadedModel:
    """A model, once so many processes have it: what is measured begins when all can work."""
    model = load()
    (place / f"ready-{os.getpid()}").touch()
    while len(list(place.glob("ready-*"))) < count:
        time.sleep(0.02)
    return model


class Account(threading.Thread):
    """Reads /proc once a second, as processes may die on the way; use it as a context.

    Attributes:
        wall: Seconds in the context.
        spent: Processor seconds by what they went to; `nothing` and `stolen`, by other guests of the host, are of no
            process.
        workers: Processor seconds of each worker, most first.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self._ticks: Counter[tuple[str, int]] = Counter()
        self._last = dict(_processes())

    def __enter__(self) -> Self:
        self._start, self._whole = time.monotonic(), _whole()
        self._last = dict(_processes())
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        self._look()
        self.wall = time.monotonic() - self._start
        whole = [after - before for before, after in zip(self._whole, _whole(), strict=True)]
        self.workers = sorted((_seconds(ticks) for (kind, _), ticks in self._ticks.items() if kind == "workers"))[::-1]
        self.spent = dict.fromkeys(("workers", "driver", "Ray itself"), 0.0)
        for (kind, _), ticks in self._ticks.items():
            self.spent[kind] += _seconds(ticks)
        nothing, stolen = (_seconds(sum(whole[field] for field in fields)) for fields in (IDLE, STOLEN))
        others = max(0.0, _seconds(sum(whole)) - nothing - stolen - sum(self.spent.values()))
        self.spent |= {"others": others, "stolen": stolen, "nothing": nothing}

    def run(self) -> None:
        while not self._over.wait(1):
            self._look()

    def _look(self) -> None:
        now = dict(_processes())
        for pid, (kind, ticks) in now.items():
            if kind:
                self._ticks[kind, pid] += ticks - self._last.get(pid, ("", 0))[1]
        self._last = now

    def shares(self) -> str:
        """What of all cores went where."""
        whole = sum(self.spent.values())
        return ", ".join(f"{kind} {seconds / whole:.1%}" for kind, seconds in self.spent.items())


def waits(log: Path, start: float, end: float) -> str:
    """By worker: units, seconds it waited for one, and processor time per second within units."""
    by_worker: dict[int, list[Any]] = {}
    for line in map(json.loads, log.read_text().splitlines()):
        by_worker.setdefault(line["pid"], []).append(line)
    told = []
    for lines in by_worker.values():
        within, spent = sum(line["end"] - line["start"] for line in lines), sum(line["spent"] for line in lines)
        told.append(
            f"{len(lines)} units, {end - start - within:.1f} s without one, {spent / within:.0%} of a core within"
        )
    return "; ".join(told)


def _processes() -> Any:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            yield int(process.name), (_kind(process), int(fields[11]) + int(fields[12]))


def _kind(process: Path) -> str:
    """What a process is for; empty for others."""
    if process.name == str(os.getpid()):
        return "driver"
    command = (process / "cmdline").read_bytes().decode(errors="replace")
    if command.startswith("ray::Worker"):
        return "workers"
    return "Ray itself" if command.startswith("ray::") or any(part in command for part in RAY) else ""


def _whole() -> list[int]:
    return [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def _seconds(ticks: int) -> float:
    return ticks / os.sysconf("SC_CLK_TCK")
