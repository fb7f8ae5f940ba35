"""What every source of a data set delivers, before any task has looked at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Record:
    """One published row.

    Attributes:
        id: Unique in the data set and stable across releases of vlmed.
        image: The source's key of the row's image; several rows may share one.
        group: The coarsest published identity (patient, lesion, slide, case, article); the image key if none is.
        split: The publisher's split, `train`, `val` or `test`; empty where there is none.
        fields: The published columns as stripped text, under lower-case names (`label`, `question`, `answer`, `sex`).
    """

    id: str
    image: str
    group: str
    split: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


class Source(Protocol):
    """Reads one family of data sets in the layout in which it was published.

    A source is built with `options`, the data set's own block of `tasks.yaml`, and `root`, the folder that holds it.
    """

    def __init__(self, options: Mapping[str, Any], root: Path) -> None: ...

    def records(self) -> list[Record]:
        """Every row, in the publisher's order; reads no pixels.

        Raises:
            MissingError: A file is not there; says where to get it and which licence step it takes.
            InputError: A file is damaged; lists every fault with file and row.
        """
        ...

    def image(self, key: str) -> bytes:
        """The encoded image file (PNG, JPEG, TIFF) of a key; arrays are encoded as PNG.

        Raises:
            MissingError: The image file is not there.
            InputError: It can't be read.
        """
        ...
