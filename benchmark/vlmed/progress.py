"""Progress of long work: a bar with rate and time left on a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    """What long work tells about itself."""

    def task(self, description: str, total: int, unit: str) -> AbstractContextManager[Advance]:
        """A block of `total` units of work; call what it gives with the number of units just done."""
        ...


class Silent:
    """Says nothing."""

    @contextmanager
    def task(self, description: str, total: int, unit: str) -> Iterator[Advance]:  # noqa: ARG002
        """See `Progress.task`."""
        yield lambda _: None


def is_quiet() -> bool:
    """Whether the user asked for silence: `vlmed --quiet`, or `VLMED_QUIET` in the environment."""
    return os.environ.get("VLMED_QUIET", "").lower() not in ("", "0", "false", "no")


class Terminal:
    """Draws a bar on standard error; where that is no terminal, prints a line at most every `every` seconds.

    Says nothing at all if `is_quiet`.
    """

    def __init__(self, every: float = 15.0) -> None:
        self._every = every

    @contextmanager
    def task(self, description: str, total: int, unit: str) -> Iterator[Advance]:
        """See `Progress.task`."""
        if is_quiet():
            yield lambda _: None
        elif sys.stderr.isatty():
            with self._bar(description, total, unit) as advance:
                yield advance
        else:
            yield self._lines(description, total, unit)

    @contextmanager
    def _bar(self, description: str, total: int, unit: str) -> Iterator[Advance]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        start = time.monotonic()
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(description, total=total, rate="")

            def advance(count: int) -> None:
                done = progress.tasks[0].completed + count
                rate = done / max(time.monotonic() - start, 1e-9)
                progress.update(task, advance=count, rate=f"{rate:,.1f} {unit}/s")

            yield advance

    def _lines(self, description: str, total: int, unit: str) -> Advance:
        start = last = time.monotonic()
        done = 0

        def advance(count: int) -> None:
            nonlocal done, last
            done += count
            now = time.monotonic()
            if now - last >= self._every:
                rate = done / (now - start)
                left = (total - done) / rate
                sys.stderr.write(f"{description}: {done}/{total}, {rate:,.1f} {unit}/s, {left:,.0f} s left\n")
                last = now

        return advance
