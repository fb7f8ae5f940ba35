"""A published data set -> Arrow files that are decoded, hashed and checked once and memory-mapped ever after."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from vlmed.data.records import Record, Source
from vlmed.errors import InputError, MissingError, Problem, VlmedError
from vlmed.files import new_file
from vlmed.hashing import digest, pixel_hash
from vlmed.progress import Progress
from vlmed.suite.types import Dataset

_FORMAT = 1
_SHARD = 1000
_IMAGES = pa.schema([("key", pa.string()), ("image", pa.string()), ("bytes", pa.large_binary())])
_RECORDS = pa.schema([(name, pa.string()) for name in ("id", "image", "group", "split", "fields")])


@dataclass(frozen=True)
class PreparedDataset:
    """A data set's records and images in `folder`, memory-mapped. A record's `image` is its `pixel_hash`."""

    folder: Path

    @cached_property
    def records(self) -> list[Record]:
        """Every record, in the publisher's order."""
        rows = _open(self.folder / "records.arrow").to_pylist()
        return [Record(**(row | {"fields": json.loads(row["fields"])})) for row in rows]

    @cached_property
    def _shards(self) -> list[pa.Table]:
        return [_open(path) for path in sorted(self.folder.glob("images-*.arrow"))]

    @cached_property
    def _index(self) -> Mapping[str, tuple[int, int]]:
        return {
            image: (number, row)
            for number, shard in enumerate(self._shards)
            for row, image in enumerate(shard["image"].to_pylist())
        }

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Every image's pixel hash and its place among them, from 0."""
        return {image: place for place, image in enumerate(self._index)}

    def image(self, image: str) -> Image.Image:
        """The decoded image with this pixel hash, in its own mode and size.

        Raises:
            KeyError: There is no such image.
        """
        number, row = self._index[image]
        return decode(self._shards[number]["bytes"][row].as_py())

    def damaged_images(self) -> list[Problem]:
        """Images on disk whose pixels are no longer the ones that were hashed."""
        hint = "delete the folder and run `vlmed data prepare` again"
        return [
            Problem("a prepared image has changed", str(self.folder), image, image, got, hint)
            for image in self._index
            if (got := self._pixels_of(image)) != image
        ]

    def _pixels_of(self, image: str) -> str:
        try:
            return pixel_hash(self.image(image))
        except ValueError as error:
            return str(error)


def decode(data: bytes) -> Image.Image:
    """Decode an encoded image completely, so that a truncated file is found here and not later.

    Raises:
        ValueError: It is no image or is damaged.
    """
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable image: {error}") from None
    return image


def prepared_folder(dataset: Dataset, root: Path, cache: Path) -> Path:
    """Where the prepared form of a data set read from `root` lies."""
    key = digest([_FORMAT, dataset.source, dict(dataset.options), str(root.resolve())])
    return cache / "prepared" / f"{dataset.name}-{key[:12]}"


def prepare(dataset: Dataset, source: Source, folder: Path, progress: Progress) -> PreparedDataset:
    """Decode and hash every image of a data set into `folder`. A killed run goes on with the next thousand images.

    Raises:
        MissingError, InputError: From the source, or images are missing or unreadable; lists all of them.
        VlmedError: The disk is full.
    """
    if (folder / "records.arrow").exists():
        return PreparedDataset(folder)
    records = source.records()
    keys = list(dict.fromkeys(record.image for record in records))
    hashes: dict[str, str] = {}
    faults: list[VlmedError] = []
    with progress.task(f"preparing {dataset.name}", len(keys), "images") as advance:
        for number, start in enumerate(range(0, len(keys), _SHARD)):
            shard = keys[start : start + _SHARD]
            hashes |= _prepare_shard(source, shard, folder / f"images-{number:05d}.arrow", faults)
            advance(len(shard))
    if faults:
        raise _all_of(faults)
    _write(folder / "records.arrow", _RECORDS, [_record_row(record, hashes) for record in records])
    return PreparedDataset(folder)


def _prepare_shard(source: Source, keys: Sequence[str], path: Path, faults: list[VlmedError]) -> dict[str, str]:
    if path.exists() and (old := _open(path).select(["key", "image"]).to_pylist()):
        done = {row["key"]: row["image"] for row in old}
        if list(done) == list(keys):
            return done
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(lambda key: _read_image(source, key), keys))
    faults += [outcome for outcome in outcomes if isinstance(outcome, VlmedError)]
    rows = [outcome for outcome in outcomes if not isinstance(outcome, VlmedError)]
    if not faults:
        _write(path, _IMAGES, rows)
    return {row["key"]: row["image"] for row in rows}


def _read_image(source: Source, key: str) -> dict[str, Any] | VlmedError:
    try:
        data = source.image(key)
        return {"key": key, "image": pixel_hash(decode(data)), "bytes": data}
    except VlmedError as error:
        return error
    except ValueError as error:
        return InputError(str(error), file=key)


def _all_of(faults: Sequence[VlmedError]) -> VlmedError:
    kind = MissingError if all(isinstance(fault, MissingError) for fault in faults) else InputError
    return kind([problem for fault in faults for problem in fault.problems])


def _record_row(record: Record, hashes: Mapping[str, str]) -> dict[str, str]:
    fields = json.dumps(dict(record.fields), ensure_ascii=False)
    return {
        "id": record.id,
        "image": hashes[record.image],
        "group": record.group,
        "split": record.split,
        "fields": fields,
    }


def _write(path: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
    with new_file(path) as part, pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema))


def _open(path: Path) -> pa.Table:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except pa.ArrowInvalid as error:
        hint = "delete this file and run the same command again"
        raise InputError(f"a prepared file is damaged: {error}", file=path, hint=hint) from None
