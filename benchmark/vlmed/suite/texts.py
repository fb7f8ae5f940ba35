"""A column of texts that takes the memory of its bytes: a million Python texts take five times as much."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_TOGETHER = 2**13  # texts that are made at a time by whoever goes through all


class Texts(Sequence[str]):
    """N texts in an Arrow array, each made when it is asked for. Equal to any sequence of the same texts.

    >>> Texts.of(["b", "a"])[1], Texts.of(["b", "a"]) == ["b", "a"]
    ('a', True)
    """

    def __init__(self, array: pa.StringArray) -> None:
        """Takes an array of `pa.string()` without nulls."""
        self.array = array
        _, offsets, content = array.buffers()
        # One text by way of a pyarrow scalar takes eight times as long.
        self._content = memoryview(content or b"")
        self._offsets = memoryview(offsets).cast("i")[array.offset :] if len(array) else memoryview(b"")
        self._count = len(array)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """The same texts as a column."""
        return texts if isinstance(texts, Texts) else cls(pa.array(list(texts), pa.string()))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Texts: ...

    def __getitem__(self, index: int | slice) -> str | Texts:
        if isinstance(index, slice):
            return Texts(self.array.take(pa.array(np.arange(self._count)[index])))
        place = index + self._count if index < 0 else index
        if not 0 <= place < self._count:
            raise IndexError(index)
        return str(self._content[self._offsets[place] : self._offsets[place + 1]], "utf-8")

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _TOGETHER):
            yield from self.array[start : start + _TOGETHER].to_pylist()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Texts):
            return bool(self.array.equals(other.array))
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Texts({list(self[:3])}{f' and {len(self) - 3} more' if len(self) > 3 else ''})"

    def __reduce__(self) -> tuple[type[Texts], tuple[pa.StringArray]]:
        return Texts, (self.array,)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """For NumPy, whose own way asks for each text alone."""
        return np.array(self.array.to_pylist(), dtype)

    def numbers(self) -> NDArray[np.int64]:
        """Each text (N,) as its place among the different ones in sorted order, as `metrics.inputs.number_groups`."""
        folded = self.array.dictionary_encode()
        order = pc.sort_indices(folded.dictionary).to_numpy()
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order))
        numbers: NDArray[np.int64] = places[folded.indices.to_numpy()]
        return numbers

    def places(self, texts: Texts) -> NDArray[np.int64]:
        """For each of `texts` (M,) its place here, where no text may stand twice; -1 where it is not here."""
        if texts == self:
            return np.arange(len(self))
        found: NDArray[np.int64] = pc.index_in(texts.array, value_set=self.array).fill_null(-1).to_numpy()
        return found.astype(np.int64)
