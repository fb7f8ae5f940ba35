"""Pages that several processes make at once."""

from __future__ import annotations

import gc
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

Page = tuple[str, str | bytes]  # path in the site, content
Maker = Callable[[], Iterable[Page]]


@contextmanager
def unswept() -> Iterator[None]:
    """Without garbage collection, here and in forked workers, which it would make copy what all share.

    What a build reads lives until its end and makes no cycles, and there is so much of it that every sweep takes long.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def made_together(makers: Sequence[Maker], jobs: int) -> Iterator[Iterator[Page]]:
    """The pages of all makers, in order; they are made while the caller does something else.

    A maker may use no library that keeps threads, as Arrow does. Workers are forked: a board takes longer to pickle
    than its pages to make. Only Linux forks reliably, elsewhere one process makes them all.

    Args:
        jobs: Number of processes.
    """
    if jobs == 1 or sys.platform != "linux":
        yield (page for maker in makers for page in maker())
        return
    global _makers
    _makers = makers
    try:
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
            yield (page for pages in pool.map(_make, range(len(makers))) for page in pages)
    finally:
        _makers = ()


_makers: Sequence[Maker] = ()  # handed on by the fork


def _make(index: int) -> list[Page]:
    return list(_makers[index]())
