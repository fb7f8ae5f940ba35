"""MedMNIST v2: one npz file per data set and size, as on Zenodo (record 10519652)."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from vlmed.data.arrays import DAMAGE, npz_array, png
from vlmed.data.records import Record
from vlmed.data.tables import missing_file
from vlmed.errors import InputError
from vlmed.hashing import file_hash

_SPLITS = ("train", "val", "test")
_BLOCK = 32 << 20  # bytes of pixels


class MedMNISTSource:
    """Two-dimensional, single-label MedMNIST: `{split}_images` (N, H, W[, 3]) uint8 and `{split}_labels` (N, 1).

    Options: `file` (`breastmnist_224.npz`), its published `md5`, and `url`. Images are keyed `train/00012`, and ids
    are the same at every size (`breastmnist-train-00012`). No patient ids are published, so each image is a group.
    """

    def __init__(self, options: Mapping[str, Any], root: Path) -> None:
        self._path = root / options["file"]
        self._md5 = options["md5"]
        self._hint = f"Download {options['url']} (CC BY 4.0, no registration) and put it at {self._path}."
        self._name = Path(options["file"]).stem.split("_")[0]
        self._arrays: dict[str, _Images] = {}
        self._lock = Lock()

    def records(self) -> list[Record]:
        """Every image of train, val and test, with its class index as `label`."""
        path = self._verified
        return [
            Record(f"{self._name}-{split}-{index:05}", key, key, split, {"label": str(label)})
            for split in _SPLITS
            for index, label in enumerate(self._labels(path, split))
            for key in [f"{split}/{index:05}"]
        ]

    def image(self, key: str) -> bytes:
        """The image of a key such as `train/00012` as PNG; reading in order of the keys is much the fastest."""
        split, _, index = key.partition("/")
        if split not in _SPLITS or not index.isdigit():
            got, expected = repr(key), "train, val or test, '/', and a number"
            raise InputError("no such image", file=self._path, expected=expected, got=got)
        with self._lock:
            if split not in self._arrays:
                self._arrays[split] = _Images(self._verified, f"{split}_images", self._hint)
        return png(self._arrays[split].read(int(index)))

    @cached_property
    def _verified(self) -> Path:
        path: Path = self._path
        if not path.is_file():
            raise missing_file(path, "the MedMNIST file", self._hint)
        got = file_hash(path, "md5")
        if got != self._md5:
            hint = f"Delete it and let it be downloaded again. {self._hint}"
            what = "the file is not the published one: its MD5 differs"
            raise InputError(what, file=path, expected=self._md5, got=got, hint=hint)
        return path

    def _labels(self, path: Path, split: str) -> list[int]:
        labels = npz_array(path, f"{split}_labels", self._hint)
        images = _Images(path, f"{split}_images", self._hint)
        if labels.shape != (len(images), 1) or labels.dtype.kind not in "ui":
            expected, got = f"integers of shape ({len(images)}, 1)", f"{labels.dtype} of shape {labels.shape}"
            what = "the labels do not fit the images"
            raise InputError(what, file=path, path=f"{split}_labels", expected=expected, got=got, hint=self._hint)
        return [int(label) for label in labels[:, 0]]


class _Images:
    """One image array of an npz, unpacked block by block, since the larger arrays take gigabytes as a whole."""

    def __init__(self, path: Path, name: str, hint: str) -> None:
        self._path, self._name, self._hint = path, name, hint
        try:
            # Stays open between blocks: that is what makes reading in order one pass.
            self._file: IO[bytes] = zipfile.ZipFile(path).open(f"{name}.npy")  # noqa: SIM115
            self._shape, fortran, self._dtype = _header(self._file)
        except DAMAGE as error:
            got = str(error)
            raise InputError("the image array can't be read", file=path, path=name, got=got, hint=hint) from error
        grey_or_rgb = len(self._shape) == 3 or (len(self._shape) == 4 and self._shape[3] == 3)
        if fortran or self._dtype != np.uint8 or not grey_or_rgb:
            expected, got = "uint8 of shape (N, H, W) or (N, H, W, 3)", f"{self._dtype} of shape {self._shape}"
            raise InputError("the array holds no images", file=path, path=name, expected=expected, got=got, hint=hint)
        self._start = self._file.tell()
        self._lock = Lock()
        self._blocks: dict[int, npt.NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return self._shape[0]

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """Image `index`, (H, W) or (H, W, 3). Threads may call; going far back unpacks the array from its start."""
        if index >= len(self):
            at, expected = f"{self._name}[{index}]", f"less than {len(self)}"
            raise InputError("no such image", file=self._path, path=at, expected=expected, hint=self._hint)
        size = max(1, _BLOCK // int(np.prod(self._shape[1:])))
        number, row = divmod(index, size)
        with self._lock:
            if number not in self._blocks:
                self._blocks[number] = self._load(number * size, size)
            # Two blocks, since threads that read in order stray across the border between blocks.
            if len(self._blocks) > 2:
                del self._blocks[next(iter(self._blocks))]
            image: npt.NDArray[np.uint8] = self._blocks[number][row]
            return image

    def _load(self, first: int, count: int) -> npt.NDArray[np.uint8]:
        shape = (min(count, len(self) - first), *self._shape[1:])
        pixels, at = int(np.prod(self._shape[1:])), f"{self._name}[{first}:]"
        try:
            self._file.seek(self._start + first * pixels)
            content = self._file.read(shape[0] * pixels)
        except DAMAGE as error:
            hint = self._hint
            raise InputError("the images can't be read", file=self._path, path=at, got=str(error), hint=hint) from error
        if len(content) < shape[0] * pixels:
            expected, got = f"{shape[0] * pixels} bytes", f"{len(content)}"
            what = "the images are cut off"
            raise InputError(what, file=self._path, path=at, expected=expected, got=got, hint=self._hint)
        return np.frombuffer(content, np.uint8).reshape(shape)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and dtype of the npy stream that `file` is at the start of."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)
