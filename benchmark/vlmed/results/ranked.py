"""Prediction files of retrieval tasks: for each sample, what its image found among the captions and the reverse.

The gallery is the file itself: the images, or the captions, of all its rows, which validation proves to be the frozen
test set. A caption stands there as its salted digest, the one that the manifest holds. So equal captions are known and
proved without their text, and the file of a restricted data set may be published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from vlmed.metrics.retrieval import Ranked, Retrieved
from vlmed.results.columns import lists, numbers, parse_table, schema_of, stored_texts, texts, write_table

# Direction -> what its columns, and what its metrics' names in `scores`, begin with.
COLUMNS = {"image_to_text": "i2t_", "text_to_image": "t2i_"}
PREFIXES = {"image_to_text": "", "text_to_image": "text_to_image_"}

_LIST = pa.list_(pa.string())
_FOUND = {"rank": pa.int32(), "strict_rank": pa.int32(), "top": _LIST}
SCHEMA = schema_of(
    target=pa.string(),
    **{prefix + name: kind for prefix in COLUMNS.values() for name, kind in _FOUND.items()},
)


@dataclass(frozen=True, eq=False)
class Found:
    """What the queries of one direction found.

    Attributes:
        ranks: (N,) int64, >= 1, as in `metrics.retrieval.Retrieved`.
        strict_ranks: (N,) int64, likewise, with the query's own item alone relevant.
        top: N lists of the sample ids of the min(10, N) best items, best first, ties as there.
    """

    ranks: NDArray[np.int64]
    strict_ranks: NDArray[np.int64]
    top: Sequence[tuple[str, ...]]

    @classmethod
    def of(cls, retrieved: Retrieved, sample_ids: Sequence[str]) -> Found:
        """What `retrieve` found in a gallery whose rows are those of `sample_ids`."""
        top = [tuple(sample_ids[item] for item in row) for row in retrieved.top.tolist()]
        return cls(retrieved.ranks, retrieved.strict_ranks, top)


@dataclass(frozen=True, eq=False)
class RetrievalPredictions:
    """Ranks of one unit in both directions, in sample id order.

    Attributes:
        sample_ids: N ids, of queries and gallery alike.
        groups: N group names, by which intervals are drawn.
        targets: N keys of the captions: `hashing.target_digest(task.name, caption)`. Items are relevant to each other
            if their keys are equal.
        image_to_text: What each image found among the N captions; the task's metrics are about these.
        text_to_image: What each caption found among the N images.
    """

    sample_ids: Sequence[str]
    groups: Sequence[str]
    targets: Sequence[str]
    image_to_text: Found
    text_to_image: Found

    @property
    def directions(self) -> dict[str, Found]:
        """Direction -> what was found."""
        return {"image_to_text": self.image_to_text, "text_to_image": self.text_to_image}

    def samples(self, rows: ArrayLike) -> dict[str, Ranked]:
        """As `predictions.Predictions` says; names of metrics of text to image begin with `text_to_image_`.

        Raises:
            InputError: A rank is below 1, or a strict one below the rank; names the row.
        """
        chosen = np.asarray(rows)
        return {
            PREFIXES[direction]: Ranked(found.ranks[chosen], found.strict_ranks[chosen])
            for direction, found in self.directions.items()
        }

    def claims(self, rows: ArrayLike) -> list[Any]:
        """The claimed keys of `rows`, as JSON."""
        return [self.targets[row] for row in np.arange(len(self.targets))[np.asarray(rows)]]


def write_ranked(path: Path, predictions: RetrievalPredictions) -> None:
    """As `predictions.write_predictions`."""
    columns = [texts(predictions.sample_ids), texts(predictions.groups), texts(predictions.targets)]
    for found in predictions.directions.values():
        columns += [
            pa.array(found.ranks, pa.int32()),
            pa.array(found.strict_ranks, pa.int32()),
            pa.array(found.top, _LIST),
        ]
    write_table(path, columns, SCHEMA)


def parse_ranked(content: bytes, path: Path, most_rows: int | None = None) -> RetrievalPredictions:
    """As `predictions.parse_predictions`."""
    table = parse_table(content, path, SCHEMA, most_rows)
    return RetrievalPredictions(
        sample_ids=stored_texts(table, "sample_id"),
        groups=stored_texts(table, "group"),
        targets=table["target"].to_pylist(),
        image_to_text=_found(table, COLUMNS["image_to_text"], path),
        text_to_image=_found(table, COLUMNS["text_to_image"], path),
    )


def _found(table: pa.Table, prefix: str, path: Path) -> Found:
    ranks, strict_ranks = (numbers(table, prefix + name) for name in ("rank", "strict_rank"))
    return Found(ranks, strict_ranks, lists(table, f"{prefix}top", path))
