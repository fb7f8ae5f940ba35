"""Preprocessed images, kept on disk so that no later model, track or seed with the same preprocessing decodes them."""

from __future__ import annotations

import os
import shutil
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import metadata
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlmed.data.prepare import PreparedDataset
from vlmed.errors import UsageError
from vlmed.evaluate.codes import Codes
from vlmed.evaluate.stages import stage
from vlmed.hashing import digest
from vlmed.models.protocols import ImageEncoder

if TYPE_CHECKING:
    import torch
    from PIL import Image

# What resizes images; another version may do it otherwise.
_LIBRARIES = ("pillow", "torch", "torchvision", "transformers", "open_clip_torch", "timm", "numpy")
_SUM = 4
# Disks give room by such blocks, so that rows begin at whole ones and what they take is known.
_BLOCK = 4096
_GIB = 2**30
_DEFAULT_GIB = 16


@cache
def libraries() -> dict[str, str]:
    """The versions on which the pixels and the features of an image depend."""
    return {name: metadata.version(name) for name in _LIBRARIES}


def budget() -> int:
    """The bytes that preprocessed images may take on disk: `VLMED_PIXELS_GIB` GiB, 16 by default, 0 to keep none.

    Raises:
        UsageError: It is no number from 0 on.
    """
    text = os.environ.get("VLMED_PIXELS_GIB", str(_DEFAULT_GIB))
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 2**30:
        raise UsageError("VLMED_PIXELS_GIB is no size", expected="GiB, such as 16, or 0 to keep none", got=text)
    return int(number * _GIB)


@dataclass
class PixelStore:
    """A folder with a file for each data set and preprocessing; safe to share between threads, processes and models.

    A file has a row of bytes with its checksum for each image of the data set. Rows never depend on who writes them, so
    two that write one at once do no harm; a row that a killed process left half written fails its checksum and is made
    again. What can't be kept exactly, or has no room, is preprocessed each time.

    Attributes:
        budget: The most bytes of all files together; those not used for longest go first.
    """

    folder: Path
    encoder: ImageEncoder
    budget: int = field(default_factory=budget)
    _rows: dict[Path, _Rows | None] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def batch(self, dataset: PreparedDataset, images: Sequence[str]) -> torch.Tensor:
        """Preprocessed images by pixel hash, float32 (len(images), 3, H, W), bit for bit as `encoder.preprocess`.

        Raises:
            KeyError: There is no such image.
        """
        import torch

        if not (opened := self._opened(dataset)):
            return torch.stack([self._preprocessed(dataset, image) for image in images])
        codes, rows = opened
        on_gpu = str(getattr(self.encoder, "device", "cpu")).startswith("cuda")
        batch = torch.empty((len(images), *codes.shape), pin_memory=on_gpu)
        for image, out in zip(images, batch.numpy(), strict=True):
            row = dataset.places[image]
            if (kept := rows.get(row)) is not None:
                with stage("preprocess"):
                    codes.decode(kept.reshape(codes.shape), out)
            else:
                made = self._make(dataset, image, codes, out)
                if rows.has_room and (found := codes.encode(out) if made is None else made) is not None:
                    rows.put(row, found)
        return batch

    def _make(
        self, dataset: PreparedDataset, image: str, codes: Codes, out: NDArray[np.float32]
    ) -> NDArray[np.uint8] | None:
        """Preprocess an image into `out`; gives its numbers of levels where they are known without looking at `out`."""
        decoded = self._decoded(dataset, image)
        with stage("preprocess"):
            if (found := codes.read(decoded)) is not None:
                codes.decode(found, out)
            else:
                out[:] = self.encoder.preprocess(decoded).numpy()
        return found

    def _preprocessed(self, dataset: PreparedDataset, image: str) -> torch.Tensor:
        decoded = self._decoded(dataset, image)
        with stage("preprocess"):
            return self.encoder.preprocess(decoded)

    def _decoded(self, dataset: PreparedDataset, image: str) -> Image.Image:
        with stage("decode"):
            return dataset.image(image)

    @cached_property
    def _codes(self) -> Codes | None:
        return Codes.of(self.encoder)

    def _opened(self, dataset: PreparedDataset) -> tuple[Codes, _Rows] | None:
        with self._lock:
            if self.budget == 0 or self._codes is None:
                return None
            if dataset.folder not in self._rows:
                self._rows[dataset.folder] = self._open(dataset, int(np.prod(self._codes.shape)))
            rows = self._rows[dataset.folder]
            return (self._codes, rows) if rows else None

    def _open(self, dataset: PreparedDataset, length: int) -> _Rows | None:
        key = digest([libraries(), self.encoder.preprocessing, list(dataset.places)])
        path = self.folder / f"{key}.u8"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            rows = _Rows(path.open("r+b", buffering=0), length)
            rows.room = _make_room(path, len(dataset.places) * rows.stride, self.budget)
            return rows
        except OSError:
            # The store only saves time; whatever else the run writes will say what is wrong with the disk.
            return None


@dataclass
class _Rows:
    """A sparse file of rows of `length` bytes, each followed by its checksum.

    Attributes:
        room: Bytes that may still be added.
    """

    file: FileIO
    length: int
    room: int = 0

    @property
    def stride(self) -> int:
        """What a row takes on disk."""
        return -(-(self.length + _SUM) // _BLOCK) * _BLOCK

    @property
    def has_room(self) -> bool:
        return self.room >= self.stride

    def get(self, row: int) -> NDArray[np.uint8] | None:
        """The bytes of a row; None where it was not written, or not wholly."""
        whole = os.pread(self.file.fileno(), self.length + _SUM, row * self.stride)
        content, told = whole[: self.length], whole[self.length :]
        # A row in a hole reads as zeros, of which the checksum is not zero.
        if not any(told) or told != _checksum(content):
            return None
        return np.frombuffer(content, np.uint8)

    def put(self, row: int, codes: NDArray[np.uint8]) -> None:
        """Write a row; where the disk is full, this and all later ones are not kept."""
        content = codes.tobytes()
        try:
            os.pwrite(self.file.fileno(), content + _checksum(content), row * self.stride)
            self.room -= self.stride
        except OSError:
            self.room = 0


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_SUM, "little")


def _make_room(path: Path, wanted: int, limit: int) -> int:
    """The bytes that `path` may still take, after files that were not used for longest went where there are too many.

    Half of what is free on the disk stays free.
    """
    others = sorted(path.parent.glob("*.u8"), key=lambda file: file.stat().st_mtime_ns)
    used = {file: file.stat().st_blocks * 512 for file in others}
    held = used.pop(path, 0)
    for file in list(used):
        if sum(used.values()) + max(held, wanted) <= limit:
            break
        file.unlink(missing_ok=True)
        del used[file]
    return min(limit - sum(used.values()) - held, shutil.disk_usage(path.parent).free // 2)
