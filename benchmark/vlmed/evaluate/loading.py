"""When batches of images are loaded: between the passes of a model on the processor, beside those of one on a GPU."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

import torch

from vlmed.evaluate.stages import stage
from vlmed.evaluate.threads import single_threads

# Each loads a batch while one is embedded: more would only hold memory, fewer would let the model wait.
_FEWEST, _MOST = 2, 8
_STAGE = "waiting for images"

Load = Callable[[int], torch.Tensor]


def loaded(load: Load, items: Sequence[int], tower: torch.nn.Module) -> Iterator[torch.Tensor]:
    """`map(load, items)` in order, by several threads, as it suits the device on which the tower lies."""
    on_processor = all(weights.device.type == "cpu" for weights in tower.parameters())
    return between(load, items) if on_processor else ahead(load, items)


def between(load: Load, items: Sequence[int]) -> Iterator[torch.Tensor]:
    """`map(load, items)`, several at once, and none while one is in use.

    A pass on the processor runs on all cores and waits at each step for the slowest. A load beside it would hold up all
    cores for as long as it takes one; on all of them together it takes a part of that time.
    """
    count = min(_MOST, torch.get_num_threads())
    with single_threads(count) as pool:
        for start in range(0, len(items), count):
            with stage(_STAGE):
                ready = deque(pool.map(load, items[start : start + count]))
            while ready:
                yield ready.popleft()


def ahead(load: Load, items: Sequence[int]) -> Iterator[torch.Tensor]:
    """`map(load, items)`, with the next ones under way while one is in use."""
    count = max(_FEWEST, min(_MOST, os.cpu_count() or 1))
    with single_threads(count) as pool:
        waiting: deque[Future[torch.Tensor]] = deque()
        queue = iter(items)
        for item in itertools.islice(queue, count):
            waiting.append(pool.submit(load, item))
        while waiting:
            with stage(_STAGE):
                ready = waiting.popleft().result()
            for item in itertools.islice(queue, 1):
                waiting.append(pool.submit(load, item))
            yield ready
