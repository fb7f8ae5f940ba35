"""Labelled images in batches, loaded in the background while the model computes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vlmed.errors import InputError, Problem

Rows = NDArray[np.int64]
Pixels = Callable[[Rows], torch.Tensor]

_AHEAD = 2


@dataclass(frozen=True)
class Labelled:
    """Images with their classes.

    Attributes:
        pixels: Positions (B,) in [0, N) -> preprocessed images float32 (B, 3, H, W) on the CPU, in their order. Two
            threads call it at once.
        labels: Class indices (N,).
    """

    pixels: Pixels
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def check_labels(train: Labelled, val: Labelled, classes: Sequence[str]) -> list[str]:
    """Refuse labels that nothing can be learnt or chosen from; gives notes on what a reader should know.

    Raises:
        InputError: A set is empty, a label lies outside [0, C), or the training set has one class only.
    """
    problems, notes = [], []
    for name, labels in (("train", train.labels), ("val", val.labels)):
        if not len(labels):
            expected = "samples to learn from" if name == "train" else "samples to stop and choose by"
            problems.append(Problem(f"the {name} set is empty", expected=expected))
        elif labels.min() < 0 or labels.max() >= len(classes):
            row = int(np.flatnonzero((labels < 0) | (labels >= len(classes)))[0])
            expected, got = f"class indices from 0 to {len(classes) - 1}", str(labels[row])
            problems.append(Problem("a label is no class", path=f"{name} sample {row}", expected=expected, got=got))
        else:
            absent = [name for number, name in enumerate(classes) if number not in labels]
            notes += [f"{name} has no sample of class {each!r}" for each in absent]
    if not problems and len(np.unique(train.labels)) < 2:
        problems.append(
            Problem("the training set has one class only, so there is nothing to learn", expected="two or more")
        )
    if problems:
        raise InputError(problems)
    if len(np.unique(val.labels)) < 2:
        notes.append("val has one class only: its loss says little, and it chose the epoch")
    return notes


def shuffled(count: int, batch_size: int, seed: int, epoch: int) -> list[Rows]:
    """All positions below `count` in batches, in an order that only seed and epoch decide."""
    return _split(np.random.default_rng([seed, epoch]).permutation(count), batch_size)


def in_order(count: int, batch_size: int) -> list[Rows]:
    """All positions below `count` in batches, ascending."""
    return _split(np.arange(count), batch_size)


def _split(rows: Rows, size: int) -> list[Rows]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def rgb(pixels: Pixels) -> Pixels:
    """The same, but it raises an InputError where it gives something else than one RGB image for each position."""

    def checked(rows: Rows) -> torch.Tensor:
        images = pixels(rows)
        if images.ndim != 4 or images.shape[:2] != (len(rows), 3):
            expected, got = f"shape ({len(rows)}, 3, H, W)", f"shape {tuple(images.shape)}"
            raise InputError("the images of a batch have the wrong shape", expected=expected, got=got)
        return images

    return checked


class Stream:
    """Batches one after another, the next ones loading meanwhile.

    Args:
        load: Positions (B,) -> what the model computes with, B rows on the CPU. Two threads call it at once.

    Attributes:
        waited: Seconds for which the loop had to wait for data.
    """

    def __init__(self, load: Pixels, batches: Sequence[Rows], device: torch.device) -> None:
        self.waited = 0.0
        self._from, self._batches, self._device = load, batches, device

    def __iter__(self) -> Iterator[tuple[Rows, torch.Tensor]]:
        """Positions and what was loaded, on the device; raises what `load` does."""
        with ThreadPoolExecutor(_AHEAD) as pool:
            waiting: deque[Future[torch.Tensor]] = deque()
            waiting.extend(pool.submit(self._load, rows) for rows in self._batches[:_AHEAD])
            for number, rows in enumerate(self._batches):
                start = time.perf_counter()
                ready = waiting.popleft().result()
                self.waited += time.perf_counter() - start
                waiting.extend(pool.submit(self._load, later) for later in self._batches[number + _AHEAD :][:1])
                yield rows, ready.to(self._device, non_blocking=True)

    def _load(self, rows: Rows) -> torch.Tensor:
        loaded = self._from(rows)
        return loaded.pin_memory() if self._device.type == "cuda" else loaded
