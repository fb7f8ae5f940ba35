"""Image features, embedded once per model and set of images and shared by every track, seed and fraction."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vlmed.data.prepare import PreparedDataset
from vlmed.errors import InputError, VlmedError
from vlmed.files import write_text
from vlmed.hashing import digest
from vlmed.models.protocols import ImageEncoder
from vlmed.progress import Progress, Silent

# Two batches wait while one is embedded: more would only hold memory, fewer would let the model wait.
_AHEAD = 2
_SAVE_EVERY = 16


@dataclass
class FeatureCache:
    """A folder of memory-mapped feature files, named by the digest of all that decides their content.

    Attributes:
        model_key: Revisions of the model, its companions and adapters.
        embedded: Images embedded so far, for the cost account; cached ones don't count.
    """

    folder: Path
    encoder: ImageEncoder
    model_key: Sequence[str]
    batch_size: int = 64
    progress: Progress = field(default_factory=Silent)
    embedded: int = 0

    def features(self, dataset: PreparedDataset, images: Sequence[str]) -> NDArray[np.float32]:
        """Features of images by pixel hash, (len(images), D) float32, as the encoder gives them.

        Each distinct image is embedded once. A killed run goes on where the last saved batches end.

        Raises:
            VlmedError: The disk is full.
        """
        distinct = sorted(set(images))
        row = {image: index for index, image in enumerate(distinct)}
        stored = self._stored(dataset, distinct)
        return np.asarray(stored[[row[image] for image in images]])

    def holds(self, images: Sequence[str]) -> bool:
        """Whether the features of these images, all together, are there already."""
        return self._path(sorted(set(images))).exists()

    def _path(self, distinct: Sequence[str]) -> Path:
        # The batch size is part of the key: other batches round differently in the last bit.
        key = digest([list(self.model_key), self.encoder.preprocessing, self.batch_size, list(distinct)])
        return self.folder / f"{key}.npy"

    def _stored(self, dataset: PreparedDataset, distinct: Sequence[str]) -> NDArray[np.float32]:
        path = self._path(distinct)
        if not path.exists():
            self._embed(dataset, distinct, path)
        stored: NDArray[np.float32] = np.load(path, mmap_mode="r")
        return stored

    def _embed(self, dataset: PreparedDataset, distinct: Sequence[str], path: Path) -> None:
        part, mark = path.with_suffix(".part.npy"), path.with_suffix(".rows")
        done = int(mark.read_text()) if mark.exists() and part.exists() else 0
        task = self.progress.task("embedding images", len(distinct), "images")
        with _opened(part, (len(distinct), self.encoder.dim), done) as write, task as advance:
            advance(done)
            for number, (start, batch) in enumerate(self._batches(dataset, distinct, done), start=1):
                write(embed(self.encoder, batch))
                self.embedded += len(batch)
                advance(len(batch))
                if number % _SAVE_EVERY == 0:
                    write_text(mark, str(start + len(batch)))
        part.replace(path)
        mark.unlink(missing_ok=True)

    def _batches(
        self, dataset: PreparedDataset, images: Sequence[str], start: int
    ) -> Iterator[tuple[int, torch.Tensor]]:
        def load(first: int) -> torch.Tensor:
            names = images[first : first + self.batch_size]
            return torch.stack([self.encoder.preprocess(dataset.image(name)) for name in names])

        starts = range(start, len(images), self.batch_size)
        yield from zip(starts, ahead(load, starts), strict=True)


@contextmanager
def _opened(path: Path, shape: tuple[int, int], done: int) -> Iterator[Callable[[NDArray[np.float32]], None]]:
    """A function that adds rows to a npy file of `shape`, after the first `done` rows of an earlier run.

    Rows are written and not mapped: on a full disk a write fails, where touching a map would kill the process.
    """
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if done else "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.seek(done * shape[1] * 4, os.SEEK_CUR)

            def write(rows: NDArray[np.float32]) -> None:
                file.write(rows.astype("<f4").tobytes())
                file.flush()

            yield write
    except OSError as error:
        hint = "make room, or set VLMED_CACHE to a folder on another disk, and run again: finished work is kept"
        got = error.strerror or str(error)
        raise VlmedError("the features can't be written", file=path, got=got, hint=hint) from error


def ahead(load: Callable[[int], torch.Tensor], items: Sequence[int]) -> Iterator[torch.Tensor]:
    """`map(load, items)` with the next loads under way in the background, in order."""
    with ThreadPoolExecutor(_AHEAD) as pool:
        waiting: deque[Future[torch.Tensor]] = deque()
        queue = iter(items)
        for item in itertools.islice(queue, _AHEAD):
            waiting.append(pool.submit(load, item))
        while waiting:
            ready = waiting.popleft().result()
            for item in itertools.islice(queue, 1):
                waiting.append(pool.submit(load, item))
            yield ready


def embed(encoder: ImageEncoder, batch: torch.Tensor) -> NDArray[np.float32]:
    """Features of one preprocessed batch (B, 3, H, W), as float32 on the CPU.

    Raises:
        InputError: The model gives NaN or an infinity.
    """
    with torch.inference_mode():
        features: NDArray[np.float32] = encoder.encode_images(batch).float().cpu().numpy()
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        hint = "check the checkpoint, and its precision"
        raise InputError("the model gives NaN or an infinity", path=f"image {row} of the batch", hint=hint)
    return features
