"""Hashes of a submitter's training images, which show whether test images are among them; no image leaves its owner.

A fingerprint is a Parquet file. Each row stands for one image, in the order in which it was given, and holds:

- `pixels`: `vlmed.hashing.pixel_hash` in binary, of the image and of its twins in RGB and grey if those lose nothing
  but alpha, so that a copy in another mode is found too;
- `perceptual`: `vlmed.leakage.perceptual.perceptual_hash`.

It holds no names: whoever made it knows them by the row. The test side is a task's manifest, and for near-duplicates
the perceptual hashes beside it (`write_task_hashes`). A near hash is a suspicion and no proof: nobody but the submitter
can look at the two images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from vlmed.errors import InputError, MissingError, Problem, UsageError
from vlmed.files import new_file
from vlmed.hashing import pixel_hash
from vlmed.leakage.near import pairs_within
from vlmed.leakage.perceptual import FLAT, perceptual_hashes
from vlmed.suite.manifest import FOLDER, Manifest, manifest_path
from vlmed.suite.types import Task

VERSION = 1
# Nobody can confirm a pair on pixels here, so this is smaller than where both images are at hand: on SLAKE against
# VQA-RAD, 1 in 200,000 pairs is this near by chance, while copies stored as JPEG or resized are found all the same.
RADIUS = 4

_PIXELS = pa.binary(16)
_FINGERPRINT = pa.schema(
    [pa.field("pixels", pa.list_(_PIXELS), nullable=False), pa.field("perceptual", pa.uint64(), nullable=False)]
)
_TASK_HASHES = pa.schema(
    [pa.field("image", _PIXELS, nullable=False), pa.field("perceptual", pa.uint64(), nullable=False)]
)
_MAX_ROWS = 200_000_000


@dataclass(frozen=True)
class Fingerprint:
    """Hashes of N images.

    Attributes:
        table: N rows; `pixels` is a list of 16-byte pixel hashes, `perceptual` uint64.
        names: Per image its name; empty in a fingerprint that was read from a file.
    """

    table: pa.Table
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    @property
    def perceptual(self) -> NDArray[np.uint64]:
        """Perceptual hashes, shape (N,)."""
        values: NDArray[np.uint64] = self.table["perceptual"].to_numpy()
        return values


@dataclass(frozen=True, order=True)
class Match:
    """A test image that the fingerprint has or seems to have.

    Attributes:
        sample: Id of the test sample.
        kind: `pixels` is proof, `near` a suspicion.
        row: The nearest row of the fingerprint, from 0.
        rows: How many rows match in this way.
        distance: Hamming distance of the perceptual hashes; 0 for `pixels`.
    """

    sample: str
    kind: Literal["pixels", "near"]
    row: int
    rows: int
    distance: int


@dataclass(frozen=True)
class Check:
    """What a fingerprint says about one task.

    Attributes:
        samples: Number of test samples.
        without_image: Test samples whose image nobody has frozen; they could not be checked.
        near: Whether near-duplicates were looked for; they need the task's perceptual hashes.
        matches: In order of sample id.
    """

    task: str
    samples: int
    without_image: int
    near: bool
    matches: tuple[Match, ...]


def fingerprint(images: Iterable[tuple[str, Image.Image]]) -> Fingerprint:
    """Hash named images one at a time; none is kept.

    Raises:
        InputError: Images can't be decoded or have no pixels; lists all of them by name.
    """
    names: list[str] = []
    pixels: list[list[bytes]] = []
    problems: list[Problem] = []

    def hashed() -> Iterator[Image.Image]:
        for name, image in images:
            try:
                pixels.append(_pixel_hashes(image))
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                problems.append(Problem(f"not a readable image: {error}", name, hint="remove or repair it"))
            else:
                names.append(name)
                yield image

    try:
        perceptual = perceptual_hashes(hashed())
    except InputError as error:
        problems += [replace(problem, file=names[-1], path="") for problem in error.problems]
    if problems:
        raise InputError(problems)
    columns = [pa.array(pixels, pa.list_(_PIXELS)), pa.array(perceptual)]
    return Fingerprint(pa.Table.from_arrays(columns, schema=_FINGERPRINT), tuple(names))


# Modes that RGB says as well, but for alpha, which the search for leaks drops too. CMYK and the like would be rounded.
_AS_RGB = ("1", "L", "LA", "P", "PA", "RGBA", "RGBX")


def _pixel_hashes(image: Image.Image) -> list[bytes]:
    """The hash of an image, and of its twins in RGB and, where it shows no colour, in grey."""
    image.load()
    twins = {image.mode: image}
    if image.mode in _AS_RGB:
        twins["RGB"] = image.convert("RGB")
    if "RGB" in twins:
        red, green, blue = twins["RGB"].split()
        if red.tobytes() == green.tobytes() == blue.tobytes():
            twins.setdefault("L", red)
    return [bytes.fromhex(pixel_hash(twin)) for twin in twins.values()]


def write_fingerprint(path: Path, made: Fingerprint) -> None:
    """Write a fingerprint, without names, in one step; equal fingerprints give equal bytes with equal pyarrow versions.

    Raises:
        VlmedError: The disk is full.
    """
    _write(path, made.table, {"vlmed.fingerprint": str(VERSION)})


def read_fingerprint(path: Path) -> Fingerprint:
    """Read a fingerprint. Says nothing of whether it was made of all the training images.

    Raises:
        MissingError: There is no such file.
        InputError: It is no fingerprint, of another version, or damaged.
    """
    table = _read(path, _FINGERPRINT, "vlmed.fingerprint", str(VERSION))
    hashes = pc.list_value_length(table["pixels"])
    if not pc.all(pc.greater(hashes, 0), min_count=0).as_py() or pc.list_flatten(table["pixels"]).null_count:
        raise InputError("an image without a pixel hash", file=path, expected="one or more in every row")
    return Fingerprint(table)


def task_hashes_path(task: Task, folder: Path = FOLDER) -> Path:
    """Where the perceptual hashes of a task's test images lie: beside its manifest."""
    return manifest_path(task, folder).with_suffix(".phash.parquet")


def write_task_hashes(task: Task, hashes: Mapping[str, int], folder: Path = FOLDER) -> Path:
    """Write the perceptual hashes of a task's test images, keyed by the manifest's `image`; gives the file's path.

    Raises:
        VlmedError: The disk is full.
    """
    images = sorted(hashes)
    columns = [
        pa.array([bytes.fromhex(image) for image in images], _PIXELS),
        pa.array([int(hashes[image]) for image in images], pa.uint64()),
    ]
    path = task_hashes_path(task, folder)
    _write(path, pa.Table.from_arrays(columns, schema=_TASK_HASHES), {"vlmed.task_hashes": task.id})
    return path


def read_task_hashes(task: Task, manifest: Manifest, folder: Path = FOLDER) -> dict[str, int] | None:
    """The perceptual hashes of a task's test images by the manifest's `image`; None if nobody has written them.

    Raises:
        InputError: The file is damaged, of another task, or not of exactly the images in the manifest's test split.
    """
    path = task_hashes_path(task, folder)
    if not path.is_file():
        return None
    table = _read(path, _TASK_HASHES, "vlmed.task_hashes", task.id)
    images = [value.hex() for value in table["image"].to_pylist()]
    frozen = {row.image for row in manifest.split("test") if row.image}
    if len(images) != len(frozen) or set(images) != frozen:
        raise InputError(
            "these are not the perceptual hashes of the frozen test images",
            file=path,
            expected=f"{len(frozen)} images of {manifest.file}",
            got=f"{len(images)} images, {len(frozen & set(images))} of them frozen",
            hint="restore the file from the release",
        )
    return dict(zip(images, map(int, table["perceptual"].to_pylist()), strict=True))


def check_fingerprint(
    made: Fingerprint, task: Task, manifest: Manifest, perceptual: Mapping[str, int] | None, radius: int = RADIUS
) -> Check:
    """Look for a task's test images in a fingerprint.

    Args:
        made: The fingerprint.
        task, manifest: The task and its frozen manifest.
        perceptual: The manifest's `image` -> perceptual hash of the test images (`read_task_hashes`); None to look for
            equal pixels only.
        radius: Largest Hamming distance of a near-duplicate. Images that show nothing are never near.

    Raises:
        UsageError: A test image has no perceptual hash, or the radius is none.
    """
    tests = manifest.split("test")
    images = {row.image for row in tests if row.image}
    same = _same_pixels(made, images)
    near = {} if perceptual is None else _near(made, images - same.keys(), perceptual, radius)
    matches = [Match(row.sample_id, "pixels", *same[row.image]) for row in tests if row.image in same]
    matches += [Match(row.sample_id, "near", *near[row.image]) for row in tests if row.image in near]
    without_image = sum(not row.image for row in tests)
    return Check(task.id, len(tests), without_image, perceptual is not None, tuple(sorted(matches)))


# The row that matches best, the number of rows that match, and the distance of the best.
_Found = tuple[int, int, int]


def _same_pixels(made: Fingerprint, images: set[str]) -> dict[str, _Found]:
    column = made.table["pixels"].combine_chunks()
    flat, rows = pc.list_flatten(column), pc.list_parent_indices(column)
    hits = pc.is_in(flat, value_set=pa.array(map(bytes.fromhex, images), _PIXELS))
    found: dict[str, list[int]] = {}
    for image, row in zip(flat.filter(hits).to_pylist(), rows.filter(hits).to_pylist(), strict=True):
        found.setdefault(image.hex(), []).append(row)
    return {image: (rows[0], len(rows), 0) for image, rows in found.items()}


def _near(made: Fingerprint, images: set[str], perceptual: Mapping[str, int], radius: int) -> dict[str, _Found]:
    names = sorted(images)
    if lacking := [name for name in names if name not in perceptual]:
        raise UsageError("a test image has no perceptual hash", expected=f"{len(names)} images", got=lacking[0])
    tests = np.array([perceptual[name] for name in names], np.uint64)
    structured, visible = np.flatnonzero(tests != FLAT), np.flatnonzero(made.perceptual != FLAT)
    found: dict[str, list[tuple[int, int]]] = {}
    pairs = pairs_within(tests[structured], made.perceptual[visible], radius=radius)
    for i, j, distance in zip(*(values.tolist() for values in pairs), strict=True):
        found.setdefault(names[structured[i]], []).append((distance, int(visible[j])))
    return {name: (min(pairs)[1], len(pairs), min(pairs)[0]) for name, pairs in found.items()}


def _write(path: Path, table: pa.Table, header: Mapping[str, str]) -> None:
    with new_file(path) as part:
        pq.write_table(table.replace_schema_metadata({**header, "n": str(len(table))}), part, compression="zstd")


def _read(path: Path, schema: pa.Schema, kind: str, value: str) -> pa.Table:
    """The table of a file whose header says `kind: value` and how many rows it has."""
    try:
        file = pq.ParquetFile(path)
        header = {key.decode(): text.decode() for key, text in (file.schema_arrow.metadata or {}).items()}
        if file.metadata.num_rows > _MAX_ROWS:
            raise InputError(
                "too many rows", file=path, expected=f"at most {_MAX_ROWS}", got=str(file.metadata.num_rows)
            )
        table = file.read()
    except FileNotFoundError:
        raise MissingError("there is no such file", file=path) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"this is not a readable Parquet file: {error}", file=path) from None
    _check_table(path, table, schema, header, {kind: value, "n": str(len(table))})
    return table


def _check_table(
    path: Path, table: pa.Table, schema: pa.Schema, header: Mapping[str, str], expected: Mapping[str, str]
) -> None:
    problems = [
        Problem("wrong header", str(path), key, text, header.get(key, "nothing"))
        for key, text in expected.items()
        if header.get(key) != text
    ]
    if not table.schema.remove_metadata().equals(schema):
        problems.append(Problem("wrong columns", str(path), expected=_describe(schema), got=_describe(table.schema)))
    if any(table[name].null_count for name in table.column_names):
        problems.append(Problem("a column has nulls", str(path), expected="a value in every row"))
    if problems:
        raise InputError(problems)


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)
