"""`vlmed run --profile`: where the time of a run went, in seconds and as a trace."""

from __future__ import annotations

import builtins
import gzip
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmed.evaluate.stages import Account, accounted, stage
from vlmed.files import new_file, write_json
from vlmed.progress import Advance, Progress

if TYPE_CHECKING:
    import torch

FOLDER = "profile"
# A trace of hours would not fit into memory, and no viewer would show it.
_TRACED_STEPS = 24
_TRACED_SECONDS = 60.0
_MIB = 2**20


@dataclass(frozen=True)
class Spent:
    """Where the time of a run went.

    Attributes:
        wall: Seconds from `profiled` on, and processor seconds before.
        foreground: Seconds by stage, together at most `wall`; the rest belongs to no stage.
        background: Seconds of loader threads by stage, while the foreground went on or waited.
        peak_memory: Most resident bytes of the process.
        peak_gpu_memory: Most bytes that torch held on a GPU; 0 without one.
    """

    wall: float
    foreground: Mapping[str, float]
    background: Mapping[str, float]
    peak_memory: int
    peak_gpu_memory: int

    def lines(self) -> list[tuple[str, str, str]]:
        """Rows of a table: stage, seconds, share of the wall time; the longest first."""
        other = {"other": max(0.0, self.wall - sum(self.foreground.values()))}
        rows = [*_sorted(self.foreground), *other.items()]
        return [
            *((name, f"{seconds:.2f}", f"{seconds / self.wall:.1%}") for name, seconds in rows),
            ("all", f"{self.wall:.2f}", "100.0%"),
            *((f"{name}, in the background", f"{seconds:.2f}", "") for name, seconds in _sorted(self.background)),
            ("peak memory", f"{self.peak_memory / _MIB:,.0f} MiB", ""),
            *([("peak GPU memory", f"{self.peak_gpu_memory / _MIB:,.0f} MiB", "")] if self.peak_gpu_memory else []),
        ]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        seconds = {name: {key: round(value, 4) for key, value in getattr(self, name).items()} for name in _PLACES}
        memory = {"peak_memory": self.peak_memory, "peak_gpu_memory": self.peak_gpu_memory}
        return {"wall": round(self.wall, 4), **seconds, **memory}


_PLACES = ("foreground", "background")


def _sorted(seconds: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(seconds.items(), key=lambda item: -item[1])


class Profile:
    """Counts from its making on; see `profiled`."""

    def __init__(self, account: Account) -> None:
        self._account, self._start = account, time.perf_counter()
        # How long ago the process began is known on Linux alone; what it has computed since is known everywhere.
        self._before = time.process_time()
        self._tracer: torch.profiler.profile | None = None
        self._steps, self._until = 0, 0.0

    def watched(self, progress: Progress) -> Progress:
        """The same progress, whose steps tell how much has been traced."""
        return _Watched(progress, self._step)

    @contextmanager
    def traced(self) -> Iterator[None]:
        """Trace what torch does in this block, until enough is seen."""
        # Its notes on devices that are not there would stand between the run's own.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        import torch

        on_gpu = [torch.profiler.ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        self._tracer = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU, *on_gpu])
        self._until = time.perf_counter() + _TRACED_SECONDS
        self._tracer.start()
        try:
            yield
        finally:
            self._stop()

    def _step(self) -> None:
        self._steps += 1
        if self._steps >= _TRACED_STEPS or time.perf_counter() > self._until:
            self._stop()

    def _stop(self) -> None:
        # Only the thread that began a trace may end it.
        if self._tracer and self._until and threading.current_thread() is threading.main_thread():
            self._tracer.stop()
            self._until = 0.0

    def write(self, folder: Path) -> Spent:
        """Write `account.json` and `trace.json.gz` to a folder; gives the account.

        Raises:
            VlmedError: The disk is full or the folder can't be written.
        """
        account = self._account
        wall = self._before + time.perf_counter() - self._start
        foreground = {"start of the program": self._before} | account.foreground
        spent = Spent(wall, foreground, dict(account.background), _peak_memory(), _peak_gpu_memory())
        write_json(folder / "account.json", spent.to_json())
        if self._tracer:
            with new_file(folder / "trace.json.gz") as part:
                plain = part.with_suffix(".json")
                self._tracer.export_chrome_trace(str(plain))
                part.write_bytes(gzip.compress(plain.read_bytes(), 5))
                plain.unlink()
        return spent


@contextmanager
def profiled() -> Iterator[Profile]:
    """Count, until the block ends, what this process spends on each stage and on importing libraries."""
    original = builtins.__import__
    importing = threading.local()

    def counted(*args: Any, **settings: Any) -> Any:
        if getattr(importing, "under_way", False):
            return original(*args, **settings)
        importing.under_way = True
        try:
            with stage("import"):
                return original(*args, **settings)
        finally:
            importing.under_way = False

    with accounted() as account:
        builtins.__import__ = counted
        try:
            yield Profile(account)
        finally:
            builtins.__import__ = original


class _Watched:
    def __init__(self, progress: Progress, step: Callable[[], None]) -> None:
        self._progress, self._step = progress, step

    @contextmanager
    def task(self, description: str, total: int, unit: str) -> Iterator[Advance]:
        """See `Progress.task`."""
        with self._progress.task(description, total, unit) as advance:

            def both(count: int) -> None:
                advance(count)
                self._step()

            yield both


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _peak_gpu_memory() -> int:
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
