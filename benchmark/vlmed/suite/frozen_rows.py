"""The rows of a manifest, held as columns: a million rows as Python objects take ten times the memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlmed.suite.texts import Texts

_TOGETHER = 2**13  # rows that are made at a time by whoever goes through all


@dataclass(frozen=True, slots=True)
class Row:
    """One sample of a manifest.

    Attributes:
        sample_id: The record's id.
        split: `train`, `val` or `test`.
        image: `vlmed.hashing.pixel_hash` of its image; empty where only ids could be frozen.
        group: The coarsest published identity.
        target: `vlmed.hashing.target_digest`, salted with the task's name.
        subgroups: `field=value` pairs joined by `;`.
        leaks: Kinds of confirmed leak that this test sample has, joined by `;`. Empty means clean.
    """

    sample_id: str
    split: str
    image: str
    group: str
    target: str
    subgroups: str = ""
    leaks: str = ""


COLUMNS = tuple(field.name for field in fields(Row))
_FOLDED = pa.dictionary(pa.int32(), pa.string())
# The same few texts stand in many rows of these columns.
SCHEMA = pa.schema(
    [(name, _FOLDED if name in ("split", "target", "subgroups", "leaks") else pa.string()) for name in COLUMNS]
)


class Rows(Sequence[Row]):
    """N rows, each made when it is asked for."""

    def __init__(self, table: pa.Table) -> None:
        """Takes a table of `SCHEMA` without nulls."""
        self._table = table.unify_dictionaries().combine_chunks()

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Rows:
        """The same rows as columns."""
        if isinstance(rows, Rows):
            return rows
        listed = list(rows)
        columns = [pa.array([getattr(row, field.name) for row in listed], field.type) for field in SCHEMA]
        return cls(pa.table(columns, SCHEMA))

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> Rows: ...

    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            return Rows(self._table.take(pa.array(np.arange(len(self))[index])))
        return Row(*(column[index].as_py() for column in self._table.columns))

    def __iter__(self) -> Iterator[Row]:
        for batch in self._table.to_batches(_TOGETHER):
            yield from map(Row, *(column.to_numpy(zero_copy_only=False).tolist() for column in batch.columns))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def by_id(self) -> Rows:
        """The same rows, sorted by id."""
        return Rows(self._table.take(pc.sort_indices(self._table["sample_id"])))

    def of_split(self, name: str) -> Rows:
        """The rows of one split, in their order."""
        return Rows(self._table.filter(pc.equal(self._table["split"], name)))

    def texts(self, column: str) -> Texts:
        """A column."""
        return Texts(self._table[column].cast(pa.string()).combine_chunks())

    def folded(self, column: str) -> tuple[list[str], NDArray[np.int64]]:
        """The different texts of a column, K of them, and for each row (N,) which it is."""
        chunk = self._table[column].combine_chunks()
        folded = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
        return folded.dictionary.to_pylist(), folded.indices.to_numpy().astype(np.int64)


class Keyed(Mapping[str, Row]):
    """Rows keyed by sample id, of which each stands once. Meant for a few look-ups, or for whole columns.

    Attributes:
        rows: In the order of their ids.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    @classmethod
    def of(cls, rows: Mapping[str, Row]) -> Keyed:
        """The same rows as columns, sorted."""
        return rows if isinstance(rows, Keyed) else cls(Rows.of(rows.values()).by_id())

    @cached_property
    def ids(self) -> Texts:
        """The sample ids."""
        return self.rows.texts("sample_id")

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {name: place for place, name in enumerate(self.ids)}

    def __getitem__(self, name: str) -> Row:
        return self.rows[self._places[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.rows)

    def folded(self, column: str, names: Texts) -> tuple[list[str], NDArray[np.int64]]:
        """The different texts of a column, the empty one first, and which the rows of `names` (M,) hold.

        What has no row holds the empty text.
        """
        known, numbers = self.rows.folded(column)
        places = self.ids.places(names)
        found = np.zeros(len(places), np.int64)
        found[places >= 0] = numbers[places[places >= 0]] + 1
        return ["", *known], found
