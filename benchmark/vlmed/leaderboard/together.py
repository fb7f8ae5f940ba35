"""What several processes make at once."""

from __future__ import annotations

import gc
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
Maker = Callable[[], T]


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
def made_together(makers: Sequence[Maker[T]], jobs: int) -> Iterator[Iterator[T]]:
    """What the makers give, in order; they work while the caller does something else.

    A maker may use no library that keeps threads, as Arrow does. Workers are forked: a board takes longer to pickle
    than its pages to make. Only Linux forks reliably, elsewhere one process makes all.

    Args:
        jobs: Number of processes.
    """
    if jobs == 1 or sys.platform != "linux":
        yield (maker() for maker in makers)
        return
    global _makers
    _makers = makers
    try:
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
            try:
                yield pool.map(_make, range(len(makers)))
            except BaseException:
                pool.shutdown(cancel_futures=True)  # else an error would wait for all that nobody needs any more
                raise
    finally:
        _makers = ()


_makers: Sequence[Maker[Any]] = ()  # handed on by the fork


def _make(index: int) -> Any:
    return _makers[index]()
