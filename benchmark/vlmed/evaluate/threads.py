"""How many threads torch uses where more would only wait for one another."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Run a block on one thread.

    Tensors of some hundred kilobytes gain nothing from a second thread, and on a busy machine they lose most of their
    time to it: a training step of the demo's model took 0.24 s of processor time on one thread, 0.85 s on two.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def single_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `count` threads, in each of which torch computes on that one alone.

    Torch's number of threads is a property of each Python thread, which begins with what any of them set last.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)
