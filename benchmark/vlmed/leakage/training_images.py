"""A submitter's training images, one at a time, from a folder or from an npz file as MedMNIST publishes it."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, NoReturn

import numpy as np
from PIL import Image, ImageSequence

from vlmed.data.arrays import DAMAGE
from vlmed.errors import MissingError, Problem, UsageError
from vlmed.progress import Progress, Silent

_AHEAD = 32  # files that are decoded while the ones before them are hashed
_HINT = "repair or remove it, or leave it out with --skip-unreadable"

Named = Iterator[tuple[str, Image.Image]]


@dataclass
class TrainingImages:
    """Every image of a folder, searched recursively, or of the chosen splits of an npz file.

    Each file of a folder counts as an image, whatever its name, except hidden ones: what was left out silently would
    be missing in a fingerprint. Links are followed. All frames of a file are images.

    Attributes:
        splits: Of an npz file, which arrays `{split}_images` to take.
        unreadable: What could not be read as images, known once all else has been.
    """

    path: Path
    splits: Sequence[str] = ("train", "val")
    progress: Progress = field(default_factory=Silent)
    unreadable: list[Problem] = field(default_factory=list, init=False)

    def __iter__(self) -> Named:
        """Name and image, in order of the names.

        Raises:
            MissingError: There is no such folder or file, or no file in the folder.
            UsageError: The file is no npz file, or has none of the splits.
        """
        self.unreadable.clear()
        if self.path.is_file():
            return self._of_npz()
        return self._of_folder()

    @cached_property
    def left_out(self) -> list[str]:
        """Arrays of images in an npz file that are not among the splits; a folder has none."""
        if not self.path.is_file():
            return []
        return [name for name in _arrays(self.path) if name not in self._wanted]

    @property
    def _wanted(self) -> list[str]:
        return [f"{split}_images" for split in self.splits]

    def _of_folder(self) -> Named:
        files = sorted(_files(self.path))
        if not files:
            raise MissingError("there is no image here", file=self.path, expected="a folder of images or an .npz file")
        with self.progress.task("hashing", len(files), "images") as advance, ThreadPoolExecutor() as pool:
            for start in range(0, len(files), _AHEAD):
                ahead = files[start : start + _AHEAD]
                for file, image in zip(ahead, pool.map(_open, ahead), strict=True):
                    yield from self._frames(str(file.relative_to(self.path)), image)
                    advance(1)

    def _frames(self, name: str, image: Image.Image | str) -> Named:
        if isinstance(image, str):
            self.unreadable.append(Problem(f"not a readable image: {image}", name, hint=_HINT))
        elif getattr(image, "n_frames", 1) == 1:
            yield name, image
        else:
            frames = enumerate(ImageSequence.Iterator(image))
            while frame := self._next(name, frames):
                yield f"{name}[{frame[0]}]", frame[1]

    def _next(self, name: str, frames: Iterator[tuple[int, Image.Image]]) -> tuple[int, Image.Image] | None:
        try:
            if frame := next(frames, None):
                frame[1].load()
        except Exception as error:  # as in _open
            self.unreadable.append(Problem(f"not a readable frame: {error}", name, hint=_HINT))
            return None
        return frame

    def _of_npz(self) -> Named:
        there = _arrays(self.path)
        wanted = [name for name in self._wanted if name in there]
        if not wanted:
            expected = f"an array {' or '.join(self._wanted)}"
            raise UsageError("no such images in this file", file=self.path, expected=expected, got=", ".join(there))
        for name in wanted:
            try:
                with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as file:
                    yield from self._of_array(name, file)
            except DAMAGE as error:
                what = f"the images of this array can't all be read: {error}"
                self.unreadable.append(Problem(what, str(self.path), name, hint=_HINT))

    def _of_array(self, name: str, file: IO[bytes]) -> Named:
        # One by one, since the larger arrays take gigabytes as a whole.
        shape = _shape(file)
        size = int(np.prod(shape[1:]))
        with self.progress.task(f"hashing {name}", shape[0], "images") as advance:
            for row in range(shape[0]):
                pixels = np.frombuffer(file.read(size), np.uint8).reshape(shape[1:])
                yield f"{name}[{row}]", Image.fromarray(pixels)
                advance(1)


def _files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise MissingError("there is no such folder or file", file=folder)
    walked: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        # A link may lead back to where the walk came from.
        if (real := os.path.realpath(place)) in walked:
            folders.clear()
            continue
        walked.add(real)
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _refuse(error: OSError) -> NoReturn:
    raise MissingError(f"a folder can't be read: {error.strerror}", file=error.filename) from error


def _open(file: Path) -> Image.Image | str:
    """The first frame, decoded, or why there is none."""
    try:
        image = Image.open(file)
        image.load()
    except Exception as error:  # decoders raise nearly anything at a damaged file
        return str(error)
    return image


def _arrays(path: Path) -> list[str]:
    """The names of the arrays of images in an npz file."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
    except DAMAGE as error:
        expected = "a folder of images or an .npz file"
        raise UsageError("this is no npz file", file=path, expected=expected, got=str(error)) from error
    return [name for name in names if name.endswith("_images")]


def _shape(file: IO[bytes]) -> tuple[int, ...]:
    """Shape of the npy stream, which is left at its first pixel."""
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(file)
    if fortran or dtype != np.uint8 or not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)):
        raise ValueError(f"expected uint8 of shape (N, H, W) or (N, H, W, 3), got {dtype} of shape {shape}")
    return shape
