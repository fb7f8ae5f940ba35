"""PathVQA as the Hub data set flaviagiammarino/path-vqa publishes it: parquet shards with the images inside."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vlmed.data.records import Record
from vlmed.data.tables import check_columns, refuse
from vlmed.errors import InputError, MissingError, Problem

# Ids are row numbers, so they mean this revision only.
REVISION = "1685832883334b5bb5beaf4e4b333fdeecaa4ad9"
HINT = (
    "run `huggingface-cli download --repo-type dataset flaviagiammarino/path-vqa --revision "
    f"{REVISION} --include 'data/*.parquet' --local-dir` with this folder (open; the rights in the images stay "
    "with the publishers of two textbooks and the PEIR library)"
)
_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?\.parquet")
_COLUMNS = ("image", "question", "answer")
# Rows turned into Python objects at a time. Parquet itself holds a page, which may be a whole row group of images.
_BATCH = 64

# A row as it stands in its shard: number, encoded image, question, answer; None where the cell is null.
_Cells = tuple[int, bytes | None, str | None, str | None]


class PathVqaSource:
    """Questions on pathology images; the group is the image.

    Nothing published names rows or images. So a row's id is its split and its number over the split's shards, and
    an image's key is the first 128 bits of SHA-256 over its encoded bytes: rows that show the same file share it.
    `answer_type` is not published either and is derived: CLOSED where the answer is yes or no, else OPEN.
    """

    def __init__(self, options: Mapping[str, Any], root: Path) -> None:
        del options
        self._root = root
        # Readers go through the keys in order, several at a time: two row groups serve them all.
        self._row_group = lru_cache(maxsize=2)(_row_group)
        self._lock = Lock()

    def records(self) -> list[Record]:
        """One record per question: train, val, test; raises as `Source.records` says.

        Streams through all shards to hash the encoded images and decodes none of them.
        """
        return list(self._index[0])

    def image(self, key: str) -> bytes:
        """The encoded image of a key; raises as `Source.image` says.

        May be called from several threads. Keeps two row groups in memory, so that keys in the publisher's order
        cost one pass over the shards.
        """
        places = self._index[1]
        if key not in places:
            raise MissingError(f"no row shows the image {key!r}", file=self._root, hint=HINT)
        path, number = places[key]
        with self._lock:
            content = self._content(path, number)
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
        # Which exception damaged bytes cause depends on PIL's plugin.
        except Exception as error:
            got = f"{len(content)} bytes"
            raise InputError(
                "the image can't be decoded", file=path, path=f"row {number}", got=got, hint=HINT
            ) from error
        return content

    @cached_property
    def _index(self) -> tuple[list[Record], dict[str, tuple[Path, int]]]:
        """All records, and where each image key stands first: shard and row."""
        records: list[Record] = []
        places: dict[str, tuple[Path, int]] = {}
        problems: list[Problem] = []
        for split, shards in _all_shards(self._root).items():
            start = len(records)
            for path, (number, content, question, answer) in _rows(shards):
                if content is None or not question or answer is None:
                    problems.append(_fault(path, number, content, question))
                    continue
                key = hashlib.sha256(content).hexdigest()[:32]
                places.setdefault(key, (path, number))
                sample_id = f"pathvqa-{split}-{len(records) - start:05d}"
                records.append(Record(sample_id, key, key, split, _fields(question, answer)))
        refuse(problems)
        return records, places

    def _content(self, path: Path, number: int) -> bytes:
        """The encoded image in a row of a shard."""
        group = 0
        with _opened(path) as file:
            while number >= (size := file.metadata.row_group(group).num_rows):
                number -= size
                group += 1
        content: bytes = self._row_group(path, group)[number]["bytes"].as_py()
        return content


def _row_group(path: Path, group: int) -> pa.ChunkedArray:
    with _opened(path) as file:
        return file.read_row_group(group, columns=["image"]).column("image")


def _all_shards(root: Path) -> dict[str, list[Path]]:
    """Split -> its shards in order; refuses a set that is not whole, since row numbers would shift."""
    # A snapshot of the Hub repository keeps them in `data`; a download may lay them out flat.
    folder = root / "data" if (root / "data").is_dir() else root
    shards = {split: sorted(folder.glob(f"{name}-*.parquet")) for split, name in _SPLITS.items()}
    problems = [problem for split, paths in shards.items() for problem in _gaps(folder, _SPLITS[split], paths)]
    if problems:
        raise MissingError(problems)
    return shards


def _gaps(folder: Path, name: str, paths: list[Path]) -> list[Problem]:
    numbered = [match for path in paths if (match := _SHARD.search(path.name))]
    found = [int(match[1]) for match in numbered]
    count = max((int(match[2]) for match in numbered), default=1)
    if found == list(range(count)) and len(paths) == count:
        return []
    wanted = f"{name}-00000-of-{count:05d}*.parquet" + (
        f" to {name}-{count - 1:05d}-of-{count:05d}*" if count > 1 else ""
    )
    got = ", ".join(path.name for path in paths) or "none"
    return [
        Problem(f"the {name} shards are not whole", str(folder), expected=f"each once: {wanted}", got=got, hint=HINT)
    ]


def _rows(shards: list[Path]) -> Iterator[tuple[Path, _Cells]]:
    for path in shards:
        with _opened(path) as file:
            _check_schema(path, file.schema_arrow)
            try:
                for number, cells in enumerate(_cells(file)):
                    yield path, (number, *cells)
            except (pa.ArrowException, OSError) as error:
                raise InputError("the shard is damaged", file=path, got=str(error), hint=HINT) from error


def _check_schema(path: Path, schema: pa.Schema) -> None:
    check_columns(schema.names, _COLUMNS, path, HINT)
    kind = schema.field("image").type
    if not pa.types.is_struct(kind):
        wanted = "a struct of bytes and path"
        raise InputError("column 'image' has another type", file=path, expected=wanted, got=str(kind), hint=HINT)


def _cells(file: pq.ParquetFile) -> Iterator[tuple[bytes | None, str | None, str | None]]:
    for batch in file.iter_batches(_BATCH, columns=list(_COLUMNS)):
        for row in batch.to_pylist():
            yield (row["image"] or {}).get("bytes"), row["question"], row["answer"]


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError("the shard is no parquet file or cut off", file=path, got=str(error), hint=HINT) from error


def _fault(path: Path, number: int, content: bytes | None, question: str | None) -> Problem:
    what = "the image" if content is None else "the question" if not question else "the answer"
    return Problem(f"{what} is missing", str(path), f"row {number}", hint=HINT)


def _fields(question: str, answer: str) -> dict[str, str]:
    kind = "CLOSED" if answer.strip().lower() in ("yes", "no") else "OPEN"
    return {"question": question.strip(), "answer": answer.strip(), "answer_type": kind}
